"""Exercises of chapter 2."""

import math

import pytest
import torch

from minirec.data.dataset import Examples
from minirec.policy import Policy
from minirec.settings import PolicyConfig
from minirec.trie import Trie

LENGTHS = torch.tensor([6, 1, 3, 2, 5])


def make(levels: int, size: int, items: int = 8) -> tuple[Policy, Trie]:
    """An untrained policy with large weights, and a catalogue of the first tuples."""
    torch.manual_seed(0)
    policy = Policy(PolicyConfig(width=16, layers=2, heads=2, dropout=0.0), levels, size, periods=3).eval()
    for parameter in policy.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    number = torch.arange(items)
    return policy, Trie(torch.stack([number // size**k % size for k in range(levels)], -1), size)


def users(items: int = 8) -> Examples:
    """Histories of many lengths, slices of one array."""
    stop = LENGTHS.cumsum(0)
    count = len(LENGTHS)
    return Examples(
        events=torch.randint(items, (int(stop[-1]),), generator=torch.Generator().manual_seed(0)),
        start=stop - LENGTHS,
        stop=stop,
        user=torch.arange(count),
        condition=torch.tensor([[0, 0, 0, 1 + row % 3] for row in range(count)]),
        targets=torch.empty(count, 0, dtype=torch.int64),
        tied=torch.zeros(count, dtype=torch.bool),
    )


@pytest.fixture
def build(exercise):
    return exercise("ch02_build").log_probabilities


@pytest.fixture
def bug(exercise):
    return exercise("ch02_bug")


@pytest.mark.parametrize(("levels", "size"), [(1, 8), (2, 3), (3, 2)])
def test_build_is_what_forward_says(build, levels, size):
    policy, trie = make(levels, size)
    batch = users().batch(torch.arange(len(LENGTHS)), 6)
    codes = trie.encode(batch.history)
    torch.testing.assert_close(build(policy, batch.condition, codes), policy(batch.condition, codes))


def test_build_is_zero_at_padding_and_nowhere_else(build):
    policy, trie = make(3, 2)
    batch = users().batch(torch.arange(len(LENGTHS)), 6)
    logp = build(policy, batch.condition, trie.encode(batch.history))
    real = torch.arange(6) < LENGTHS[:, None]
    assert (logp[~real] == 0).all()
    assert (logp[real] < 0).all()


def test_build_sums_to_one_over_all_tuples(build):
    policy, trie = make(3, 2)  # eight items, eight tuples: no holes
    sequences = torch.cat([torch.tensor([[5, 2]]).expand(8, -1), torch.arange(8)[:, None]], 1)
    logp = build(policy, torch.zeros(8, 4, dtype=torch.int64), trie.encode(sequences))
    torch.testing.assert_close(logp[:, -1].sum(1).exp().sum(), torch.tensor(1.0))


def test_bug_the_batch_size_does_not_matter(bug):
    policy, trie = make(3, 2)
    found = [bug.nll_per_item(policy, trie, users(), size) for size in (1, 2, 5)]
    assert found[1:] == pytest.approx(found[:1] * 2, rel=1e-5)


def test_bug_it_is_the_mean_over_items(bug):
    policy, trie = make(3, 2)
    total = 0.0
    for row in range(len(LENGTHS)):
        batch = users().batch(torch.tensor([row]), 6)  # alone, and so without padding
        total -= policy(batch.condition, trie.encode(batch.history)).sum().item()
    found = bug.nll_per_item(policy, trie, users())
    assert found == pytest.approx(total / int(LENGTHS.sum()), rel=1e-5)


def test_bug_who_knows_nothing_needs_the_log_of_all_tuples(bug):
    policy, trie = make(3, 2)
    torch.nn.init.zeros_(policy.code.weight)
    assert bug.nll_per_item(policy, trie, users()) == pytest.approx(math.log(8))
