"""Reinforcement learning from the outside, stopped and gone on with, in one process and two."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from minirec.objectives import OBJECTIVES
from minirec.run.experiment import arms, label
from minirec.run.training import LINES
from minirec.settings import TINY
from tests.test_train import SMALL, assert_same_run, command, run, state, wait_for

pytestmark = pytest.mark.slow

BASE = [*SMALL, *"--no-sasrec --epochs 2 --fresh 0.4".split()]
FEW = "--rl-steps 6 --measure 3 --contexts 8 --group 8 --rl-rate 0.003".split()
SETS = ["--candidates", 5]
GATE = "--ranker harmful --negatives 2".split()
ALL = [*BASE, *FEW, *SETS, *GATE, "--objective", "all"]
ITEMS = [name for name, objective in OBJECTIVES.items() if not objective.lists]


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
    next_item = [OBJECTIVES[name].title for name in ITEMS]
    next_item[next_item.index("AdaGRPO")] = "AdaGRPO, simulated reward"
    assert methods == ["popularity", "markov", "item-kNN", "true law", "supervised", *next_item]
    assert "simulated reward" in printed
    assert "prove no claim" in printed
    for arm in OBJECTIVES:
        assert OBJECTIVES[arm].title in printed
        assert [line["step"] for line in lines(folder / arm)] == list(range(7))
        for step, line in enumerate(lines(folder / arm)):
            assert set(line) <= {*LINES, *OBJECTIVES[arm].facts}
            if step in (0, 3, 6):
                assert {"estimate", "estimate_error", "exact_reward", "exact_kl"} <= set(line)
            if step:
                assert {"reward", "silent", "admitted", "gradient_norm", "entropy"} <= set(line)


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


@pytest.mark.parametrize("objective", ["flexrec", "all"])
def test_what_arms_share_is_not_reused_under_other_settings(straight, tmp_path, objective):
    folder = tmp_path / "run"
    shutil.copytree(straight[0], folder)
    for arm in OBJECTIVES:  # they would refuse first
        shutil.rmtree(folder / arm)
    flags = [*BASE, *FEW, *SETS, "--objective", objective, "--feedback", 0.5]
    again = command("--resume", *flags, "--out", folder)
    failed = subprocess.run(again, capture_output=True, text=True)
    assert failed.returncode == 2
    assert "--feedback" in failed.stderr
    assert "critic.pt" in failed.stderr


@pytest.fixture(scope="module")
def supervised(tmp_path_factory):
    """A supervised run that leaves users to RL."""
    folder = tmp_path_factory.mktemp("supervised") / "run"
    run(*BASE, "--out", folder)
    return folder


@pytest.mark.parametrize(
    "flags",
    [
        ["--objective", "adagrpo", *GATE, "--group", 16],
        ["--objective", "recast", "--no-repair", "--contexts", 2],
        ["--objective", "flexrec", *SETS],
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
        (["--objective", "grpo", "--gate", "random"], "--gate: grpo does not read it; it is for adagrpo"),
        (["--objective", "grpo", "--rollouts", "beam", "--group", "100"], "group"),
    ],
)
def test_what_cannot_be_reinforced_is_one_line_and_exit_code_2(tmp_path, arguments, message):
    done = subprocess.run(
        command(*BASE, *FEW, "--epochs", 1, "--world-users", 100, *arguments, "--out", tmp_path / "run"),
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


def test_the_fifth_objective_of_the_readme_is_one_file_that_runs(tmp_path):
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (tmp_path / "best.py").write_text(re.search(r"```py\n(.*?)```", readme, re.S)[1])
    settings = [*BASE, *FEW, "--objective", "best", "--out", tmp_path / "run"]
    subprocess.run([sys.executable, tmp_path / "best.py", *settings], check=True, capture_output=True)
    methods = [row["method"] for row in json.loads((tmp_path / "run" / "report.json").read_text())]
    assert methods[-2:] == ["supervised continued", "best"]
    moved = lines(tmp_path / "run" / "best")[-1]
    assert moved["exact_kl"] > 0  # it has learned something
    assert {"reward", "estimate", "exact_reward"} <= set(moved)


def test_an_arm_has_its_objectives_defaults_unless_the_command_line_says_otherwise():
    own = arms(TINY)
    assert list(own) == list(OBJECTIVES)
    assert (own["grpo"].rl_steps, own["flexrec"].rl_steps, own["list"].group) == (120, 60, 8)
    assert (own["grpo"].rl_rate, own["flexrec"].rl_rate, own["list"].rl_rate) == (1e-4, 5e-4, 5e-4)
    assert (own["grpo"].mask, own["adagrpo"].mask, own["adagrpo"].reward) == ("trie", "none", "ranker")
    given = arms(replace(TINY, rl_steps=7, mask="trie", given=("rl_steps", "mask")))
    assert {each.rl_steps for each in given.values()} == {7}
    assert given["adagrpo"].mask == "trie"
    assert label(own["adagrpo"]) == "AdaGRPO, simulated reward"


def test_beside_every_objective_stands_its_control():
    assert list(arms(replace(TINY, objective="recast"))) == ["continued", "recast"]
    assert list(arms(replace(TINY, objective="flexrec"))) == ["flexrec", "list"]
    assert list(arms(replace(TINY, objective="list"))) == ["list"]
    assert arms(replace(TINY, objective="none")) == {}
