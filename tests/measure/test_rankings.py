"""How rankings of closed sets are measured, and their floors."""

import math

import pytest
import torch

from minirec.data.lists import NEEDS
from minirec.measure.rankings import (
    PRIOR,
    by_score,
    evaluate_order,
    item_mean,
    list_floors,
    rank_for_needs,
    trained_needs,
)
from minirec.policy import Policy
from minirec.settings import PolicyConfig
from minirec.trie import Trie
from tests.data.test_lists import WORLD, world_parts
from tests.small import random_codes


def test_measures_of_an_order_by_hand():
    gains = torch.tensor([[1.0, 0.0, 2 / 3, 0.0, 0.0, 1.0], [0.5] * 6, [0.0] * 6])
    placed = gains.flip(1)  # first row: 1, 0, 0, 2/3, 0, 1
    found = evaluate_order(placed, gains)
    dcg = 1 + 2 / 3 / math.log2(5)
    best = 1 + 1 / math.log2(3) + 2 / 3 / math.log2(4)
    assert found[:2].tolist() == pytest.approx([dcg / best, 1.0], abs=1e-7)  # 2/3 in float32
    assert found[2].isnan()


def test_equal_scores_keep_the_order_of_the_candidates():
    gains = torch.arange(40.0)[None]
    assert torch.equal(by_score(torch.zeros(1, 40), gains), gains)
    assert torch.equal(by_score(gains, gains), gains.flip(1))


def test_item_means_are_of_what_was_seen_and_drawn_to_the_mean():
    _, parts = world_parts()
    source, items = parts["known"], WORLD.world_items
    mean = item_mean(source, items)
    for need in range(4):
        pairs = list(zip(*(x.flatten().tolist() for x in seen_of(source, need)), strict=True))
        whole = sum(g for _, g in pairs) / len(pairs)
        for item in (0, 50, 95):
            own = [g for i, g in pairs if i == item]
            expected = (sum(own) + PRIOR * whole) / (len(own) + PRIOR)
            assert mean[need, item].item() == pytest.approx(expected, rel=1e-9)


def seen_of(source, need):
    """Items and gains that were seen."""
    return source.candidates[source.observed], source.gains[need][source.observed].double()


def test_floors_rank_as_they_say():
    _, parts = world_parts()
    test, known = parts["test"], parts["known"]
    found = list_floors(known, test, WORLD.world_items, seed=0)
    mean = item_mean(known, WORLD.world_items)
    assert found.keys() == {"random", "popularity", "item mean"}
    for place, need in enumerate(NEEDS):
        for name, score in {"popularity": test.popular, "item mean": mean[place][test.candidates]}.items():
            for row in range(len(test)):
                order = sorted(range(WORLD.candidates), key=lambda c: -score[row, c].item())
                placed = test.gains[place, row, order][None]
                expected = evaluate_order(placed, test.gains[place, row][None])
                torch.testing.assert_close(found[name][need][row], expected[0], equal_nan=True)


def test_a_policy_is_measured_by_its_greedy_ranking_of_every_set():
    _, parts = world_parts()
    trie = Trie(random_codes(WORLD.world_items, 3, 6, seed=0), 6)
    policy = Policy(PolicyConfig(width=32, dropout=0.0), 3, 6, WORLD.world_periods).eval()
    results = rank_for_needs(policy, trie, parts["test"])
    assert list(results) == list(NEEDS)
    assert all(len(values) == len(parts["test"]) for values in results.values())
    assert trained_needs(results).shape == (3, len(parts["test"]))
    best = evaluate_order(parts["test"].gains[0].sort(1, descending=True).values, parts["test"].gains[0])
    gap = (best - results["interest"]).nan_to_num(0)
    assert (gap >= -1e-12).all()
    assert gap.mean() > 0.1  # the policy is untrained
