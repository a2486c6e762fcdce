"""How good a ranker is said to be, where the answer is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from minirec.data.dataset import leave_fresh
from minirec.data.world import World, make_world
from minirec.measure.rankings import describe_ranker, hr10, ordered
from minirec.models.ranker import LogRanker, designed, trained_on_exposures
from minirec.records import Batch
from minirec.settings import Config
from tests.small import examples, log, random_log
from tutorials.strata import stratify

ITEMS, HISTORY = 30, 4


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(Config(world_items=512, world_users=1000, seed=3))


def test_order_of_pairs_is_1_for_the_truth_and_0_for_its_reverse(world: World) -> None:
    asked = examples([[]] * 20).batch(torch.arange(20), HISTORY)  # of users 0 to 19
    tail = world.tail_user[:20]
    # float32 makes a few pairs of 32,640 equal, and equal ones count a half
    assert (ordered(designed(world, "right"), world, asked) > 0.9999).all()
    harmful = ordered(designed(world, "harmful"), world, asked)
    assert (harmful[tail] < 0.0001).all()
    assert (harmful[~tail] > 0.9999).all()
    constant = ordered(lambda batch, items: torch.ones(items.shape), world, asked)
    assert (constant == 0.5).all()


def test_hr10_leaves_out_the_past_on_real_data_only() -> None:
    dataset = log([[0, 1, 2, 3, 2], [4, 5, 6, 7, 20]], keep_out=1)

    def by_number(asked: Batch, items: Tensor) -> Tensor:
        return 1 - (1 + items) / 100

    assert hr10(by_number, dataset, dataset.valid, HISTORY) == 0.0  # 2 was seen, 20 is not among the first
    dataset = log([[0, 1, 2, 3, 13], [4, 5, 6, 7, 14]], keep_out=1)
    assert hr10(by_number, dataset, dataset.valid, HISTORY) == 0.5  # 4 to 13 are the first ten left


def test_a_ranker_is_described_beside_popularity_by_group(world: World) -> None:
    lines = describe_ranker(trained_on_exposures(world, 50_000, 0), world.dataset(), 6, world)
    assert [line.split(":")[0] for line in lines] == [
        "ranker, all",
        "ranker, users of A",
        "ranker, users of B",
    ]
    assert all("popularity 0." in line and "true order 0." in line for line in lines)
    dataset = log(random_log(40, 6, torch.ones(ITEMS)), keep_out=1)
    train, fresh = leave_fresh(dataset.train, 0.25, seed=0)
    lines = describe_ranker(LogRanker(ITEMS, HISTORY), replace(dataset, train=train, fresh=fresh), HISTORY)
    assert [line.split(":")[0] for line in lines] == ["ranker, all", "ranker, users left to RL"]
    assert lines[1].endswith("10 validation contexts")


@given(st.lists(st.tuples(*[st.integers(1, 9)] * 3), max_size=20), st.integers(1, 4))
def test_strata_are_the_mean_gains_of_their_cells(contexts: list[tuple[int, int, int]], bins: int) -> None:
    group = 8  # ranks go up to 9
    table = torch.tensor(contexts, dtype=torch.int64).view(-1, 3)
    mean, count = stratify(table[:, 0] / group, table[:, 1] / group, table[:, 0] - table[:, 2], bins)

    def cell(place: int) -> int:
        return next((i for i in range(bins) if place * bins <= group * (i + 1)), bins - 1)

    for row in range(bins):
        for column in range(bins):
            own = [a - c for a, b, c in contexts if (cell(a), cell(b)) == (row, column)]
            assert count[row, column] == len(own)
            if own:
                assert mean[row, column].item() == pytest.approx(sum(own) / len(own), rel=1e-12)
            else:
                assert mean[row, column].isnan()
