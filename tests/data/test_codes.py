"""Item vectors, residual k-means, and the rule that no two items share a code tuple."""

from __future__ import annotations

import json
import math
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from minirec.data import codes
from minirec.errors import InputError


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def grouped(groups: int, each: int, seed: int = 0) -> Tensor:
    """Two planted clusters per group: (groups * each, 8), groups 20 apart, halves 4 apart, noise 0.01."""
    group, half = torch.arange(groups * each) // each, torch.arange(groups * each) % 2
    vectors = 0.01 * normal(groups * each, 8, seed=seed)
    vectors[:, 0] += 20 * group
    vectors[:, 1] += 4 * half
    return vectors


def error(vector: Tensor, tuple_: tuple[int, ...], centroids: Tensor) -> float:
    """Squared distance to the sum of a tuple's centroids."""
    total = sum(centroids[level, code].double() for level, code in enumerate(tuple_))
    return float((vector.double() - total).square().sum())


@st.composite
def spaces(draw: st.DrawFn) -> tuple[Tensor, int, int]:
    """Vectors with duplicates, constant ones among them, for a space that they may fill to the last tuple."""
    levels, size = draw(st.sampled_from([(1, 5), (2, 1), (2, 3), (2, 5), (3, 2), (3, 3), (4, 2)]))
    items = draw(st.integers(1, size**levels))
    distinct = draw(st.integers(1, items))
    scale = draw(st.sampled_from([0.0, 1.0, 1e4]))
    seed = draw(st.integers(0, 99))
    rows = torch.randint(distinct, (items,), generator=torch.Generator().manual_seed(seed))
    return scale * normal(distinct, 3, seed=seed)[rows], levels, size


# --- one tuple, one item ----------------------------------------------------------------------------------


@given(spaces())
def test_every_item_gets_a_tuple_of_its_own(space: tuple[Tensor, int, int]) -> None:
    vectors, levels, size = space
    fitted = codes.fit(vectors, levels, size, seed=1)
    assert fitted.codes.shape == (len(vectors), levels)
    assert len({tuple(row) for row in fitted.codes.tolist()}) == len(vectors)
    assert fitted.codes.min() >= 0
    assert fitted.codes.max() < fitted.size


@given(spaces())
def test_same_seed_same_codes(space: tuple[Tensor, int, int]) -> None:
    first = codes.fit(*space, seed=3)
    torch.rand(1)  # the global generator is not read
    second = codes.fit(*space, seed=3)
    assert torch.equal(first.codes, second.codes)
    assert torch.equal(first.centroids, second.centroids)


@given(
    st.integers(0, 10_000),
    st.integers(2, 27),
    st.sampled_from([(2, 6), (3, 3)]),
    st.booleans(),
    st.booleans(),
)
def test_repair_is_the_written_greedy_rule(
    seed: int, items: int, space: tuple[int, int], duplicates: bool, elsewhere: bool
) -> None:
    # With centroids of falling scale, most of a small space's items collide.
    levels, size = space
    centroids = normal(levels, size, 2, seed=seed) * torch.tensor([4.0, 2.0, 1.0])[:levels, None, None]
    vectors = 2 * normal(items, 2, seed=seed + 1)
    if duplicates:
        vectors = vectors[torch.arange(items) % (items // 2)]
    every = list(product(range(size), repeat=levels))
    taken: set[tuple[int, ...]] = set()

    def has_room(prefix: tuple[int, ...]) -> bool:
        return any(t[: len(prefix)] == prefix and t not in taken for t in every)

    def nearest(vector: Tensor, prefix: tuple[int, ...], free_only: bool) -> tuple[int, ...]:
        while len(prefix) < levels:
            options = [(*prefix, code) for code in range(size)]
            options = [o for o in options if not free_only or has_room(o)]
            prefix = min(options, key=lambda o: error(vector, o, centroids))
        return prefix

    own = [nearest(v, (), free_only=False) for v in vectors]
    if elsewhere:  # codes that somebody else chose: none need be the nearest
        own = [every[(7 * i * i + seed) % len(every)] for i in range(items)]
    order = sorted(range(items), key=lambda i: (error(vectors[i], own[i], centroids), i))
    settled = codes._settle(vectors, centroids, torch.tensor(own), order)
    result: dict[int, tuple[int, ...]] = {}
    for i in order:
        if own[i] not in taken:
            taken.add(own[i])
            result[i] = own[i]
    for i in order:
        if i not in result:
            keep = max(n for n in range(levels) if has_room(own[i][:n]))
            result[i] = nearest(vectors[i], own[i][:keep], free_only=True)
            taken.add(result[i])
    assert settled.codes.tolist() == [list(result[i]) for i in range(items)]
    assert settled.moved == sum(result[i] != own[i] for i in range(items))


def test_a_move_is_the_smallest_to_a_free_last_code() -> None:
    vectors = grouped(groups=4, each=3)  # 12 items for 4 × 4 tuples: last codes stay free
    chosen = torch.randint(4, (12, 2), generator=torch.Generator().manual_seed(0))
    fitted = codes.fit(vectors, 2, 4, 0, chosen)
    moved = (fitted.codes != chosen).any(1)
    assert moved.sum() == fitted.moved > 0
    tuples = [tuple(row) for row in fitted.codes.tolist()]
    for vector, own in zip(vectors[moved], fitted.codes[moved].tolist(), strict=True):
        free = [(own[0], code) for code in range(4) if (own[0], code) not in tuples]
        assert free
        assert all(error(vector, own, fitted.centroids) <= error(vector, t, fitted.centroids) for t in free)


def test_what_is_left_over_is_grouped_by_its_direction() -> None:
    # Four groups of four items, each north, east, south or west of the middle; how far depends on the group.
    ways = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, -1.0], [-1.0, 0.0]])
    middle, far = torch.tensor([[0.0, 0.0], [99.0, 0.0], [0.0, 99.0], [99.0, 99.0]]), [0.1, 1.0, 2.0, 4.0]
    vectors = torch.cat([point + size * ways for point, size in zip(middle, far, strict=True)])
    fitted = codes.fit(vectors, 2, 4, seed=0)
    assert fitted.moved == 0  # by distance, the four of the first group would share a code
    assert (fitted.codes[:, 1].view(4, 4) == fitted.codes[:4, 1]).all()


def test_the_nearest_of_a_collision_stays() -> None:
    centroids = torch.tensor([[[0.0], [10.0]], [[0.0], [1.0]]])
    vectors = torch.tensor([[0.2], [0.1], [10.0]])  # items 0 and 1 both want the tuple (0, 0)
    settled = codes._settle(vectors, centroids, torch.tensor([[0, 0], [0, 0], [1, 0]]), [1, 0, 2])
    assert settled.codes.tolist() == [[0, 1], [0, 0], [1, 0]]
    assert settled.moved == 1


def test_too_many_items_names_the_size_that_fits() -> None:
    with pytest.raises(
        InputError, match=r"28 items do not fit into 3 levels of 3 codes .27 tuples.*--codes 4$"
    ):
        codes.fit(normal(28, 2), 3, 3, seed=0)
    with pytest.raises(InputError, match=r"--codes 11$"):
        codes.fit(normal(121, 2), 2, 10, seed=0)
    assert len(codes.fit(normal(121, 2), 2, 11, seed=0).codes) == 121


def test_broken_vectors_are_refused() -> None:
    broken = normal(4, 2)
    broken[2, 1] = math.nan
    with pytest.raises(InputError, match="row 2 is not finite"):
        codes.fit(broken, 2, 4, seed=0)


def test_codes_refuse_two_items_with_one_tuple() -> None:
    with pytest.raises(ValueError, match="share a code tuple"):
        codes.Codes(torch.zeros(2, 2, dtype=torch.int64), 3, torch.zeros(2, 3, 1), 0)


def test_one_level_is_the_item_itself() -> None:
    vectors = normal(7, 3)
    fitted = codes.fit(vectors, 1, 256, seed=0)
    assert fitted.codes.tolist() == [[i] for i in range(7)]
    assert fitted.size == 7
    assert torch.equal(fitted.centroids, vectors[None])
    assert codes.usage(fitted, vectors)[0]["residual"] == 0


# --- codes made elsewhere ---------------------------------------------------------------------------------


def test_words_are_numbered_by_level_by_length_and_letters(tmp_path) -> None:
    """As MiniOneRec's .index.json; numbers may leave gaps, and item 7 is not in the log."""
    words = {"5": ["<a_102>", "<b_3>"], "6": ["<a_9>", "<b_30>"], "7": ["<a_102>", "<b_02>"]}
    (tmp_path / "x.index.json").write_text(json.dumps(words))
    assert codes.read(tmp_path / "x.index.json") == {"5": [1, 0], "6": [0, 2], "7": [1, 1]}
    (tmp_path / "x.json").write_text(json.dumps({"a": [256, 517], "b": [300, 512], "c": [9, 512]}))
    assert codes.read(tmp_path / "x.json") == {"a": [1, 1], "b": [2, 0], "c": [0, 0]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"a": [1, 2], "b": [3, 4], "c": [1]}',
            "'b' has 2, 'c' has 1; expected equally many codes for each item, one or more$",
        ),
        ('{"a": []}', "x.json: 'a' has 0; expected"),
        ("{}", "x.json: it is empty; expected"),
        ('{"a": "<a_1><b_2>"}', "x.json, item 'a': expected a list of words or numbers$"),
        ('{"a": [[1]]}', "x.json, item 'a': expected a list of words or numbers$"),
        ("[[1, 2]]", "x.json, line 1: expected an object of item to list, got list$"),
        ('{"a": [1', "x.json: Expecting ',' delimiter.*expected json, an object of item to list$"),
    ],
)
def test_a_broken_file_of_codes_is_one_line(tmp_path, text: str, message: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=message):
        codes.read(tmp_path / "x.json")


def test_codes_that_fit_are_kept_and_their_centroids_are_means_of_residuals() -> None:
    vectors = torch.tensor([[0.0, 0.0], [2.0, 0.0], [10.0, 4.0], [10.0, 8.0]])
    chosen = torch.tensor([[2, 0], [2, 1], [0, 0], [0, 1]])
    adopted = codes.fit(vectors, 2, 3, 0, chosen)
    assert torch.equal(adopted.codes, chosen)
    assert adopted.moved == 0
    assert adopted.centroids[0].tolist() == [[10, 6], [0, 0], [1, 0]]  # code 1 is nobody's
    assert adopted.centroids[1].tolist() == [[-0.5, -1], [0.5, 1], [0, 0]]


def test_our_own_codes_are_adopted_as_they_are() -> None:
    vectors = grouped(groups=8, each=10)
    fitted = codes.fit(vectors, 3, 16, seed=0)
    assert torch.equal(codes.fit(vectors, 3, 16, 0, fitted.codes).codes, fitted.codes)


def test_a_collision_of_codes_made_elsewhere_changes_as_late_a_code_as_it_can() -> None:
    vectors = torch.tensor([[0.0], [0.1], [0.2], [9.0]])
    adopted = codes.fit(vectors, 2, 3, 0, torch.tensor([[1, 0], [1, 0], [1, 1], [0, 0]]))
    assert adopted.moved == 1
    assert adopted.codes[:, 0].tolist() == [1, 1, 1, 0]  # although a first code elsewhere may be nearer
    with pytest.raises(InputError, match=r"4 items do not fit into 2 levels of 1 codes.*--codes 2$"):
        codes.fit(vectors, 2, 1, 0, torch.zeros(4, 2, dtype=torch.int64))


# --- k-means ----------------------------------------------------------------------------------------------


def test_planted_clusters_are_recovered() -> None:
    vectors = grouped(groups=8, each=10)
    fitted = codes.fit(vectors, 3, 16, seed=0)
    planted = torch.arange(80) // 10 * 2 + torch.arange(80) % 2  # 16 clusters
    pairs = torch.stack([planted, fitted.codes[:, 0]], 1).unique(dim=0)
    assert len(pairs) == 16  # one code per cluster, one cluster per code


def test_kmeans_ends_where_every_centroid_is_the_mean_of_its_points() -> None:
    points = normal(300, 4)
    centroids = codes._kmeans(points, 8, torch.Generator().manual_seed(0))
    distance = torch.cdist(points.double(), centroids.double())
    assert torch.equal(codes._nearest(points, centroids), distance.argmin(1))
    means = torch.stack([points[distance.argmin(1) == code].double().mean(0) for code in range(8)])
    # centroids are float32 roundings of float64 means of numbers below 10
    assert torch.allclose(means, centroids.double(), atol=1e-6)


def test_an_empty_cluster_takes_the_farthest_point(monkeypatch: pytest.MonkeyPatch) -> None:
    points = torch.tensor([[0.0], [0.2], [1.0], [9.0]])
    monkeypatch.setattr(codes, "_spread_out", lambda *_: torch.tensor([[0.1], [0.1], [1.0]]))
    centroids = codes._kmeans(points, 3, torch.Generator())
    # the second start gets no point; 9 is the farthest, from 1
    assert centroids[:, 0].tolist() == pytest.approx([0.1, 9.0, 1.0])


@given(st.integers(0, 99))
def test_each_level_leaves_less_over(seed: int) -> None:
    vectors = normal(60, 6, seed=seed)
    fitted = codes.fit(vectors, 3, 8, seed=seed)
    rows = codes.usage(fitted, vectors)
    residual = [1.0] + [row["residual"] for row in rows]
    # a repaired last code may leave more over than the level before; the levels before are k-means' own
    assert residual[2] < residual[1] < residual[0]
    assert fitted.moved > 0 or residual[3] < residual[2]


def test_the_best_of_several_starts_is_kept(monkeypatch) -> None:
    points = normal(60, 8)  # no clusters to find, so that starts end in different places

    def left(starts: int, seed: int) -> float:
        monkeypatch.setattr(codes, "STARTS", starts)  # the first of four starts is the one of one
        centroids = codes._kmeans(points, 12, torch.Generator().manual_seed(seed))
        return torch.cdist(points.double(), centroids.double()).amin(1).square().sum().item()

    pairs = [(left(1, seed), left(4, seed)) for seed in range(6)]
    assert all(four <= one for one, four in pairs)
    assert any(four < one for one, four in pairs)


# --- what came of it --------------------------------------------------------------------------------------


def test_usage_by_hand() -> None:
    centroids = torch.tensor([[[0.0], [4.0]], [[0.0], [1.0]]])
    vectors = torch.tensor([[0.0], [1.0], [4.0], [6.0]])
    fitted = codes.Codes(torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]]), 2, centroids, 3)
    first, second = codes.usage(fitted, vectors)
    assert first == {"used": 2, "entropy": 1.0, "perplexity": 2.0, "residual": pytest.approx(5 / 53)}
    assert second["residual"] == pytest.approx(1 / 53)
    assert codes.summary(fitted, vectors).splitlines() == [
        "codes: 4 items on 2 levels of 2; collisions repaired: 3; holes: 0",
        "  level 1: 2 codes used, entropy 1.00 bits (perplexity 2.0), residual 9.4%",
        "  level 2: 2 codes used, entropy 1.00 bits (perplexity 2.0), residual 1.9%",
    ]
