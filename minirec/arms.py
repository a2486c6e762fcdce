"""Every objective from the same start: one supervised policy, one run folder, one folder below it per arm.

An arm is the settings of the run with an objective's own. Arms have the same contexts, the same noise and the
same number of rollouts; beside every arm of next items stands *supervised continued*.
"""

from __future__ import annotations

import copy
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from minirec import checkpoint, config, exposure, tasks
from minirec.config import ELSEWHERE, Config
from minirec.errors import InputError
from minirec.fit import fit
from minirec.machine import Processes
from minirec.objectives import OBJECTIVES
from minirec.policy import Policy
from minirec.records import Dataset
from minirec.reinforce import Reinforcement
from minirec.trie import Trie
from minirec.world import make_world

LABELS = {
    "continued": "supervised continued",
    "grpo": "GRPO",
    "adagrpo": "AdaGRPO",
    "recast": "ReCast",
    "flexrec": "FlexRec",
    "list": "list-level GRPO",
}
LISTS = ("flexrec", "list")
NOTE = (
    "One data set, one seed, one learning rate for all arms: they show the mechanism and prove no claim. The "
    "loss in metrics.jsonl is near 0 while a policy learns, as its ratio is 1 and advantages sum to 0; the "
    "gradient is not 0."
)


@dataclass(frozen=True)
class Reinforced:
    """What reinforcement learning came to."""

    policies: dict[str, Policy]  # next-item arms, by the keys of LABELS
    lists: list[dict[str, str | float]]  # a row per way of ranking closed sets
    notes: list[str]  # what is to be said beside the numbers


def arms(cfg: Config) -> list[str]:
    """The arms of a run: those of its objective, with the control beside."""
    if cfg.objective == "none":
        return []
    if cfg.objective == "all":
        return list(LABELS)
    if cfg.objective in LISTS:
        return list(LISTS)
    return list(dict.fromkeys(("continued", cfg.objective)))


def settings(cfg: Config, arm: str) -> Config:
    """The settings of one arm.

    Args:
        cfg: of the run.
        arm: a key of LABELS.

    Returns:
        The Config of the arm, with every ``auto`` decided and its own folder.
    """
    own = replace(cfg, objective=arm, out=f"{cfg.out}/{arm}", sasrec=False, resume=False)
    if arm in LISTS:
        own = replace(own, rl_steps=cfg.list_steps, rl_rate=cfg.list_rate, group=cfg.list_group)
        return replace(own, credit="list") if arm == "list" else own
    mask, reward = ("none", "ranker") if arm == "adagrpo" else ("trie", "hit")
    return replace(
        own,
        mask=mask if cfg.mask == "auto" else cfg.mask,
        reward=reward if cfg.reward == "auto" else cfg.reward,
    )


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
        other = [name for name in new if name not in ELSEWHERE and old[name] != new[name]]
        if other:
            flag = "--" + other[0].replace("_", "-")
            raise InputError(f"{flag}: {run} was made with {old[other[0]]}; remove it, or use another --out")
        return
    run.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(base / "data.pt", run / "data.pt")
    config.write(cfg, run / "config.json")


def item_reward(cfg: Config, dataset: Dataset) -> tuple[tasks.Reward, list[str]]:
    """The reward of an arm of next items, and what is to be said of it.

    Args:
        cfg: of the arm.
        dataset: for a trained ranker.

    Returns:
        The binary hit, or a ranker's score.

    Raises:
        InputError: a designed ranker is asked for on real data.
    """
    if cfg.reward == "hit":
        return tasks.hit, []
    world = make_world(cfg)
    rank = exposure.ranker(world, cfg.ranker)
    said = f"AdaGRPO: simulated reward, the world's designed ranker '{cfg.ranker}'"
    return lambda batch, items: rank(batch.user, items), [said]


def train_arm(cfg: Config, start: Policy, task: tasks.NextItem, processes: Processes) -> Policy:
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


def reinforce_all(
    cfg: Config, supervised: Policy, trie: Trie, dataset: Dataset, processes: Processes
) -> Reinforced:
    """Run the arms of ``cfg.objective``, each from the supervised policy.

    Args:
        cfg: of the run.
        supervised: for its shape; the weights are read from the run folder.
        trie: the catalogue.
        dataset: with fresh contexts.
        processes: this one and the others.

    Returns:
        The Reinforced, empty without an objective.

    Raises:
        InputError: supervised training left no users to RL, or an arm cannot be run on this data.
    """
    base, policies, notes = Path(cfg.out), {}, []
    asked = arms(cfg)
    if not asked:
        return Reinforced({}, [], [])
    if dataset.fresh is None:
        raise InputError(
            f"--objective: supervised training in {base} saw every user; train anew with --fresh 0.2"
        )
    processes.total(0)  # the first process has written the checkpoint
    start = copy.deepcopy(supervised)
    start.load_state_dict(checkpoint.load(base / "checkpoint.pt")["best"])
    own = {arm: settings(cfg, arm) for arm in asked}
    if processes.rank == 0:
        for each in own.values():
            prepare(each, base)
        print("", NOTE, sep="\n")
    notes.append(NOTE)
    processes.total(0)  # the folders are there
    for arm, each in own.items():
        if arm in LISTS:
            continue
        reward, said = item_reward(each, dataset)
        notes += said
        if processes.rank == 0:
            print(
                f"\n{LABELS[arm]}: {each.rl_steps} batches of {each.contexts} x {each.group}", *said, sep="\n"
            )
        task = tasks.NextItem(each, dataset, trie, reward, processes)
        policies[arm] = train_arm(each, start, task, processes)
    return Reinforced(policies, [], notes)
