"""Item vectors: co-occurrence against counts by hand, and what is read and what is not."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from minirec.data.dataset import Catalogue, Dataset
from minirec.data.vectors import SIDE, WIDTH, WINDOW, _ppmi, cooccurrence_vectors, item_vectors
from tests.small import examples


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_ppmi_by_hand() -> None:
    # One sequence, 0 1 2: pairs (0, 1) and (1, 2) weigh 1, (0, 2) weighs 1/2, both ways; 5 in all.
    matrix = _ppmi(examples([[0, 1, 2]]), 4).to_dense()
    near, far = math.log(1 * 5 / (1.5 * 2)), math.log(0.5 * 5 / (1.5 * 1.5))
    expected = [[0, near, far, 0], [near, 0, near, 0], [far, near, 0, 0], [0, 0, 0, 0]]
    assert matrix.flatten().tolist() == pytest.approx([x for row in expected for x in row])


@given(st.lists(st.lists(st.integers(0, 4), max_size=9), min_size=1, max_size=6))
def test_ppmi_against_a_literal_count(log: list[list[int]]) -> None:
    counts = torch.zeros(5, 5, dtype=torch.float64)
    for sequence in log:
        for i, j in product(range(len(sequence)), repeat=2):
            if 0 < abs(i - j) <= WINDOW:
                counts[sequence[i], sequence[j]] += 1 / abs(i - j)
    margin = counts.sum(0)
    matrix = _ppmi(examples(log), 5).to_dense()
    for i, j in product(range(5), repeat=2):
        chance = margin[i] * margin[j] / margin.sum()
        expected = math.log(counts[i, j] / chance) if i != j and counts[i, j] > chance else 0.0
        assert matrix[i, j].item() == pytest.approx(expected, abs=1e-12)  # float64 sums in another order


def test_items_found_together_lie_together() -> None:
    generator = torch.Generator().manual_seed(0)
    sequences = [
        (group + 3 * torch.randint(4, (8,), generator=generator)).tolist() for group in [0, 1, 2] * 20
    ]
    vectors = cooccurrence_vectors(examples(sequences), 14, 3, seed=0)  # items 12 and 13 have no events
    assert vectors.shape == (14, 3)
    assert vectors.dtype == torch.float32
    assert vectors[12:].abs().max() == 0
    wide = cooccurrence_vectors(examples(sequences), 14, 14, seed=0)  # more columns than the rank
    assert wide[12:].abs().max() == 0
    # unit rows, up to the rounding of float32
    assert torch.allclose(vectors[:12].norm(dim=1), torch.ones(12), atol=1e-6)
    alike = vectors[:12] @ vectors[:12].T
    same = (torch.arange(12)[:, None] - torch.arange(12)) % 3 == 0
    assert alike[same].min() > alike[~same].max() + 0.5


def test_vectors_of_few_items_are_filled_with_zeros() -> None:
    vectors = cooccurrence_vectors(examples([[0, 1, 2]]), 3, 8, seed=0)
    assert vectors.shape == (3, 8)
    assert vectors[:, 3:].abs().max() == 0


def test_vectors_are_deterministic_and_leave_the_global_generator_alone() -> None:
    train = examples(torch.randint(30, (40, 6), generator=torch.Generator().manual_seed(0)).tolist())
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = cooccurrence_vectors(train, 30, 4, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(cooccurrence_vectors(train, 30, 4, seed=5), first)


def dataset(later: tuple[int, int] = (0, 0), features: Tensor | None = None, law=None) -> Dataset:
    """Twelve items; each sequence's last two events are the validation and the test target."""
    rows = torch.randint(12, (30, 6), generator=torch.Generator().manual_seed(0)).tolist()
    log = [[*row, *later] for row in rows]
    held = torch.tensor(later)
    valid, test = (
        replace(examples(log, keep_out=n), targets=held[-n].expand(len(log), 1).clone()) for n in (2, 1)
    )
    catalogue = Catalogue([str(i) for i in range(12)], features=features)
    return Dataset(
        catalogue,
        [str(i) for i in range(30)],
        examples(log, keep_out=2),
        valid,
        test,
        world=SimpleNamespace(law=law) if law else None,
    )


@pytest.mark.parametrize("features", [None, normal(12, 4)])
def test_vectors_read_training_events_only(features: Tensor | None) -> None:
    one, other = (item_vectors(dataset(later, features), seed=0) for later in ((1, 2), (7, 3)))
    assert torch.equal(one, other)


def test_side_information_stands_beside_cooccurrence() -> None:
    alone = item_vectors(dataset(), seed=0)
    assert alone.shape == (12, WIDTH)
    features = normal(12, 4)
    both = item_vectors(dataset(features=features), seed=0)
    assert both.shape == (12, 4 + WIDTH)
    for block, size in ((both[:, :4], SIDE), (both[:, 4:], 1)):
        assert block.square().sum(1).mean() == pytest.approx(size**2, abs=1e-6)  # float32
    ratio = both[:, :4] / features
    assert torch.allclose(ratio, ratio[0, 0].expand_as(ratio))  # narrow features are only scaled


def test_wide_side_information_is_reduced_but_keeps_its_geometry() -> None:
    features = normal(12, 100)
    block = item_vectors(dataset(features=features), seed=0)[:, :WIDTH]
    gram = features @ features.T
    # rank 12 fits into WIDTH columns, so inner products survive up to one factor and float32's rounding
    assert torch.allclose(block @ block.T, gram / gram.trace() * 12 * SIDE**2, atol=1e-4)


def test_a_simulated_world_is_coded_by_its_features() -> None:
    features = normal(12, 4)
    assert item_vectors(dataset(features=features, law=lambda batch: None), seed=0) is features
