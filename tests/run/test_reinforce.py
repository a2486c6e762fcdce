"""Reinforcement learning from the outside, stopped and gone on with, in one process and two; and its loop."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from minirec import rewards
from minirec.data.contexts import leave_fresh
from minirec.data.world import make_world
from minirec.measure.metrics import LOGGED
from minirec.objectives import OBJECTIVES
from minirec.objectives.loss import k3
from minirec.policy import Policy
from minirec.run.arms import LISTS, settings, title
from minirec.run.machine import Processes
from minirec.run.prepare import encode
from minirec.run.reinforce import Reinforcement
from minirec.settings import TINY
from minirec.tasks import NextItem, hit
from minirec.trie import Trie
from tests.test_train import SMALL, assert_same_run, command, run, state, wait_for

FEW = (
    "--no-sasrec --epochs 2 --fresh 0.4 --rl-steps 6 --measure 3 --contexts 8 --group 8 --ranker harmful "
    "--negatives 2 --rl-rate 0.003 --list-steps 4 --candidates 5 --list-group 4 --warm 3"
).split()
ALL = [*SMALL, *FEW, "--objective", "all"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run of all objectives without interruption."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    return folder, run(*ALL, "--out", folder)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_all_objectives_end_in_one_table_and_every_number_logged_is_defined(straight):
    folder, printed = straight
    methods = [row["method"] for row in json.loads((folder / "report.json").read_text())]
    next_item = [title(arm) for arm in OBJECTIVES if arm not in LISTS]
    next_item[next_item.index("AdaGRPO")] = "AdaGRPO, simulated reward"
    assert methods == ["popularity", "markov", "item-kNN", "true law", "supervised", *next_item]
    assert "simulated reward" in printed
    assert "prove no claim" in printed
    for arm in OBJECTIVES:
        assert title(arm) in printed
        assert lines(folder / arm)[0]["step"] == 0
        last = 4 if arm in LISTS else 6
        assert [line["step"] for line in lines(folder / arm)] == list(range(last + 1))
        for step, line in enumerate(lines(folder / arm)):
            assert set(line) <= set(LOGGED)
            if step in (0, 3, last):
                assert {"estimate", "estimate_error", "exact_reward", "exact_kl"} <= set(line)
            if step:
                assert {"reward", "silent", "admitted", "gradient_norm"} <= set(line)


def test_arms_share_their_start_their_contexts_and_their_noise(straight):
    folder, _ = straight
    first = {arm: lines(folder / arm)[0] for arm in ("continued", "grpo", "recast")}
    assert first["continued"] == first["grpo"] == first["recast"]
    assert first["grpo"]["exact_kl"] == 0  # the reference is the start


def test_killed_in_an_arm_and_resumed_is_the_same_run(straight, tmp_path):
    folder = tmp_path / "run"
    process = subprocess.Popen(
        command(*ALL, "--out", folder), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    wait_for(folder / "adagrpo" / "checkpoint.pt", process)
    process.kill()
    process.communicate()
    run("--resume", "--out", folder)
    for arm in OBJECTIVES:
        assert_same_run(straight[0] / arm, folder / arm)
    assert (straight[0] / "report.json").read_text() == (folder / "report.json").read_text()


def test_what_arms_share_is_not_reused_under_other_settings(straight, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(straight[0], folder)
    for arm in LISTS:
        shutil.rmtree(folder / arm)
    again = command("--resume", *ALL[:-1], "flexrec", "--feedback", 0.5, "--out", folder)
    failed = subprocess.run(again, capture_output=True, text=True)
    assert failed.returncode == 2
    assert "--feedback" in failed.stderr
    assert "critic.pt" in failed.stderr


@pytest.fixture(scope="module")
def supervised(tmp_path_factory):
    """A supervised run that leaves users to RL."""
    folder = tmp_path_factory.mktemp("supervised") / "run"
    run(*SMALL, *FEW, "--out", folder)
    return folder


@pytest.mark.parametrize(
    "flags",
    [
        ["--objective", "adagrpo", "--group", 16],
        ["--objective", "recast", "--no-repair", "--contexts", 2],
        ["--objective", "flexrec"],
    ],
    ids=["what needs the whole batch", "a process without rows", "lists"],
)
def test_two_processes_are_one_process(supervised, tmp_path, flags):
    arm = flags[1]
    for name, processes in (("one", 1), ("two", 2)):
        shutil.copytree(supervised, tmp_path / name)
        run(*FEW, *flags, "--resume", "--threads", 1, "--out", tmp_path / name, processes=processes)
    one, two = state(tmp_path / "one" / arm), state(tmp_path / "two" / arm)
    # Gradients are added up in another order of float32. Adam's first steps are as large for a gradient that
    # is only rounding as for any other, so a few weights may differ by a step; the numbers logged do not.
    for before, after in zip(one["measured"], two["measured"], strict=True):
        assert before.keys() == after.keys()
        assert after == pytest.approx(before, rel=2e-3, abs=2e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--objective", "grop"], "did you mean grpo?"),
        (["--objective", "grpo", "--fresh", "0"], "--fresh"),
        (["--objective", "grpo", "--contexts", "100000"], "--contexts"),
        (["--objective", "adagrpo", "--tau", "0.01"], "tau"),
        (["--objective", "grpo", "--rollouts", "beam", "--group", "100"], "group"),
    ],
)
def test_what_cannot_be_reinforced_is_one_line_and_exit_code_2(tmp_path, arguments, message):
    done = subprocess.run(
        command(*SMALL, *FEW, "--epochs", 1, "--world-users", 100, *arguments, "--out", tmp_path / "run"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert message in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_an_arm_is_not_continued_with_other_settings(straight):
    arguments = command("--resume", "--objective", "recast", "--no-repair", "--out", straight[0])
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--repair" in done.stderr


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


def reinforcement(small, arm, **changes):
    cfg, dataset, trie, policy = small
    cfg = settings(replace(cfg, **changes), arm)
    processes = Processes(cfg)
    return Reinforcement(
        cfg, policy, NextItem(cfg, dataset, trie, hit, processes), OBJECTIVES[arm], processes
    )


@pytest.mark.parametrize("mask", ["trie", "none"])
def test_estimates_scatter_around_the_exact_value(small, mask):
    loop = reinforcement(small, "grpo", mask=mask, group=32)
    exact = loop.task.exact(loop.task.act(loop.policy, 0, probe=True), loop.policy, loop.reference)
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
    before = loop.task.exact(loop.task.act(loop.policy, 0, probe=True), loop.policy, loop.reference)
    while loop.step < loop.steps:
        loop.update()
    after = loop.task.exact(loop.task.act(loop.policy, 0, probe=True), loop.policy, loop.reference)
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
    signal = loop.objective(x)
    now, start = (
        loop.learner.logp(x.batch, signal, loop.task.allowed(x, signal), policy)
        for policy in (loop.policy, small[3])
    )
    loop.update()
    loop.measure()
    assert loop.measured[-1]["kl"] == pytest.approx(k3(now, start).mean().item(), rel=1e-4)  # float32
    assert loop.measured[-1]["kl"] > 1e-3


def test_a_mask_that_is_not_decided_is_no_mask(small):
    with pytest.raises(ValueError, match="take the settings of an arm"):
        NextItem(replace(small[0], mask="auto"), *small[1:3], hit, Processes(small[0]))


def test_beam_groups_hold_different_items_the_likeliest_first(small):
    loop = reinforcement(small, "grpo", rollouts="beam", group=10)
    x = loop.task.act(loop.policy, 0)
    logp = x.rollout.logp.sum((2, 3))
    assert all(len(set(row)) == 10 for row in x.rollout.items[..., 0].tolist())
    assert (logp[:, 1:] <= logp[:, :-1] + 1e-5).all()  # two passes of float32
    assert torch.equal(x.rewards, rewards.hit(x.rollout.items[..., 0], x.batch.targets))


def test_the_fifth_objective_of_the_readme_is_one_file_that_runs(tmp_path):
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (tmp_path / "best.py").write_text(re.search(r"```py\n(.*?)```", readme, re.S)[1])
    settings = [*SMALL, *FEW, "--objective", "best", "--out", tmp_path / "run"]
    subprocess.run([sys.executable, tmp_path / "best.py", *settings], check=True, capture_output=True)
    methods = [row["method"] for row in json.loads((tmp_path / "run" / "report.json").read_text())]
    assert methods[-2:] == ["supervised continued", "best"]
    moved = lines(tmp_path / "run" / "best")[-1]
    assert moved["exact_kl"] > 0  # it has learned something
