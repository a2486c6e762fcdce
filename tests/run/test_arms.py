"""The flags of a run: those that no arm reads are refused, the others reach their arm."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from minirec import settings
from minirec.data.world import make_world
from minirec.errors import InputError
from minirec.models.ranker import designed
from minirec.objectives import OBJECTIVES
from minirec.records import Objective
from minirec.run import experiment
from minirec.settings import Config
from minirec.tasks import hit


def arms(*flags):
    given = settings.arguments(list(flags))
    return experiment.arms(settings.configure(given), given)


def test_an_arm_has_a_folder_of_its_own_and_trains_no_baseline():
    own = arms("--objective", "all", "--out", "here")
    assert {name: cfg.out for name, cfg in own.items()} == {name: f"here/{name}" for name in OBJECTIVES}
    assert {name: cfg.objective for name, cfg in own.items()} == {name: name for name in OBJECTIVES}
    assert not any(cfg.sasrec or cfg.resume for cfg in own.values())


def test_an_unknown_objective_names_the_nearest():
    with pytest.raises(InputError, match=r"--objective: 'grop' is not valid; did you mean grpo\?"):
        arms("--objective", "grop")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--objective", "grpo", "--gate", "open"], "--gate: grpo does not read it; it is for adagrpo"),
        (
            ["--objective", "recast", "--reward", "ranker"],
            "--reward: recast does not read it; it is for grpo, adagrpo",
        ),
        (["--objective", "grpo", "--credit", "list"], "--credit: grpo does not read it; it is for flexrec"),
        (["--objective", "list", "--credit", "list"], "--credit: list does not read it; it is for flexrec"),
        (["--objective", "flexrec", "--mask", "none"], "--mask: flexrec does not read it; it is for"),
        (["--objective", "grpo", "--ranker", "right"], "--ranker: no ranker is asked; add --reward ranker"),
        (
            ["--objective", "adagrpo", "--reward", "hit", "--ranker", "right"],
            "--ranker: no ranker is asked; add --reward ranker",
        ),
        (["--objective", "recast", "--ranker", "right"], "--ranker: recast does not read it"),
        (
            ["--objective", "continued", "--kl", ".1"],
            "--kl: continued does not read it; it is for grpo, adagrpo",
        ),
        (
            ["--rl-steps", "5"],
            "--rl-steps: without reinforcement learning it has no effect; add --objective",
        ),
        (["--no-repair"], "--repair: without reinforcement learning it has no effect; add --objective"),
        (["--floors", "--epochs", "3"], "--epochs: it has no effect with --floors; leave one of them out"),
        (["--tiny", "--floors", "--objective", "grpo"], "--objective: it has no effect with --floors"),
        (["--tiny", "--objective", "none", "--gate", "open"], "--gate: without reinforcement learning"),
    ],
)
def test_a_setting_that_no_arm_reads_is_one_line(flags, message):
    with pytest.raises(InputError) as caught:
        arms(*flags)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "arm", "setting", "value"),
    [
        ("--objective adagrpo --gate open", "adagrpo", "gate", "open"),
        ("--objective adagrpo --ranker right", "adagrpo", "ranker", "right"),
        ("--objective grpo --reward ranker --ranker right", "grpo", "ranker", "right"),
        ("--objective flexrec --credit list", "flexrec", "credit", "list"),
        ("--objective list --feedback .5", "list", "feedback", 0.5),
        ("--objective continued --mask none", "continued", "mask", "none"),
        ("--objective recast --no-repair", "recast", "repair", False),
        ("--objective grpo --rl-steps 5 --kl 0", "grpo", "rl_steps", 5),
        ("--objective flexrec --rl-steps 5", "flexrec", "rl_steps", 5),
        ("--tiny --gate open --credit list --no-repair", "adagrpo", "gate", "open"),
        ("--tiny --gate open --credit list --no-repair", "flexrec", "credit", "list"),
    ],
)
def test_a_setting_that_an_arm_reads_reaches_it(flags, arm, setting, value):
    assert getattr(arms(*flags.split())[arm], setting) == value


def test_without_an_objective_a_run_may_still_leave_users_to_a_later_one():
    assert arms("--fresh", "0.2", "--seed", "3") == {}


def test_an_objective_that_declares_nothing_may_read_anything(monkeypatch):
    monkeypatch.setitem(OBJECTIVES, "best", Objective(OBJECTIVES["grpo"].signal, "best"))
    assert arms("--objective", "best", "--gate", "open")["best"].gate == "open"
    assert experiment.label(Config(objective="best")) == "best"


def test_only_a_reward_that_is_made_from_the_truth_is_called_simulated():
    assert experiment.label(arms("--objective", "adagrpo")["adagrpo"]) == "AdaGRPO"
    assert experiment.label(arms("--tiny")["grpo"]) == "GRPO"
    designed = arms("--objective", "grpo", "--reward", "ranker", "--ranker", "right")
    assert experiment.label(designed["grpo"]) == "GRPO, simulated reward"


def test_a_reward_is_the_hit_or_the_ranker_that_the_arm_names():
    cfg = Config(world_items=64, world_users=30, objective="grpo")
    dataset = make_world(cfg).dataset()
    run, items = SimpleNamespace(dataset=dataset), torch.arange(12).view(3, 4)
    batch = dataset.valid.batch(torch.arange(3), 5)
    for kind in ("right", "harmful"):
        reward, _ = experiment.item_reward(replace(cfg, reward="ranker", ranker=kind), run)
        assert torch.equal(reward(batch, items), designed(dataset.world, kind)(batch, items))
    assert experiment.item_reward(cfg, run) == (hit, [])
