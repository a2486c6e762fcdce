"""A training that is stopped at any step, and goes on in another process, is the same training."""

from dataclasses import replace

import pytest
import torch

from minirec.data.dataset import contexts, leave_fresh
from minirec.objectives import OBJECTIVES
from minirec.run.folder import Run
from minirec.run.training import Reinforcement, Supervised, fit
from minirec.tasks import NextItem, Processes
from tests.small_run import CFG, make_dataset, make_policy

SMALL = replace(
    CFG, epochs=3, batch=20, rate=0.01, validate=1, rl_steps=4, rl_rate=0.01, contexts=8, measure=1
)


def run_in(folder, **changes):
    """A run of a small policy."""
    cfg = replace(SMALL, out=str(folder), **changes)
    return Run(cfg, make_dataset(), make_policy()[1], Processes(), [])


def supervised(folder, **changes):
    """Supervised training of a small policy."""
    return Supervised(run_in(folder, **changes))


def reinforced(folder, **changes):
    """Reinforcement of a small policy."""
    cfg, (policy, trie), dataset = replace(SMALL, **changes), make_policy(), make_dataset()
    task = NextItem(cfg, trie, contexts(leave_fresh(dataset.train, 0.5, 0)[1]))
    return Reinforcement(policy, task, OBJECTIVES["grpo"], lambda policy: {})


@pytest.mark.parametrize("make", [supervised, reinforced])
@pytest.mark.parametrize("stop", [1, 3])
def test_stopped_and_gone_on_with_is_the_same_training(tmp_path, make, stop):
    paths = [tmp_path / name for name in ("straight", "stopped")]
    for path in paths:
        path.mkdir()
    straight = make(paths[0])
    kept = fit(straight, run_in(paths[0]))
    first = make(paths[1])
    for _ in range(stop):
        if first.step % first.every == 0 and first.step > first.last:
            first.measure()
            first.last = first.step
        first.update()
    first.save(run_in(paths[1]))
    again = make(paths[1])
    assert torch.equal(fit(again, run_in(paths[1])).code.weight, kept.code.weight)
    for one, other in zip(straight.policy.parameters(), again.policy.parameters(), strict=True):
        assert torch.equal(one, other)
    assert again.measured == straight.measured
    for one, other in zip(*(t.optimiser.state.values() for t in (straight, again)), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_best_weights_so_far_are_remembered(tmp_path):
    training = supervised(tmp_path)
    while not training.measured:
        training.update()
        if training.step % training.every == 0:
            training.measure()
    training.measured[-1]["ndcg@10"] = 1.0  # no later epoch is as good
    best = {name: value.clone() for name, value in training.policy.state_dict().items()}
    training.save(run_in(tmp_path))
    training = supervised(tmp_path)
    policy = fit(training, run_in(tmp_path))
    assert training.step == training.steps
    assert all(torch.equal(value, best[name]) for name, value in policy.state_dict().items())


def test_supervised_training_has_dropout_and_reinforcement_has_none(tmp_path):
    moved = {}
    for make in (supervised, reinforced):
        for dropout in (0.0, 0.5):
            training = make(tmp_path, dropout=dropout)
            training.policy.dropout.p = dropout  # a policy that was made elsewhere has its own
            for block in training.policy.blocks:
                block.dropout.p = dropout
            training.update()
            training.update()
            moved[make, dropout] = training.policy.code.weight.detach()
    assert not torch.equal(moved[supervised, 0.0], moved[supervised, 0.5])
    assert torch.equal(moved[reinforced, 0.0], moved[reinforced, 0.5])
