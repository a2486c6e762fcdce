"""The floors against literal slow versions, and the exact ranking rule."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from minirec.data.dataset import Catalogue, Dataset, Examples
from minirec.measure.baselines import RECENCY, before_test, item_knn, markov, popularity, top_k
from minirec.records import PAD, Batch
from tests.small import examples

ITEMS = 6
logs = st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=8), min_size=1, max_size=8)


def batch(histories: list[list[int]]) -> Batch:
    """Contexts whose policy would see the last three items; ``seen`` holds all of them."""
    return examples(histories).batch(torch.arange(len(histories)), 3)


def fill(log: list[list[int]]) -> list[float]:
    """The part of a score that only breaks ties."""
    flat = [item for sequence in log for item in sequence]
    return [flat.count(i) / (1 + len(flat)) for i in range(ITEMS)]


@given(logs, logs)
def test_popularity_counts_training_events(log: list[list[int]], histories: list[list[int]]) -> None:
    scores = popularity(examples(log), ITEMS)(batch(histories))
    flat = [item for sequence in log for item in sequence]
    assert scores.tolist() == [[flat.count(i) for i in range(ITEMS)]] * len(histories)


@given(logs, logs)
def test_markov_counts_what_followed_the_last_item(log: list[list[int]], histories: list[list[int]]) -> None:
    pairs = [pair for sequence in log for pair in pairwise(sequence)]
    scores = markov(examples(log), ITEMS)(batch(histories))
    for row, history in zip(scores.tolist(), histories, strict=True):
        count = [pairs.count((history[-1], i)) if history else 0 for i in range(ITEMS)]
        assert row == [c + f for c, f in zip(count, fill(log), strict=True)]


@given(logs, logs, st.sampled_from(RECENCY))
def test_item_knn_sums_directed_cosines(
    log: list[list[int]], histories: list[list[int]], recency: float
) -> None:
    scores = item_knn(examples(log), ITEMS, recency)(batch(histories))
    events = [item for sequence in log for item in sequence]
    pairs = [
        (s[a], s[b], b - a) for s in log for a in range(len(s)) for b in range(len(s)) if 0 < abs(b - a) <= 20
    ]
    for row, history in zip(scores.tolist(), histories, strict=True):
        newest = {item: age for age, item in reversed(list(enumerate(reversed(history))))}
        for i, score in enumerate(row):
            total = sum(
                recency ** newest[one]
                * (1.0 if distance > 0 else 0.5)
                / math.sqrt(abs(distance) * events.count(one) * events.count(i))
                for one, other, distance in pairs
                if other == i and one in newest
            )
            whole = score - fill(log)[i]
            # a whole number of GRIDs; adding a fraction to at most 1e7 rounds by 1e-9
            assert whole == pytest.approx(round(whole), abs=1e-8)
            assert whole == pytest.approx(total * 1e6, abs=0.501)  # rounding to the nearest one


def test_popularity_decides_where_similarities_are_equal() -> None:
    history = batch([[0]])
    # Item 1 comes after item 0 once, with one event; item 2 twice, with four: the cosines are equal.
    log = [[0, 1], [0, 2], [0, 2], [2], [2]]
    assert top_k(item_knn(examples(log), ITEMS)(history), history.seen, 3).tolist() == [[2, 1, 3]]
    # Items 1 and 2 follow item 0 once each, but 2 has an event more.
    log = [[0, 1], [0, 2], [1, 3], [2, 2, 4]]
    assert top_k(markov(examples(log), ITEMS)(history), history.seen, 3).tolist() == [[2, 1, 3]]


def test_popularity_never_outweighs_a_real_difference() -> None:
    # Item 2 is a thousand times as popular, but item 1 followed item 0 once more often.
    log = [[0, 1], [0, 1], [0, 2]] + [[2]] * 2000
    assert top_k(markov(examples(log), ITEMS)(batch([[0]])), None, 2).tolist() == [[1, 2]]


@pytest.mark.parametrize("floor", [popularity, markov, item_knn])
def test_floors_read_training_events_only(floor) -> None:
    def scores(later: list[int]) -> Tensor:
        log = [[0, 1, 2, 3, later[0]], [1, 0, 2, later[1]]]
        return floor(examples(log, keep_out=1), ITEMS)(batch([[1], [2, 0], []]))

    assert torch.equal(scores([4, 5]), scores([3, 0]))


def test_before_test_lie_all_histories_and_the_validation_targets() -> None:
    # By user: training, validation targets, test targets. As two moments for all users would cut them.
    users = [
        ([0, 1, 2], [3], [4]),
        ([5, 4], [3, 3], []),
        ([1], [], [2]),
        ([], [0, 5], [1]),
        ([2, 2, 2], [], []),
    ]
    flat = [part for user in users for part in user]
    events = torch.tensor([item for part in flat for item in part])
    ends = torch.tensor([len(part) for part in flat]).cumsum(0).view(-1, 3)  # (U, 3)
    start = torch.cat([torch.tensor([0]), ends[:-1, 2]])

    def split(rows: list[int], first: Tensor, last: Tensor, targets: list[list[int]]) -> Examples:
        padded = torch.tensor([[*dict.fromkeys(row), PAD, PAD][:2] for row in targets]).view(len(rows), -1)
        few = examples([[0]] * len(rows))
        return replace(
            few, events=events, start=first[rows], stop=last[rows], user=torch.tensor(rows), targets=padded
        )

    windows = split([0, 0, 1, 2, 4], start, ends[:, 0], [[]] * 5)
    first, last = torch.tensor([0, 1, *windows.start[2:]]), torch.tensor([1, 3, *windows.stop[2:]])
    windows = replace(windows, start=first, stop=last, targets=windows.targets[:, :0])
    valid = split([0, 1], start, ends[:, 0], [users[0][1], users[1][1]])
    test = split([0, 2, 3], start, ends[:, 1], [users[u][2] for u in (0, 2, 3)])
    fresh = windows.select(windows.user == 1)
    data = Dataset(Catalogue([*"abcdef"]), [*"01234"], windows.select(windows.user != 1), valid, test, fresh)
    known = before_test(data)
    spans = zip(known.user.tolist(), known.start.tolist(), known.stop.tolist(), strict=True)
    # User 1 has no test context, so nothing says where the repeat of item 3 belongs: it is left out.
    want = {0: [0, 1, 2, 3], 1: [5, 4, 3], 2: [1], 3: [0, 5], 4: [2, 2, 2]}
    assert {user: events[a:b].tolist() for user, a, b in spans} == want


values = st.sampled_from([-math.inf, 0.0, 1.0, 2.0])


@given(
    st.lists(st.lists(values, min_size=ITEMS, max_size=ITEMS), min_size=1, max_size=5),
    st.lists(st.integers(PAD, ITEMS - 1), max_size=4),
    st.integers(1, ITEMS + 2),
    st.booleans(),
)
def test_top_k_sorts_by_score_then_index(
    rows: list[list[float]], seen: list[int], k: int, masked: bool
) -> None:
    left_out = torch.tensor([seen] * len(rows), dtype=torch.int64).view(len(rows), -1)
    ranked = top_k(torch.tensor(rows), left_out if masked else None, k)
    for row, items in zip(rows, ranked.tolist(), strict=True):
        remain = [i for i in range(ITEMS) if row[i] > -math.inf and not (masked and i in seen)]
        best = sorted(remain, key=lambda i: (-row[i], i))[:k]
        assert items == best + [PAD] * (k - len(best))


def test_top_k_leaves_the_scores_alone() -> None:
    scores = torch.tensor([[1.0, 2.0]])
    assert top_k(scores, torch.tensor([[1]]), 1).tolist() == [[0]]
    assert scores.tolist() == [[1.0, 2.0]]
