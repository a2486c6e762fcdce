"""Chapter 6: the probability that a gate opens, and which contexts are difficult."""

import pytest
import torch

from minirec.objectives.adagrpo import rank

GROUPS = ((16, 1 / 8), (5, 0.4), (3, 1.0))


def _asked(contexts=4, items=12, seed=0):
    random = torch.Generator().manual_seed(seed)
    logp = torch.randn(contexts, items, generator=random).log_softmax(1)
    reward = torch.rand(contexts, items, generator=random)
    return logp, reward, torch.randint(items, (contexts,), generator=random)


@pytest.mark.parametrize(("group", "tau"), GROUPS)
def test_build_is_the_share_of_sampled_groups_that_open_the_gate(exercise, group, tau):
    """Ten thousand groups of each context, judged by the library's ranks."""
    logp, reward, target = _asked()
    random, many = torch.Generator().manual_seed(1), 10_000
    drawn = logp.exp().multinomial(many * group, replacement=True, generator=random)
    own, share = target[:, None].expand(-1, many).reshape(-1, 1), 1.0
    for score, inside in ((logp, lambda r: r > tau * group), (reward, lambda r: r <= tau * group)):
        scores = score.gather(1, drawn).view(-1, group)
        mine = score.gather(1, target[:, None]).expand(-1, many).reshape(-1, 1)
        share = share * inside(rank(scores, drawn.view(-1, group), mine, own)[:, 0])
    counted = share.double().view(-1, many).mean(1)
    found = exercise("ch06_build").opens(logp, reward, target, group, tau)
    torch.testing.assert_close(found, counted, atol=0.025, rtol=0)  # five standard errors, at most


def test_build_knows_that_both_ranks_are_of_one_group(exercise):
    """A ranker that is the policy itself never opens the gate: the ranks are the same."""
    logp, _, target = _asked()
    found = exercise("ch06_build").opens(logp, logp, target, 16, 1 / 8)
    torch.testing.assert_close(found, torch.zeros(4).double())


def test_build_with_one_rollout_is_a_sum_over_items(exercise):
    """G = 1, tau = 1: a rollout above by the policy and not by the ranker."""
    logp = torch.tensor([[0.5, 0.3, 0.2]]).log()
    reward = torch.tensor([[0.1, 0.9, 0.5]])
    found = exercise("ch06_build").opens(logp, reward, torch.tensor([2]), 1, 1.0)
    torch.testing.assert_close(found, torch.tensor([0.5]).double())


def test_bug_finds_nothing_difficult_where_the_policy_says_the_click_alone(exercise):
    """All rollouts are the click, and the click is not above itself."""
    program = exercise("ch06_bug")
    random = torch.Generator().manual_seed(0)
    logits, target = torch.randn(200, 50, generator=random), torch.arange(200) % 50
    logits[torch.arange(200), target] += 6  # likely, and not certain
    items = target[:, None].expand(-1, 16)
    logp = logits.log_softmax(1).gather(1, items)
    assert not program.difficult(logits, items, logp, target, 1 / 8).any()


def test_bug_still_counts_what_really_is_above(exercise):
    """Three rollouts of a likelier item make the click difficult."""
    logits = torch.tensor([[0.0, 2.0, -1.0]])
    items = torch.tensor([[1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2]])
    logp, target = logits.log_softmax(1).gather(1, items), torch.tensor([0])
    assert exercise("ch06_bug").difficult(logits, items, logp, target, 1 / 8).all()
    assert not exercise("ch06_bug").difficult(logits, items, logp, target, 1 / 4).any()
