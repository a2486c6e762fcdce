import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minirec.loop import Learner, reinforce
from minirec.objectives import OBJECTIVES
from minirec.objectives.loss import Loss, k3, logprobs, target_nll, token_loss
from minirec.records import PAD
from minirec.settings import Config
from minirec.tasks import Processes
from tests.small_experience import (
    TARGETS,
    anything,
    gradient,
    learned,
    lists,
    moved,
    next_item,
    part,
    processes,
    tokens,
)

CFG = replace(Config(), group=6, tau=1 / 3, rho=0.0, negatives=2, kl=0.1, seed=5)
ADA = replace(CFG, rl_weight=2.0)
CASES = {
    "continued": CFG,
    "grpo": CFG,
    "adagrpo": ADA,
    "adagrpo, random": replace(ADA, gate="random"),
    "recast": CFG,
    "recast, repair": replace(CFG, contrast=False),
    "flexrec": replace(CFG, uncertainty="context"),
    "flexrec, rollout": replace(CFG, uncertainty="rollout", credit="list"),
}
cases = pytest.mark.parametrize("case", CASES)
SUMS = {"atol": 1e-12, "rtol": 0}  # float64, gradients below 10: the order of sums


def made(case):
    """The signal of an objective, its experience (unmasked for adagrpo), and the policy."""
    name, cfg = case.split(",")[0], CASES[case]
    start, x = lists(cfg, seed=5) if name == "flexrec" else next_item(cfg, name != "adagrpo", seed=5)
    return OBJECTIVES[name].signal, x, start


def whole_gradient(x, signal, start):
    now, old = moved(start, 0.02, seed=1), start.double()
    return gradient(learned(x, signal, now, old, old)[0], now)


def parts_gradient(x, shares, signals, start):
    """The sum of the gradients that every share finds by itself, with the divisor of the whole batch."""
    now, old, total = moved(start, 0.02, seed=1), start.double(), 0.0
    learner = Loss(now, x.trie, x.cfg)
    for mine, signal in zip(shares, signals, strict=True):
        batch, allowed = x.batch.select(mine), x.masks(replace(signal, rows=mine[signal.rows]))
        with torch.no_grad():
            was = logprobs(old, x.trie, batch, signal, allowed)
        total = total + gradient(learner(batch, signal, allowed, was, was, len(x.batch))[0], now)
    return total


SHARES = [torch.tensor([0, 2]), torch.tensor([1]), torch.tensor([3])]


@cases
def test_micro_batches_add_up_to_the_gradient_of_the_batch(case):
    objective, x, start = made(case)
    signal = objective(x)
    whole = whole_gradient(x, signal, start)
    assert whole.abs().max() > 1e-3
    shares = [part(signal, mine) for mine in SHARES]
    torch.testing.assert_close(parts_gradient(x, SHARES, shares, start), whole, **SUMS)


@cases
def test_processes_with_their_share_of_the_contexts_add_up_to_the_gradient_of_one(case):
    objective, x, start = made(case)
    whole = whole_gradient(x, objective(x), start)
    signals = processes(x, objective, SHARES)
    torch.testing.assert_close(parts_gradient(x, SHARES, signals, start), whole, **SUMS)


@cases
def test_the_order_of_the_batch_does_not_change_the_gradient(case):
    objective, x, start = made(case)
    whole, order = objective(x), torch.tensor([2, 0, 3, 1])
    found = parts_gradient(x, [order], [part(whole, order)], start)
    torch.testing.assert_close(found, whole_gradient(x, whole, start), **SUMS)


@cases
def test_padding_of_histories_and_targets_does_not_change_the_gradient(case):
    objective, x, start = made(case)
    none = torch.full((4, 3), PAD)
    b = x.batch
    wide = replace(b, history=torch.cat([b.history, none], 1), targets=torch.cat([b.targets, none], 1))
    padded = replace(x, batch=wide)
    found = whole_gradient(padded, objective(padded), start)
    torch.testing.assert_close(found, whole_gradient(x, objective(x), start), **SUMS)


@cases
def test_a_process_without_contexts_of_its_own_to_learn_from_runs_backward(case):
    objective, x, start = made(case)
    empty, now = replace(part(objective(x), torch.tensor([], dtype=torch.int64)), nll=False), start.double()
    loss, facts = learned(x, empty, now, None, now)
    assert loss.item() == 0
    assert facts == {}
    assert (gradient(loss, now) == 0).all()


# One token


def test_the_clip_acts_only_beyond_its_bounds_and_only_where_the_step_would_go_further():
    ratio = torch.tensor([0.5, 0.81, 1.0, 1.27, 1.5, 0.5, 0.81, 1.0, 1.27, 1.5], dtype=torch.float64)
    logp = ratio.log().view(1, 10, 1, 1).requires_grad_()
    a = torch.tensor([1.0] * 5 + [-1.0] * 5).view(1, 10, 1)
    loss, clipped = token_loss(logp, torch.zeros_like(logp), logp.detach(), a, 0.2, 0.28, kl=0.0)
    expected = [-0.5, -0.81, -1.0, -1.27, -1.28, 0.8, 0.81, 1.0, 1.27, 1.5]
    assert loss.flatten().tolist() == pytest.approx(expected, abs=1e-12)
    acts = [False] * 4 + [True] + [True] + [False] * 4
    assert clipped.flatten().tolist() == acts
    slope = torch.autograd.grad(loss.sum(), logp)[0].flatten()
    assert [s == 0 for s in slope.tolist()] == acts


@given(st.lists(st.floats(-80, 0), min_size=1, max_size=6), st.integers(-24, 24).map(lambda i: i / 8))
def test_on_policy_the_ratio_is_exactly_1_and_the_clip_never_acts(logps, advantage):
    logp = torch.tensor(logps).view(1, 1, 1, -1).requires_grad_()
    a = torch.tensor(advantage).view(1, 1, 1)
    loss, clipped = token_loss(logp, logp.detach(), logp.detach(), a, 0.2, 0.28, kl=1.0)
    assert not clipped.any()
    assert torch.equal(loss, -a[..., None].expand_as(loss))
    slope = torch.autograd.grad(loss.sum(), logp)[0]
    torch.testing.assert_close(slope, -a[..., None].expand_as(slope), atol=0, rtol=0)


def test_on_policy_the_loss_is_near_zero_while_the_gradient_is_not():
    objective, x, start = made("grpo")
    now = start.double()
    loss, facts = learned(x, objective(x), now, None, now)
    assert abs(loss.item()) < 1e-6  # advantages sum to zero, each rounded to float32
    assert gradient(loss, now).norm() > 0.1
    assert facts["kl"][0] == 0
    assert facts["clipped"][0] == 0


@given(st.floats(-30, 19.9))
def test_k3_is_exp_d_minus_d_minus_1(d):
    logp = torch.tensor(-30.0, dtype=torch.float64, requires_grad=True)
    value = k3(logp, logp.detach() + d)
    d = (logp.detach() + d - logp.detach()).item()
    # exp(d) cancels against 1 + d: what is left is known to one rounding of the larger
    assert value.item() == pytest.approx(math.exp(d) - d - 1, rel=1e-12, abs=1e-14)
    assert value.item() > -1e-15
    slope = torch.autograd.grad(value, logp)[0].item()
    assert slope == pytest.approx(1 - math.exp(d), rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("below", [20.0, 88.0, 89.0, 1000.0, 1e9])
def test_k3_far_below_the_reference_neither_overflows_nor_loses_its_gradient(below):
    logp = torch.tensor([-below], requires_grad=True)
    value = k3(logp, torch.zeros(1))
    assert value.isfinite()
    slope = torch.autograd.grad(value, logp)[0].item()
    assert slope == pytest.approx(1 - math.exp(20), rel=1e-6)  # the straight line; it still pulls upwards
    beyond = k3(torch.tensor([-below - 1]), torch.zeros(1))
    assert beyond > value or below == 1e9


# The NLL


def test_the_nll_is_the_mean_over_the_tokens_of_a_contexts_targets():
    start, x = next_item(CFG)
    policy = start.double()
    prompt = policy.encode(x.batch.condition, x.trie.encode(x.batch.history))
    found = target_nll(policy, prompt, x.trie, TARGETS)
    for b, row in enumerate(TARGETS.tolist()):
        codes = [x.trie.codes[item].tolist() for item in row if item != PAD]
        legal = anything(x.trie)
        every = [t.item() for c in codes for t in tokens(policy, x.batch, x.trie, b, [c], legal)[0]]
        assert found[b].item() == pytest.approx(-sum(every) / len(every), abs=1e-10)
    none = target_nll(policy, prompt, x.trie, torch.full((4, 1), PAD))
    assert (none == 0).all()


# The loop


class Task:
    """One batch, again and again."""

    def __init__(self, x):
        self.x, self.cfg, self.trie, self.processes = x, x.cfg, x.trie, Processes()

    def act(self, policy, step):
        return self.x


@pytest.mark.parametrize("name", ["grpo", "recast"])
def test_every_ratio_of_a_batchs_first_update_is_exactly_1_and_of_the_second_is_not(name):
    # bounds of 0 clip whatever is not exactly 1; the log-probabilities of sampling are spoilt, for the
    # anchor that ReCast inserts has none: the old policy is the one that scores now
    cfg = replace(CFG, contexts=4, updates=2, rl_rate=0.02, clip_low=0.0, clip_high=0.0, device="cpu")
    start, x = next_item(cfg, seed=5)
    x = replace(x, rollout=replace(x.rollout, logp=x.rollout.logp - 1))
    task, learner, shares = Task(x), Learner(cfg, start, x.trie), []
    loss_of = learner.loss

    def spy(*arguments):
        loss, facts = loss_of(*arguments)
        shares.append(facts["clipped"][0] / facts["clipped"][1])
        return loss, facts

    learner.loss = spy
    for step in range(2):
        reinforce(learner, task, OBJECTIVES[name], step)
    assert shares[0] == shares[2] == 0
    assert min(shares[1], shares[3]) > 0.1


def test_a_ratio_that_would_overflow_has_finite_gradients():
    logp = torch.zeros(1, 3, 1, 1, requires_grad=True)
    old, advantages = torch.full_like(logp, -90.0), torch.tensor([[[0.0], [1.0], [-1.0]]])
    tokens, _ = token_loss(logp, old.detach(), logp.detach(), advantages, 0.2, 0.28, 0.001)
    tokens.sum().backward()
    assert tokens.isfinite().all()
    assert logp.grad.isfinite().all()
    assert tokens[0, 0].item() == 0  # an advantage of 0 stays 0
