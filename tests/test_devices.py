"""Every stage on a device that is not there, so that a tensor on the wrong one is found without a GPU."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from minirec import evaluate, noise, recommend, train
from minirec.data.dataset import contexts, leave_fresh
from minirec.errors import InputError
from minirec.loop import Learner, reinforce
from minirec.measure import metrics
from minirec.objectives import OBJECTIVES, settings_of
from minirec.run import experiment, folder, lists, machine
from minirec.tasks import NextItem
from minirec.trie import Trie
from tests import pretend
from tests.small_run import CFG, make_dataset, make_policy

SMALL = (
    "--world-items 24 --world-users 120 --codes 4 --width 16 --layers 1 --heads 2 --history 4 --epochs 1 "
    "--batch 256 --validate 1 --beam 10 --samples 4 --objective all --rl-steps 1 --contexts 4 --group 8 "
    "--measure 1 --feedback 0.5 --candidates 4 --threads 1"
).split()


def call(monkeypatch, command, *arguments):
    monkeypatch.setattr(sys, "argv", ["minirec", *map(str, arguments)])
    command.main()


def as_on_windows(change):
    """Windows neither moves nor removes a file that is open, nor puts another in its place."""

    def refuse_open(*paths, **options):
        links = [link for link in Path("/proc/self/fd").iterdir() if link.exists()]
        taken = {str(link.resolve()) for link in links} & {str(Path(path).resolve()) for path in paths}
        assert not taken, f"{change.__name__}: open: {taken}"
        return change(*paths, **options)

    return refuse_open


@pytest.mark.parametrize("double", [True, False], ids=["as CUDA", "as MPS"])
def test_a_whole_run_mixes_no_devices(monkeypatch, tmp_path, double):
    monkeypatch.setattr(noise, "NARROW", set() if double else {pretend.NAME})
    for module in (machine, folder):
        monkeypatch.setattr(module, "pick_device", lambda name: torch.device(pretend.NAME, 0))
    monkeypatch.setattr(experiment, "IMPRESSIONS", 2)
    monkeypatch.setattr(metrics, "paired_bootstrap", lambda *_: (0.0, 0.0, 0.0))  # 4,000 steps on the CPU
    monkeypatch.setattr(lists, "WARM", 2)
    monkeypatch.setattr(lists, "CRITIC_STEPS", 2)
    for name in ("replace", "rename", "unlink"):
        monkeypatch.setattr(os, name, as_on_windows(getattr(os, name)))
    run = tmp_path / "run"
    with pretend.Device(double) as device:
        call(monkeypatch, train, *SMALL, "--out", run)
        call(monkeypatch, evaluate, "--run", run, "--split", "valid")
        call(monkeypatch, recommend, "--run", run, "--history", "3,7")
    assert (run / "report.md").is_file()
    assert device.waits


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "did you mean cpu?"),
        ("cuda:x", "not valid"),
        ("cuda:9", "cuda devices of this machine: 0"),
        ("mps", "mps devices of this machine: 0"),
    ],
)
def test_a_device_that_is_not_there_is_one_line(monkeypatch, name, message):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match="--device") as caught:
        machine.pick_device(name)
    assert message in str(caught.value)


def test_each_process_has_its_own_gpu_and_makes_it_the_current_one(monkeypatch):
    current = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setenv("LOCAL_RANK", "2")
    names = "auto", "cuda", "cuda:1"
    assert [machine.pick_device(name).index for name in names] == [2, 2, 1]
    assert current == [2, 2, 1]


@pytest.mark.parametrize("arm", ["grpo", "adagrpo", "recast"])
def test_a_step_waits_for_its_device_four_times_at_most(arm):
    """Is all finite, has a prefix no item, how long is the gradient, and what is logged?"""
    data, (policy, trie) = make_dataset(), make_policy()
    cfg = settings_of(replace(CFG, contexts=8), arm, reward="hit")
    with pretend.Device() as device:
        policy, trie = policy.to(f"{pretend.NAME}:0"), Trie(trie.codes.to(f"{pretend.NAME}:0"), trie.size)
        task = NextItem(cfg, trie, contexts(leave_fresh(data.train, 0.5, 0)[1]))
        learner = Learner(cfg, policy, trie)
        device.waits.clear()
        reinforce(learner, task, OBJECTIVES[arm], 0).means()
    assert sum(device.waits.values()) <= 4


def test_a_trie_can_be_made_of_codes_on_a_device():
    with pretend.Device():
        codes = torch.tensor([[0, 1], [2, 0]]).to(f"{pretend.NAME}:0")
        assert Trie(codes, 3).lookup(codes).tolist() == [0, 1]
