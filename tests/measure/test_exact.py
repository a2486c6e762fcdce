"""The oracle against brute force, and against the definitions of what it optimises."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minirec.measure.exact import (
    entropy,
    every_tuple,
    expected_reward,
    item_logprobs,
    kl,
    list_logprobs,
    policy_gradient,
)
from minirec.policy import MASKED
from minirec.rollout import rank
from minirec.trie import Trie
from tests.small import CONDITION, HISTORY, levels, make, random_codes
from tutorials.fixed_points import k3_fixed_point, k3_fixed_point_by_code, kl_optimum

CLOSE = {"atol": 1e-5, "rtol": 0}  # float32 sums in another order
CANDIDATES = torch.tensor([[3, 17, 29, 8], [0, 1, 2, 3], [39, 5, 20, 11]])


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def logs(*shape, seed=0, scale=2.0):
    """Log-probabilities far from uniform."""
    return torch.log_softmax(scale * normal(*shape, seed=seed), -1)


@levels
def test_the_policy_without_a_mask_sums_to_one_over_every_tuple_and_its_holes_are_the_rest(levels, size):
    policy, trie, prompt = make(items=20, levels=levels, size=size)
    every = every_tuple(levels, size)
    p = item_logprobs(policy, prompt, every).double().exp()
    torch.testing.assert_close(p.sum(1), torch.ones(3, dtype=torch.float64), atol=1e-6, rtol=0)
    items = item_logprobs(policy, prompt, trie, constrained=False)
    torch.testing.assert_close(p[:, every.lookup(trie.codes)].float(), items.exp(), **CLOSE)


def test_what_is_too_large_to_enumerate_is_refused():
    assert len(every_tuple(16, 2)) == 65_536
    with pytest.raises(ValueError, match=r"257\^2 tuples; at most 65,536"):
        every_tuple(2, 257)
    policy, _, prompt = make(levels=2, size=80)
    assert item_logprobs(policy, prompt, every_tuple(2, 80)).shape == (3, 6_400)
    with pytest.raises(ValueError, match="4,097 items; at most 4,096"):
        item_logprobs(policy, prompt, Trie(random_codes(4_097, 2, 80, seed=0), 80))
    _, trie, prompt = make()
    with pytest.raises(ValueError, match="orders of 7; at most those of 6"):
        list_logprobs(policy, prompt, trie, torch.arange(7).expand(3, -1))


def test_entropy_and_kl_are_those_of_torch_and_a_masked_item_adds_nothing():
    p, q = logs(3, 7, seed=1), logs(3, 7, seed=2)
    torch.testing.assert_close(entropy(p), torch.distributions.Categorical(logits=p).entropy())
    expected = torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(1)
    torch.testing.assert_close(kl(p, q), expected)
    assert (kl(p, p) == 0).all()
    masked = torch.full((3, 1), MASKED)
    wider, other = torch.cat([p, masked], 1).requires_grad_(), torch.cat([q, masked], 1)
    torch.testing.assert_close(entropy(wider), entropy(p))
    torch.testing.assert_close(kl(wider, other), kl(p, q))
    (entropy(wider) + kl(wider, other)).sum().backward()
    assert wider.grad.isfinite().all()


@pytest.mark.parametrize("constrained", [True, False])
def test_the_policy_gradient_is_the_slope_of_the_expected_reward(constrained):
    policy, trie, _ = make(items=20, levels=2, size=6)
    policy, history, reward = policy.double(), trie.encode(HISTORY), normal(3, 20)
    names = [name for name, _ in policy.named_parameters()]
    prompt = policy.encode(CONDITION, history)
    gradient = policy_gradient(policy, item_logprobs(policy, prompt, trie, constrained), reward)
    assert list(gradient) == names

    def value(step):
        with torch.no_grad():
            for parameter, way in zip(policy.parameters(), direction, strict=True):
                parameter += step * way
            logp = item_logprobs(policy, policy.encode(CONDITION, history), trie, constrained)
            for parameter, way in zip(policy.parameters(), direction, strict=True):
                parameter -= step * way
            return expected_reward(logp, reward).mean().item()

    for seed in range(3):
        direction = [normal(*p.shape, seed=seed) for p in policy.parameters()]
        slope = (value(1e-5) - value(-1e-5)) / 2e-5
        along = sum((gradient[name] * way).sum().item() for name, way in zip(names, direction, strict=True))
        # the error of central differences: about step² × the third derivative, and rounding / step = 1e-11
        assert along == pytest.approx(slope, rel=1e-6, abs=1e-8)


settings = {
    "seed": st.integers(0, 10_000),
    "beta": st.sampled_from([0.001, 0.1, 1.0, 30.0]),
    "scale": st.sampled_from([0.0, 1.0, 20.0]),
}


@given(**settings)
def test_both_optima_are_distributions_and_no_policy_does_better(seed, beta, scale):
    reference, reward = logs(2, 6, seed=seed, scale=scale), normal(2, 6, seed=seed + 1).round()
    gibbs, settled = kl_optimum(reference, reward, beta), k3_fixed_point(reference, reward, beta)
    assert (gibbs.exp().sum(1) - 1).abs().max() < 1e-12
    assert (settled.exp().sum(1) - 1).abs().max() < 1e-12

    def forward(p):
        return expected_reward(p, reward) - beta * kl(p, reference)

    def reverse(p):
        return expected_reward(p, reward) - beta * kl(reference, p)

    for other in [*(logs(2, 6, seed=seed + i) for i in range(2, 6)), reference, gibbs, settled]:
        for part in (0.99, 0.1, 0.01):  # from far away and from near by
            near = [torch.logaddexp(p + math.log1p(-part), other + math.log(part)) for p in (gibbs, settled)]
            # both are concave in the policy; 1e-9 is far above rounding, which grows with beta × nats
            assert (forward(near[0]) <= forward(gibbs) + 1e-9).all()
            assert (reverse(near[1]) <= reverse(settled) + 1e-9).all()


@given(**settings)
def test_the_fixed_point_is_beta_ref_over_lambda_minus_r(seed, beta, scale):
    reference, reward = logs(2, 6, seed=seed, scale=scale), normal(2, 6, seed=seed + 1).round()
    multiplier = reward + beta * (reference - k3_fixed_point(reference, reward, beta)).exp()
    assert (multiplier.amax(1) >= reward.amax(1)).all()
    # one λ for all items: r + (λ - r) is rounded at the scale of its terms, λ - r by logs near 100 to 1e-14
    spread = multiplier.amax(1) - multiplier.amin(1)
    assert (spread <= 1e-12 * (reward.abs().amax(1) + beta)).all()


def test_the_fixed_point_of_two_items():
    reference, reward = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[1.0, 0.0]])
    half = math.sqrt(0.5)  # 0.5 / (λ - 1) and 0.5 / λ sum to 1 at λ = 1 + √½
    assert k3_fixed_point(reference, reward, 1.0).exp().tolist() == [
        [pytest.approx(half), pytest.approx(1 - half)]
    ]


def test_a_masked_item_stays_out_of_both_optima_however_good_it_is():
    reference = torch.cat([logs(2, 5), torch.full((2, 1), MASKED)], 1)
    reward = torch.cat([normal(2, 5), torch.full((2, 1), 9.0)], 1)
    for optimum in (kl_optimum, k3_fixed_point):
        p = optimum(reference, reward, 0.1).exp()
        assert (p[:, 5] == 0).all()
        torch.testing.assert_close(p[:, :5], optimum(reference[:, :5], reward[:, :5], 0.1).exp())


def test_without_a_reward_the_reference_is_the_optimum_code_by_code_as_well():
    trie = make(items=20)[1]
    reference, flat = logs(3, 20), torch.full((3, 20), 0.7)
    for settled in (
        kl_optimum(reference, flat, 0.1),
        k3_fixed_point(reference, flat, 0.1),
        k3_fixed_point_by_code(reference, flat, 0.1, trie),
    ):
        torch.testing.assert_close(settled, reference, atol=1e-10, rtol=0)


def test_code_by_code_is_the_same_for_one_code_and_another_for_three():
    reference, reward = logs(3, 20), normal(3, 20, seed=1)
    whole = k3_fixed_point(reference, reward, 0.1)
    one = k3_fixed_point_by_code(reference, reward, 0.1, make(items=20, levels=1, size=20)[1])
    torch.testing.assert_close(one, whole, atol=1e-10, rtol=0)
    three = k3_fixed_point_by_code(reference, reward, 0.1, make(items=20)[1])
    assert (three.exp().sum(1) - 1).abs().max() < 1e-12
    assert (three - whole).abs().max() > 0.1


@levels
def test_the_orders_of_a_closed_set_sum_to_one_and_are_what_the_ranker_draws(levels, size):
    policy, trie, prompt = make(levels=levels, size=size)
    orders, logp = list_logprobs(policy, prompt, trie, CANDIDATES)
    assert len({tuple(order) for order in orders.tolist()}) == 24
    torch.testing.assert_close(
        logp.double().exp().sum(1), torch.ones(3, dtype=torch.float64), atol=1e-5, rtol=0
    )
    noise = torch.rand(3, 50, 4, levels, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = rank(policy, prompt, trie, CANDIDATES, noise)
    which = (drawn.items[:, :, None] == CANDIDATES[:, orders][:, None]).all(-1).int().argmax(-1)  # (B, G)
    torch.testing.assert_close(logp.gather(1, which), drawn.logp.sum((2, 3)), **CLOSE)


def test_list_frequencies_fit_the_exact_distribution():
    policy, trie, prompt = make()
    draws = 6_000
    orders, logp = list_logprobs(policy, prompt, trie, CANDIDATES)
    noise = torch.rand(3, draws, 4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    items = rank(policy, prompt, trie, CANDIDATES, noise).items
    which = (items[:, :, None] == CANDIDATES[:, orders][:, None]).all(-1).int().argmax(-1)  # (B, G)

    def statistics(p):
        for row in range(3):
            count, expected = torch.bincount(which[row], minlength=24).double(), p[row].double() * draws
            rare = expected < 5  # too few for chi-square; one cell together
            count = torch.cat([count[~rare], count[rare].sum()[None]])
            expected = torch.cat([expected[~rare], expected[rare].sum()[None]]).clamp(min=1e-9)
            freedom = len(count) - 1
            ratio = ((count - expected) ** 2 / expected).sum().item() / freedom
            # Wilson-Hilferty: the cube root of chi-square over its freedom is normal; 4 sigma is p = 3e-5
            yield (ratio ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))

    assert all(z < 4 for z in statistics(logp.exp()))
    assert any(z > 4 for z in statistics(torch.softmax(0.9 * logp, 1)))  # it would see a slightly wrong one


def test_gradients_flow_through_the_orders():
    policy, trie, prompt = make()
    _, logp = list_logprobs(policy, prompt, trie, CANDIDATES)
    expected_reward(logp, normal(3, 24)).sum().backward()
    assert policy.code.weight.grad.abs().max() > 1e-3
