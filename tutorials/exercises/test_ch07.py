"""Chapter 7: a random miss; what a repaired group leaves behind."""

import pytest
import torch

from minirec.objectives import grpo, recast


@pytest.fixture
def groups():
    """Groups of all kinds: silent, mixed, hits only."""
    random = torch.Generator().manual_seed(7)
    hits = (torch.rand(60, 6, generator=random) < torch.rand(60, 1, generator=random)).float()
    hits[:3], hits[3:6] = 0.0, 1.0
    likelihood = torch.randint(-4, 0, (60, 6), generator=random).float()  # with ties
    return hits, likelihood


def test_build_the_rows_and_the_hit_are_those_of_recast(exercise, groups):
    """Only the miss is chosen differently."""
    hits, likelihood = groups
    noise = torch.rand(len(hits), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows, pair = exercise("ch07_build").contrast(hits, likelihood, noise)
    expected, their_pair = recast.contrast(hits, hits, likelihood)
    assert torch.equal(rows, expected)
    assert torch.equal(pair[:, 0], their_pair[:, 0])
    assert (hits[rows].gather(1, pair[:, 1:]) == 0).all()


def test_build_every_miss_is_equally_likely(exercise):
    """Each of four misses gets a quarter of the noise."""
    group = torch.tensor([[0.0, 1.0, 0.0, 0.0, 1.0, 0.0]])
    grid = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    hits = group.expand(len(grid), -1)
    likelihood = torch.tensor([[-1.0, -2.0, -9.0, -3.0, -1.0, -4.0]]).expand_as(hits)
    _, pair = exercise("ch07_build").contrast(hits, likelihood, grid)
    assert torch.bincount(pair[:, 1], minlength=6).tolist() == [100, 0, 100, 100, 0, 100]
    assert (pair[:, 0] == 4).all()


def test_build_a_group_takes_its_own_noise(exercise):
    """Noise belongs to a group of the batch, not to its place among the learnable ones."""
    hits = torch.tensor([[0.0, 0.0, 0.0, 0.0]] * 3 + [[1.0, 0.0, 0.0, 0.0]] * 2)
    noise = torch.tensor([0.1, 0.2, 0.3, 0.05, 0.95], dtype=torch.float64)
    rows, pair = exercise("ch07_build").contrast(hits, torch.zeros_like(hits), noise)
    assert rows.tolist() == [3, 4]
    assert pair[0, 1] != pair[1, 1]


@pytest.mark.parametrize("likely", [-6.0, 0.0, 3.0])
def test_bug_the_gradient_is_that_of_the_repaired_groups(exercise, likely):
    """On policy, every ratio is 1, also that of what was put in."""
    random = torch.Generator().manual_seed(1)
    logits = torch.randn(5, 8, generator=random)
    target = torch.arange(5)
    logits[target, target] = likely
    logits.requires_grad_()
    items = torch.randint(8, (5, 4), generator=random)
    old = logits.detach().log_softmax(1).gather(1, items)
    hits = (items == target[:, None]).float()
    rows, place = recast.repair(hits, torch.zeros_like(hits), old)
    assert len(rows)
    mended = items.clone()
    mended[rows, place] = target[rows]
    advantage = grpo.advantages((mended == target[:, None]).float())
    expected = (advantage * logits.log_softmax(1).gather(1, mended)).mean()
    (expected,) = torch.autograd.grad(-expected, logits)
    value = exercise("ch07_bug").loss(logits, items, old, target)
    (gradient,) = torch.autograd.grad(value, logits)
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-5)
    assert value.item() == pytest.approx(0, abs=1e-6)
