"""Chapter 4: a policy at a given KL, and the rewards of a group."""

import pytest
import torch

from minirec import settings
from minirec.data import world
from minirec.measure import exact

BUDGETS = (0.01, 0.5, 1.5)


def _asked(seed):
    random = torch.Generator().manual_seed(seed)
    reference = torch.randn(3, 20, generator=random, dtype=torch.float64).log_softmax(1)
    return reference, torch.rand(3, 20, generator=random, dtype=torch.float64)


@pytest.mark.parametrize("budget", BUDGETS)
def test_build_spends_the_budget_of_every_context(exercise, budget):
    """Each context has a KL of its own to spend, and spends all of it."""
    reference, reward = _asked(0)
    policy = exercise("ch04_build").within(reference, reward, budget)
    torch.testing.assert_close(policy.exp().sum(1), torch.ones(3).double())
    torch.testing.assert_close(exact.kl(policy, reference), torch.full((3,), budget).double())


@pytest.mark.parametrize("budget", BUDGETS)
def test_build_has_the_largest_reward_that_the_budget_buys(exercise, budget):
    """No policy at the same KL is paid more."""
    reference, reward = _asked(1)
    best = exact.expected_reward(exercise("ch04_build").within(reference, reward, budget), reward)
    for seed in range(50):  # other directions, as far as the budget goes
        other = exercise("ch04_build").within(reference, reward + 0.3 * _asked(2 + seed)[1], budget)
        assert (exact.expected_reward(other, reward) <= best + 1e-9).all()


def test_build_does_not_ask_for_the_units_of_a_reward(exercise):
    """Another scale and another zero are the same wish."""
    reference, reward = _asked(0)
    within = exercise("ch04_build").within
    torch.testing.assert_close(within(reference, reward, 0.5), within(reference, 7000 * reward - 3, 0.5))


def test_build_stops_where_the_path_ends(exercise):
    """A budget beyond the point mass buys the point mass."""
    reference, reward = _asked(0)
    policy = exercise("ch04_build").within(reference, reward, 1000.0)
    torch.testing.assert_close(exact.expected_reward(policy, reward), reward.amax(1))


def test_bug_gives_each_item_the_reward_of_its_own_user(exercise):
    """In a batch an item is worth what it is worth to its user."""
    truth = world.make_world(settings.Config(world_items=512, world_users=20))
    user = torch.tensor([3, 17, 5])
    items = torch.randint(512, (3, 4), generator=torch.Generator().manual_seed(0))
    found = exercise("ch04_bug").group_rewards(truth, user, items)
    torch.testing.assert_close(found, world.true_score(truth, user, items).float())
