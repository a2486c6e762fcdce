"""Chapter 8: swap rewards of any reward, and the gains of lists."""

import torch

from minirec import ops, rewards


def _lists(count, size, seed=0):
    return torch.rand(count, size, generator=torch.Generator().manual_seed(seed)).argsort(1)


def test_build_gives_the_closed_form_where_the_reward_is_ndcg(exercise):
    """With a gain for each item nothing is new."""
    gains = torch.rand(6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ideal = rewards.ideal(gains, 6)
    found = exercise("ch08_build").swap_rewards(_lists(20, 6), lambda y: rewards.ndcg(gains[y], ideal))
    expected = ops.swap_ndcg(gains[_lists(20, 6)], ideal.expand(20))
    torch.testing.assert_close(found, expected)
    assert (found[:, -1] == 0).all()


def test_build_takes_rewards_that_no_gain_explains(exercise):
    """Items 0 and 1 are of one series, and bore where both stand in the first two places."""

    def novelty(lists):
        return 1.0 - (lists[:, :2] < 2).all(1).double()

    found = exercise("ch08_build").swap_rewards(torch.tensor([[0, 1, 2], [0, 2, 1]]), novelty)
    torch.testing.assert_close(found, torch.tensor([[-0.5, -1.0, 0.0], [0.0, 1.0, 0.0]]).double())


def test_build_asks_for_the_reward_once(exercise):
    """A reward model is expensive."""
    calls = []

    def reward(lists):
        calls.append(len(lists))
        return lists[:, 0].double()

    exercise("ch08_build").swap_rewards(_lists(7, 5), reward)
    assert len(calls) == 1


def test_bug_gives_each_place_the_gain_of_its_item(exercise):
    """A list in the best order has NDCG 1, and the gains of a list follow its items."""
    lists = exercise("ch08_bug")
    candidates = _lists(30, 7) * 10 + 3
    gains = torch.rand(30, 7, generator=torch.Generator().manual_seed(2))
    order = gains.argsort(1, descending=True)
    best = lists.gains_of_lists(candidates, gains, candidates.gather(1, order)[:, None])
    torch.testing.assert_close(best[:, 0], gains.gather(1, order))
    ndcg = rewards.ndcg(best, rewards.ideal(gains, 7)[:, None])
    torch.testing.assert_close(ndcg, torch.ones(30, 1))
