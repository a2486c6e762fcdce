"""Exercises of chapter 5."""

import pytest
import torch

from minirec.objectives import grpo

REWARDS = torch.tensor(
    [[1.0, 0.0, 0.0, 0.0], [0.1, 0.0, 0.0, 0.0], [0.7, 0.7, 0.7, 0.7], [3.0, 1.0, 2.0, 0.5]]
)


@pytest.fixture
def build(exercise):
    """The function to build."""
    return exercise("ch05_build").advantages


@pytest.fixture
def bug(exercise):
    """The program to mend."""
    return exercise("ch05_bug")


def test_build_is_the_unbiased_estimate_times_one_number(build):
    """And that number makes the root mean square 1."""
    found = build(REWARDS)
    unbiased = grpo.advantages(REWARDS, std=False, leave_one_out=True)
    spread = unbiased != 0
    factor = found[spread] / unbiased[spread]
    torch.testing.assert_close(factor, factor[0].expand_as(factor))
    assert found.square().mean().sqrt().item() == pytest.approx(1, abs=1e-4)


def test_build_keeps_a_small_difference_small(build):
    """Over the std of its own group, both groups would be the same."""
    found = build(REWARDS)
    torch.testing.assert_close(found[0], 10 * found[1])


def test_build_does_not_see_the_scale_or_the_level_of_the_rewards(build):
    """All rewards times a number; to each group a constant of its own."""
    found = build(REWARDS)
    torch.testing.assert_close(build(1000 * REWARDS), found, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(build(REWARDS + torch.tensor([[0.0], [4.0], [8.0], [1.0]])), found)


def test_build_leaves_silent_groups_at_exactly_zero(build):
    """Also where all of them are."""
    assert (build(REWARDS)[2] == 0).all()
    assert (build(torch.full((3, 8), 0.7)) == 0).all()


def test_bug_advantages_sum_to_zero_in_every_group(bug):
    """Groups of different levels."""
    reward = torch.rand(8, 8, generator=torch.Generator().manual_seed(0)) + torch.arange(8)[:, None]
    torch.testing.assert_close(bug.advantages(reward).sum(1), torch.zeros(8), atol=1e-4, rtol=0)


def test_bug_learns_what_can_be_learned(bug):
    """The mean over four seeds."""
    shares = [bug.learn(seed=seed)[-1][0] for seed in range(4)]
    assert sum(shares) / len(shares) > 0.87
