"""One step of reinforcement learning: what it estimates, what it logs, and what it learns."""

import math
from dataclasses import replace

import pytest
import torch

from minirec import rewards
from minirec.data.dataset import contexts, leave_fresh
from minirec.data.prepare import encode
from minirec.data.world import make_world
from minirec.loop import LOGGED, Learner, Tally, minimise, reinforce
from minirec.measure.exact import exact_values
from minirec.objectives import OBJECTIVES, settings_of
from minirec.objectives.loss import k3, logprobs
from minirec.policy import Policy
from minirec.records import Objective, Signal
from minirec.run.training import Reinforcement
from minirec.settings import TINY
from minirec.tasks import NextItem, Processes
from minirec.trie import Trie


@pytest.fixture(scope="module")
def small():
    """A world of 64 items, an untrained policy with large weights, and the settings of an arm."""
    cfg = replace(TINY, world_items=64, world_users=300, codes=8, width=16, heads=2, layers=1, contexts=16)
    dataset = make_world(cfg).dataset()
    train, fresh = leave_fresh(dataset.train, 0.5, 0)
    dataset = replace(dataset, train=train, fresh=fresh)
    codes, _ = encode(dataset, cfg)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        policy = Policy(cfg, 3, 8, dataset.periods)
    for parameter in policy.parameters():
        parameter.data.mul_(4 if parameter.dim() == 2 else 1)
    return cfg, dataset, Trie(codes.codes, codes.size), policy.eval()


def reinforcement(small, arm, objective=None, **changes):
    cfg, dataset, trie, policy = small
    probe = dataset.valid.select(torch.arange(30))
    task = NextItem(settings_of(cfg, arm, **changes), trie, contexts(dataset.fresh), probe=probe)
    return Reinforcement(policy, task, objective or OBJECTIVES[arm], lambda policy: {})


def exact_on_probe(loop):
    x = loop.task.act(loop.policy, 0, probe=True)
    return exact_values(x, loop.policy, loop.learner.reference)


@pytest.mark.parametrize("mask", ["trie", "none"])
def test_estimates_scatter_around_the_exact_value(small, mask):
    loop = reinforcement(small, "grpo", mask=mask, group=32)
    exact = exact_on_probe(loop)
    draws = [loop.task.act(loop.policy, step, probe=True) for step in range(40)]
    for name, estimate in {
        "exact_reward": torch.stack([x.rewards.double().mean(1) for x in draws]),  # (40, B)
        "exact_entropy": torch.stack([-x.rollout.logp.double().sum((2, 3)).mean(1) for x in draws]),
    }.items():
        mean = estimate.mean(1)  # (40,) independent means over the probe
        z = (mean.mean() - exact[name].mean()) / (mean.std() / 40**0.5)
        assert (
            abs(z) < 4
        )  # Student's t with 39 degrees of freedom exceeds 4 once in 3,700 seeds; this is one seed
    assert torch.equal(exact["exact_kl"], torch.zeros_like(exact["exact_kl"]))


def test_grpo_raises_the_exact_reward_of_contexts_it_never_saw(small):
    loop = reinforcement(small, "grpo", rl_steps=60, rl_rate=3e-3)
    before = exact_on_probe(loop)
    while loop.step < loop.steps:
        loop.update()
    after = exact_on_probe(loop)
    gain = after["exact_reward"] - before["exact_reward"]
    assert gain.mean() > 2 * gain.std() / len(gain) ** 0.5
    assert (after["exact_kl"] > 0).all()


def test_a_second_update_on_the_same_rollouts_meets_the_clip(small):
    once = reinforcement(small, "grpo", rl_steps=3, rl_rate=0.03)
    twice = reinforcement(small, "grpo", rl_steps=3, rl_rate=0.03, updates=4)
    for loop in (once, twice):
        loop.update()
        loop.update()
        loop.measure()
    assert once.measured[-1]["clipped"] == 0  # on-policy the ratio is exactly 1
    assert twice.measured[-1]["clipped"] > 0


def test_several_updates_are_so_many_steps_of_adam_on_the_same_loss(small):
    loop, (cfg, _, trie, start) = reinforcement(small, "grpo", rl_rate=0.01, updates=3), small
    cfg, x = loop.task.cfg, loop.task.act(loop.policy, 0)
    signal, by_hand = loop.objective.signal(x), Learner(cfg, start, trie)
    with torch.no_grad():
        old = logprobs(by_hand.policy, trie, x.batch, signal, x.masks(signal))
    losses = []
    for _ in range(3):
        loss, _ = by_hand.loss(x.batch, signal, x.masks(signal), old, old, cfg.contexts)  # old is the start
        loss.backward()
        torch.nn.utils.clip_grad_norm_(by_hand.policy.parameters(), cfg.clip)
        by_hand.optimiser.step()
        by_hand.optimiser.zero_grad()
        losses.append(loss.item())
    loop.update()
    for one, other in zip(loop.policy.parameters(), by_hand.policy.parameters(), strict=True):
        assert torch.equal(one, other)
    assert loop.measured[-1]["loss"] == pytest.approx(sum(losses) / 3)


def test_the_loss_is_near_zero_while_the_gradient_is_not(small):
    loop = reinforcement(small, "grpo", kl=0.0)
    loop.update()
    loop.measure()
    line = loop.measured[-1]
    assert abs(line["loss"]) < 1e-6 < 1e-2 < line["gradient_norm"]  # float32 sums of advantages that cancel


def test_the_kl_of_the_loss_is_to_the_start_however_far_the_policy_has_gone(small):
    loop = reinforcement(small, "grpo", rl_rate=3e-3)
    for _ in range(2):
        loop.update()
    loop.measure()  # what is counted begins anew
    x = loop.task.act(loop.policy, 2)
    signal = loop.objective.signal(x)
    now, start = (
        logprobs(policy, x.trie, x.batch, signal, x.masks(signal)) for policy in (loop.policy, small[3])
    )
    loop.update()
    loop.measure()
    assert loop.measured[-1]["kl"] == pytest.approx(k3(now, start).mean().item(), rel=1e-4)  # float32
    assert loop.measured[-1]["kl"] > 1e-3


def test_beam_groups_hold_different_items_the_likeliest_first(small):
    loop = reinforcement(small, "grpo", rollouts="beam", group=10)
    x = loop.task.act(loop.policy, 0)
    logp = x.rollout.logp.sum((2, 3))
    assert all(len(set(row)) == 10 for row in x.rollout.items[..., 0].tolist())
    assert (logp[:, 1:] <= logp[:, :-1] + 1e-5).all()  # two passes of float32
    assert torch.equal(x.rewards, rewards.hit(x.rollout.items[..., 0], x.batch.targets))


def test_beams_are_no_samples_so_they_estimate_no_entropy(small):
    for kind, logged in (("beam", False), ("sample", True)):
        loop = reinforcement(small, "grpo", rollouts=kind, group=10)
        loop.update()
        assert ("entropy" in loop.measured[-1]) == logged


def test_a_fact_without_a_definition_is_an_error_and_with_one_it_is_logged(small):
    def signal(x):
        return replace(OBJECTIVES["grpo"].signal(x), facts={"contexts_seen": float(len(x.batch))})

    with pytest.raises(ValueError, match="'contexts_seen' is logged and not defined"):
        reinforcement(small, "grpo", Objective(signal, "silent about it")).update()
    loop = reinforcement(small, "grpo", Objective(signal, "said", facts={"contexts_seen": "all; 1"}))
    loop.update()
    assert loop.measured[-1]["contexts_seen"] == 1


def test_the_loop_of_a_script_of_ones_own_is_ten_lines(small):
    cfg, dataset, trie, policy = small
    cfg = settings_of(cfg, "grpo", rl_rate=3e-3)
    task = NextItem(cfg, trie, contexts(dataset.fresh))
    learner = Learner(cfg, policy, trie)
    for step in range(3):
        line = reinforce(learner, task, OBJECTIVES["grpo"], step).means(Processes())
    assert set(line) <= set(LOGGED)
    assert line["kl"] > 0
    assert not torch.equal(learner.policy.code.weight, policy.code.weight)


def test_the_gradients_of_two_processes_average_to_that_of_one(small):
    cfg, dataset, trie, policy = small
    cfg = settings_of(cfg, "grpo", clip=math.inf)
    gradients, tallies = [], []
    for count, rank in ((1, 0), (2, 0), (2, 1)):
        processes = Processes()
        processes.count, processes.rank = count, rank
        task = NextItem(cfg, trie, contexts(dataset.fresh), processes=processes)
        learner = Learner(cfg, policy, trie)
        learner.optimiser = torch.optim.SGD(learner.policy.parameters(), 1.0)
        tallies.append(reinforce(learner, task, OBJECTIVES["grpo"], 0))
        moved = zip(policy.parameters(), learner.policy.parameters(), strict=True)
        gradients.append(torch.cat([(one - other).flatten() for one, other in moved]))
    one, *two = gradients
    # float32, in weights of about 1
    torch.testing.assert_close(sum(two) / 2, one.detach(), atol=1e-6, rtol=1e-5)
    alone, *both = (tally.read() for tally in tallies)
    for name, (total, count), (part, number) in zip(tallies[0].sums, alone, sum(both), strict=True):
        assert number == count
        if name != "gradient_norm":  # in two processes it is measured after the average
            # sums of float32 values, of which a smaller batch makes others in the last bits
            assert part.item() == pytest.approx(total.item(), abs=1e-6, rel=1e-7)


def test_a_line_has_means_over_groups_over_rollouts_and_over_items(small):
    loop = reinforcement(small, "grpo", mask="none", kl=0.1)
    x = loop.task.act(loop.policy, 0)
    loop.update()
    line, contexts = loop.measured[-1], len(x.batch)
    groups = x.rewards.tolist()
    assert line["silent"] == sum(len(set(group)) == 1 for group in groups) / contexts
    assert line["reward"] == sum(map(sum, groups)) / x.rewards.numel()
    assert (
        line["holes"] == sum(item < 0 for item in x.rollout.items.flatten().tolist()) / x.rewards.numel() > 0
    )
    assert line["entropy"] == pytest.approx(-x.rollout.logp.sum().item() / x.rewards.numel())
    assert line["admitted"] == 1


def test_a_tally_averages_over_all_that_was_added():
    tally = Tally(["reward", "kl"])
    tally.add("reward", 3.0, 2)
    tally.add("reward", 1.0, 6)
    assert tally.means(Processes()) == {"reward": 0.5}
    assert Tally(tally.sums).means(Processes()) == {}  # the same names, begun again


def test_an_objective_that_learns_nothing_leaves_the_policy_as_it_is(small):
    def signal(x):
        none = x.rollout.codes[:0]
        return Signal(x.part[:0], none, none[..., 0].float(), width=1)

    loop = reinforcement(small, "grpo", Objective(signal, "nothing"))
    before = {name: value.clone() for name, value in loop.policy.state_dict().items()}
    loop.update()
    assert loop.measured[-1]["gradient_norm"] == 0
    assert all(torch.equal(value, before[name]) for name, value in loop.policy.state_dict().items())


# The loop of supervised training, on a straight line whose steps are known


def descend(steps, slope=1.0, **options):
    """From 0, ``steps`` steps of rate 1 down a loss that falls by ``slope``; where that ends."""
    weight = torch.nn.Parameter(torch.zeros(()))
    seen = []

    def loss(step):
        seen.append((step, weight.item()))
        return -slope * weight

    minimise(torch.optim.SGD([weight], 1.0), loss, steps, "test", **options)
    assert [step for step, _ in seen] == list(range(steps))
    assert weight.grad is None
    return weight.item()


def test_the_rate_is_constant_or_falls_to_zero():
    assert descend(4) == 4
    assert descend(4, final=0.0) == pytest.approx(1 + 3 / 4 + 2 / 4 + 1 / 4)


def test_a_gradient_is_cut_to_its_largest_norm():
    assert descend(4, slope=3.0, clip=5.0) == 12
    assert descend(4, slope=3.0, clip=0.5) == pytest.approx(2, rel=1e-5)  # torch adds 1e-6 to the norm
