"""Every objective from the same start: one supervised policy, one run folder, one folder below it per arm.

An arm is the settings of the run with an objective's own. Arms have the same contexts, the same noise and the
same number of rollouts; beside every arm of next items stands *supervised continued*.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import nn

from minirec import config, rankings, tasks
from minirec.errors import InputError
from minirec.objectives import OBJECTIVES
from minirec.policy import Policy
from minirec.run import checkpoint
from minirec.run.fit import fit
from minirec.run.machine import Processes
from minirec.run.reinforce import Reinforcement
from minirec.settings import ELSEWHERE, Config

NAMES = {"continued": "supervised continued", "grpo": "GRPO", "adagrpo": "AdaGRPO"}
NAMES |= {"recast": "ReCast", "flexrec": "FlexRec", "list": "list-level GRPO"}
LISTS = ("flexrec", "list")
Task = tasks.NextItem | rankings.Rankings
NOTE = (
    "One data set, one seed, one learning rate for all next-item arms and one for lists: they show the "
    "mechanism and prove no claim. Without NLL, and where advantages sum to 0, the loss in metrics.jsonl is "
    "near 0 while a policy learns, as its ratio is 1; the gradient is not 0."
)


@dataclass(frozen=True)
class Reinforced:
    """What reinforcement learning came to."""

    policies: dict[str, Policy]  # next-item arms, by name in OBJECTIVES
    lists: list[dict[str, str | float]]  # a row per way of ranking closed sets
    notes: list[str]  # what is to be said beside the numbers


def title(arm: str) -> str:
    """What an arm is called in tables and figures: a new objective by its own name."""
    return NAMES.get(arm, arm)


def arms(cfg: Config) -> list[str]:
    """The arms of a run: those of its objective, with the control beside."""
    if cfg.objective == "none":
        return []
    if cfg.objective == "all":
        return list(OBJECTIVES)
    if cfg.objective in LISTS:
        return list(LISTS)
    return list(dict.fromkeys(("continued", cfg.objective)))


def settings(cfg: Config, arm: str) -> Config:
    """The settings of one arm.

    Args:
        cfg: of the run.
        arm: a name in OBJECTIVES.

    Returns:
        The Config of the arm, with every ``auto`` decided and its own folder.

    Raises:
        InputError: a gate that could never open, or a designed ranker on real data.
    """
    own = replace(cfg, objective=arm, out=f"{cfg.out}/{arm}", sasrec=False, resume=False)
    if arm in LISTS:
        own = replace(own, rl_steps=cfg.list_steps, rl_rate=cfg.list_rate, group=cfg.list_group)
        return replace(own, credit="list", uncertainty="none") if arm == "list" else own
    if arm == "adagrpo" and cfg.tau * cfg.group < 1:
        raise InputError(
            f"--tau: {cfg.tau} of a group of {cfg.group} is less than one place, so the gate could never "
            f"open; the smallest that can is {1 / cfg.group:.4g}"
        )
    if arm == "adagrpo" and cfg.data and cfg.ranker != "trained":
        raise InputError(f"--ranker: '{cfg.ranker}' is made from the simulated world; use trained")
    mask, reward = ("none", "ranker") if arm == "adagrpo" else ("trie", "hit")
    return replace(
        own,
        mask=mask if cfg.mask == "auto" else cfg.mask,
        reward=reward if cfg.reward == "auto" else cfg.reward,
    )


def label(cfg: Config) -> str:
    """What tables call an arm: a reward that is made from the world's truth says so.

    Args:
        cfg: of the arm.

    Returns:
        The label.
    """
    simulated = cfg.reward == "ranker" and cfg.ranker != "trained"
    return title(cfg.objective) + (", simulated reward" if simulated else "")


def prepare(cfg: Config, base: Path) -> None:
    """Make the folder of an arm, or find it there to go on with.

    Args:
        cfg: of the arm.
        base: folder of the supervised run, whose data.pt it shares.

    Raises:
        InputError: the folder holds an arm with other settings.
    """
    run = Path(cfg.out)
    if (run / "config.json").is_file():
        old, new = asdict(config.read(run / "config.json")), asdict(cfg)
        for name in new:
            if name not in ELSEWHERE:
                refuse_other(run, name, old[name], new[name])
        return
    run.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(base / "data.pt", run / "data.pt")
    config.write(cfg, run / "config.json")


def train_arm(cfg: Config, start: Policy, task: Task, processes: Processes) -> Policy:
    """Run one arm to its end, from its checkpoint where there is one.

    Args:
        cfg: of the arm.
        start: the policy to start at, and the reference of the KL.
        task: what is asked.
        processes: this one and the others.

    Returns:
        The policy at the last step.
    """
    arm = Reinforcement(cfg, start, task, OBJECTIVES[cfg.objective], processes)
    run = Path(cfg.out)
    if (run / "checkpoint.pt").is_file():
        arm.load(run)
    return fit(arm, run)


def announce(arm: str, cfg: Config) -> list[str]:
    """Say what an arm is going to do.

    Args:
        arm: a name in OBJECTIVES.
        cfg: of the arm.

    Returns:
        The lines that open it.
    """
    return [f"{title(arm)}: {cfg.rl_steps} batches of {cfg.contexts} x {cfg.group} rollouts"]


def kept(
    path: Path,
    cfg: Config,
    read: tuple[str, ...],
    make: Callable[[], nn.Module],
    empty: nn.Module,
    processes: Processes,
) -> nn.Module:
    """Make a model once, in the first process, and load it in all.

    Args:
        path: of its weights; where the file is there already, nothing is made.
        cfg: of the run.
        read: names of the settings that the model depends on.
        make: trains the model.
        empty: a model of that shape, for the weights.
        processes: this one and the others.

    Returns:
        ``empty`` with the weights, on the device.

    Raises:
        InputError: the file was made with other settings.
    """
    settings = {name: getattr(cfg, name) for name in read}
    if processes.rank == 0 and not path.is_file():
        checkpoint.save(path, {"settings": settings, "weights": make().state_dict()})
    processes.total(0)  # the file is there
    found = checkpoint.load(path)
    for name, value in settings.items():
        refuse_other(path, name, found["settings"][name], value)
    empty.load_state_dict(found["weights"])
    return empty.to(processes.device)


def refuse_other(path: Path, name: str, old: object, new: object) -> None:
    """Refuse what was made with another value of a setting.

    Args:
        path: what was made.
        name: of the setting.
        old: its value there.
        new: its value now.

    Raises:
        InputError: they differ.
    """
    if old != new:
        flag = "--" + name.replace("_", "-")
        raise InputError(f"{flag}: {path} was made with {old}; remove it, or use another --out")
