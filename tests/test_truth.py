"""What is claimed of the estimators, against enumeration: signals and losses as the loop uses them."""

import math
from dataclasses import replace
from statistics import NormalDist

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minirec import rewards
from minirec.measure.exact import (
    every_tuple,
    item_logprobs,
    kl,
    list_logprobs,
    policy_gradient,
)
from minirec.objectives.grpo import advantages
from minirec.objectives.loss import Loss, k3, token_loss
from minirec.ops import swap_ndcg
from minirec.policy import score
from minirec.records import Batch, Signal
from minirec.rollout import sample
from minirec.settings import Config
from tests.small import CONDITION, HISTORY, make
from tutorials.fixed_points import k3_fixed_point, k3_fixed_point_by_code, kl_optimum


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# The score-function gradient, through the sampler, the advantages and the loss of the loop

TIMES, GROUP = 200, 4
FALSE_ALARM = 1e-4  # of a whole test, shared by its projections (Bonferroni)


def batch_of(history):
    none = torch.full((len(history), 1), -1)
    return Batch(torch.arange(len(history)), history, CONDITION, none, none)


def largest_z(constrained, masked, leave_one_out):
    """How far the mean of many estimates lies from the exact gradient, along four directions, in standard
    errors. Sampled with or without the trie's mask, and scored with or without it."""
    policy, trie, prompt = make(items=12, levels=2, size=4)
    learner, batch = Loss(policy, trie, replace(Config(), kl=0.0)), batch_of(HISTORY)
    reward = torch.rand(3, 12, generator=torch.Generator().manual_seed(5))
    worth = torch.cat([reward, torch.zeros(3, 1)], 1)  # the last for a hole, -1
    exact = policy_gradient(policy, item_logprobs(policy, prompt, trie, constrained), reward)
    directions = [
        list(exact.values()),
        *([normal(*g.shape, seed=i) for g in exact.values()] for i in range(3)),
    ]
    directions = torch.stack([torch.cat([part.flatten().double() for part in way]) for way in directions])
    truth = directions @ torch.cat([g.flatten() for g in exact.values()]).double()  # (4,)
    noise = torch.rand(TIMES, 3, GROUP, 2, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    found = []
    for u in noise:
        rollout = sample(policy, prompt, trie, u, constrained)
        advantage = advantages(
            worth.gather(1, rollout.items[..., 0] % 13), std=False, leave_one_out=leave_one_out
        )
        signal = Signal(torch.arange(3), rollout.codes, advantage[..., None], width=GROUP)
        allowed = trie.masks(rollout.codes) if masked else None
        policy.zero_grad()
        loss, _ = learner(batch, signal, allowed, None, rollout.logp, size=3)
        loss.backward()
        # the loss is a mean over the two tokens of an item, and goes down where the reward goes up
        gradient = torch.cat([-2 * p.grad.flatten() for p in policy.parameters()])
        found.append(directions @ gradient.double())
    found = torch.stack(found)  # (TIMES, 4)
    z = (found.mean(0) - truth) / (found.std(0) / math.sqrt(TIMES))
    return z.abs().max().item()


CRITICAL = NormalDist().inv_cdf(1 - FALSE_ALARM / (2 * 4))


@pytest.mark.parametrize("constrained", [True, False])
def test_the_score_function_gradient_of_the_loop_is_unbiased(constrained):
    assert largest_z(constrained, masked=constrained, leave_one_out=True) < CRITICAL


def test_the_same_test_sees_what_was_sampled_under_the_mask_and_scored_without_it():
    assert largest_z(constrained=True, masked=False, leave_one_out=True) > CRITICAL


def test_the_same_test_sees_a_gradient_that_centring_on_the_whole_group_shrinks():
    assert largest_z(constrained=True, masked=True, leave_one_out=False) > CRITICAL


# Group normalisation, by enumeration of every group


def expected_estimate(reward, logits, group, **kind):
    """The mean over all N^G groups of 1/G Σ A_i ∇ log π(y_i), in N logits; and the exact gradient."""
    p, count = logits.softmax(0), len(logits)
    groups = torch.cartesian_prod(*[torch.arange(count)] * group)  # (N^G, G)
    a = advantages(reward[groups], **kind).double()
    slopes = torch.eye(count, dtype=torch.float64) - p  # (N, N): row y is ∇ log π(y)
    estimate = (a[..., None] * slopes[groups]).mean(1)  # (N^G, N)
    return p[groups].prod(1) @ estimate, p * (reward - p @ reward)


# multiples of 6, so that a group's mean and the float32 advantages are without rounding for G = 2 and 3
exact_rewards = st.lists(st.integers(-5, 5), min_size=5, max_size=5).map(
    lambda values: 6 * torch.tensor(values, dtype=torch.float64)
)
policies = st.integers(0, 10_000).map(lambda seed: 2 * normal(5, seed=seed))


@pytest.mark.parametrize("group", [2, 3])
@given(reward=exact_rewards, logits=policies)
def test_centring_on_the_mean_of_the_group_scales_the_gradient_by_g_minus_1_over_g(group, reward, logits):
    found, exact = expected_estimate(reward, logits, group, std=False)
    torch.testing.assert_close(found, exact * (group - 1) / group, atol=1e-12, rtol=0)


@pytest.mark.parametrize("group", [2, 3])
@given(reward=exact_rewards, logits=policies)
def test_leaving_one_out_is_unbiased(group, reward, logits):
    found, exact = expected_estimate(reward, logits, group, std=False, leave_one_out=True)
    torch.testing.assert_close(found, exact, atol=1e-12, rtol=0)


@pytest.mark.parametrize("group", [2, 3, 5])
@pytest.mark.parametrize("ddof", [0, 1])
def test_dividing_by_the_std_keeps_the_direction_for_two_rewards_and_bends_it_for_three(group, ddof):
    def cosine(reward):
        pair = expected_estimate(
            torch.tensor(reward, dtype=torch.float64), normal(5, seed=3), group, ddof=ddof
        )
        return torch.cosine_similarity(*pair, dim=0).item()

    assert cosine([1, 0, 0, 1, 0]) == pytest.approx(1, abs=1e-12)
    assert cosine([1, 0, 0, 0.1, 0.1]) < 0.998  # an angle of 3.6 degrees and more


# Swap rewards, by enumeration of every order


def conditional_means(orders, p, value):
    """E[value | the first k items], k = 0..K, for every order. value (O,) gives (O, K + 1)."""
    base = len(orders[0]) ** torch.arange(len(orders[0]))
    means = []
    for k in range(len(base) + 1):
        same = ((orders[:, :k] + 1) * base[:k]).sum(1)
        same = torch.unique(same, return_inverse=True)[1]  # (O,) which prefix
        total = torch.zeros(int(same.max()) + 1, dtype=p.dtype)
        means.append((total.index_add(0, same, p * value) / total.index_add(0, same, p))[same])
    return torch.stack(means, 1)


def swap_and_advantage(orders, p, gains):
    """E[r_k | a_<=k] of the swap reward, and the true advantage of a_k, both (O, K)."""
    ideal = rewards.ideal(gains, len(gains))
    credit = swap_ndcg(gains[orders], ideal.expand(len(orders)))
    swap = torch.stack([conditional_means(orders, p, r)[:, k + 1] for k, r in enumerate(credit.T)], 1)
    value = conditional_means(orders, p, rewards.ndcg(gains[orders], ideal))
    return swap, value.diff(dim=1)


FIVE = torch.tensor([[3, 17, 29, 8, 12], [0, 1, 2, 3, 4], [39, 5, 20, 11, 30]])


@given(st.lists(st.floats(0, 1), min_size=5, max_size=5).filter(lambda gains: max(gains) > 0.01))
def test_the_swap_reward_of_a_uniform_policy_is_n_plus_1_over_n_times_the_advantage(gains):
    orders = torch.cartesian_prod(*[torch.arange(5)] * 5)
    orders = orders[(orders.sort(1).values == torch.arange(5)).all(1)]  # (120, 5)
    swap, advantage = swap_and_advantage(
        orders, torch.full((120,), 1 / 120, dtype=torch.float64), torch.tensor(gains, dtype=torch.float64)
    )
    n = torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64)  # items still to come
    torch.testing.assert_close(swap[:, :4], (n + 1) / n * advantage[:, :4], atol=1e-12, rtol=0)
    assert (swap[:, 4] == 0).all()
    torch.testing.assert_close(advantage[:, 4], torch.zeros(120, dtype=torch.float64), atol=1e-12, rtol=0)


def test_off_uniform_the_swap_reward_is_no_multiple_of_the_advantage():
    policy, trie, prompt = make()
    orders, logp = list_logprobs(policy, prompt, trie, FIVE)
    gains = torch.tensor([1.0, 0.0, 1 / 3, 2 / 3, 0.0], dtype=torch.float64)
    for row in range(3):
        swap, advantage = swap_and_advantage(orders, logp[row].detach().double().softmax(0), gains)
        for k in range(3):
            assert torch.cosine_similarity(swap[:, k], advantage[:, k], dim=0) < 0.99


# KL estimators, and where the loss settles


def two_policies(levels, size):
    """A policy and a reference over every tuple, in float64: their token log-probabilities (B, N, 1, L)."""
    trie = every_tuple(levels, size)
    codes = trie.codes[:, None].expand(3, -1, 1, -1)
    both = []
    for seed in (0, 1):
        policy = make(levels=levels, size=size, items=9, seed=seed)[0].double()
        prompt = policy.encode(CONDITION, trie.encode(HISTORY))
        both.append((policy, item_logprobs(policy, prompt, trie), score(policy, prompt, codes)))
    return both


def gradient(value, policy):
    parts = torch.autograd.grad(value, list(policy.parameters()), retain_graph=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])


@pytest.mark.parametrize(("levels", "size"), [(1, 9), (2, 4)])
def test_k1_and_k3_have_the_value_of_the_kl_and_k2_has_not(levels, size):
    (_, logp, tokens), (_, other, reference) = two_policies(levels, size)
    d, truth = reference - tokens, kl(logp, other)

    def expected(estimate):  # per token; a list's KL is the sum over its tokens
        return (logp.exp() * estimate.sum((2, 3))).sum(1)

    torch.testing.assert_close(expected(-d), truth, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(expected(k3(tokens, reference)), truth, atol=1e-12, rtol=1e-12)
    assert ((expected(d.square() / 2) - truth).abs() > 0.05 * truth).all()


def test_the_gradient_of_k3_in_the_loss_is_that_of_the_reverse_kl():
    (policy, logp, tokens), (_, other, reference) = two_policies(1, 9)
    other, reference = other.detach(), reference.detach()
    found = gradient((logp.detach().exp() * k3(tokens, reference)[:, :, 0, 0]).sum(), policy)
    torch.testing.assert_close(found, gradient(kl(other, logp).sum(), policy), atol=1e-12, rtol=1e-9)
    forward = gradient(kl(logp, other).sum(), policy)
    assert torch.cosine_similarity(found, forward, dim=0) < 0.99


@pytest.mark.parametrize("levels", [1, 2])
def test_grpo_with_k3_settles_at_its_own_fixed_point_and_not_at_the_gibbs_form(levels):
    trie, beta = every_tuple(levels, 3 if levels == 2 else 9), 0.3
    reference = torch.log_softmax(normal(1, 9), 1)
    reward = torch.tensor([[1.0, 0.0, 0.5, 0.0, 1.0, 0.5, 0.0, 0.0, 1.0]], dtype=torch.float64)

    def by_token(tables):
        """Free logits per prefix, [(1, V), (V, V)], to token log-probabilities (1, N, 1, L)."""
        steps, prefix = [], torch.zeros(9, dtype=torch.int64)
        for table, code in zip(tables, trie.codes.T, strict=True):
            steps.append(table.log_softmax(1)[prefix, code])
            prefix = prefix * trie.size + code
        return torch.stack(steps, -1)[None, :, None]

    start = reference.view(-1, trie.size)
    tables = [start] if levels == 1 else [start.logsumexp(1)[None], start]
    before = by_token(tables)
    torch.testing.assert_close(before.sum((2, 3)), reference, atol=1e-12, rtol=0)
    tables = [table.clone().requires_grad_() for table in tables]
    for _ in range(3000):
        logp = by_token(tables)
        p = logp.detach().sum((2, 3)).exp()  # (1, N)
        a = reward - (p * reward).sum(1, keepdim=True)
        loss, _ = token_loss(logp, logp.detach(), before, a[..., None], 0.2, 0.28, beta)
        slopes = torch.autograd.grad((p * loss.sum((2, 3))).sum(), tables)
        with torch.no_grad():
            for table, slope in zip(tables, slopes, strict=True):
                table -= 5 * slope
    end = by_token(tables).sum((2, 3)).detach()
    by_code = k3_fixed_point_by_code(reference, reward, beta, trie)
    torch.testing.assert_close(end, by_code, atol=1e-9, rtol=0)
    assert kl(end, kl_optimum(reference, reward, beta)) > 0.01
    whole = k3_fixed_point(reference, reward, beta)
    assert kl(end, whole) < 1e-12 if levels == 1 else kl(end, whole) > 0.001
