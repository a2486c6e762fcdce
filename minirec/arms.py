"""Every objective from the same start: one supervised policy, one run folder, one folder below it per arm.

An arm is the settings of the run with an objective's own. Arms have the same contexts, the same noise and the
same number of rollouts; beside every arm of next items stands *supervised continued*.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn

from minirec import checkpoint, config, ranker, rankings, tasks
from minirec.config import ELSEWHERE, Config
from minirec.critic import Critic
from minirec.critic import fit as fit_critic
from minirec.errors import InputError
from minirec.fit import fit
from minirec.lists import HELD_OUT, NEEDS, PARTS, make_lists
from minirec.lists import floors as list_floors
from minirec.machine import Processes
from minirec.metrics import paired_bootstrap
from minirec.objectives import OBJECTIVES
from minirec.policy import Policy
from minirec.records import Dataset
from minirec.reinforce import Reinforcement
from minirec.trie import Trie
from minirec.vectors import item_vectors
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
TRAINED = [need for need in NEEDS if need != HELD_OUT]
Task = tasks.NextItem | rankings.Rankings
IMPRESSIONS = 250  # per user of the simulated world, for a trained ranker
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
        return replace(own, credit="list", uncertainty="none") if arm == "list" else own
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


def item_reward(
    cfg: Config, dataset: Dataset, base: Path, processes: Processes
) -> tuple[tasks.Reward, list[str]]:
    """The reward of an arm of next items, and what is to be said of it.

    Args:
        cfg: of the arm.
        dataset: for a ranker.
        base: where a trained ranker is kept, as ranker.pt.
        processes: the first one trains the ranker, all load it.

    Returns:
        The binary hit, or a ranker's score; lines about the ranker.

    Raises:
        InputError: a designed ranker is asked for on real data.
    """
    if cfg.reward == "hit":
        return tasks.hit, []
    world = None if cfg.data else make_world(cfg)
    if cfg.ranker != "trained":
        if world is None:
            raise InputError(f"--ranker: '{cfg.ranker}' is made from the simulated world; use trained")
        said = f"simulated reward: the world's designed ranker '{cfg.ranker}'"
        return ranker.designed(world, cfg.ranker), [said]
    if world is None:
        empty: nn.Module = ranker.LogRanker(len(dataset.catalogue), cfg.history)
    else:
        empty = ranker.ExposureRanker(len(world.taste), world.features)

    def make() -> nn.Module:
        if world is None:
            return ranker.trained_on_log(dataset, cfg.history, cfg.seed)
        return ranker.trained_on_exposures(world, IMPRESSIONS * len(world.taste), cfg.seed)

    model = kept(base / "ranker.pt", make, empty.requires_grad_(False), processes)
    said = ranker.describe(model, dataset, cfg.history, world) if processes.rank == 0 else []
    return model, ["reward: a trained ranker", *said]


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
    rows: list[dict[str, str | float]] = []
    for arm, each in own.items():
        if arm in LISTS:
            continue
        reward, said = item_reward(each, dataset, base, processes)
        notes += said
        if processes.rank == 0:
            print("", *announce(arm, each), *said, sep="\n")
        task: Task = tasks.NextItem(each, dataset, trie, reward, processes)
        policies[arm] = train_arm(each, start, task, processes)
    if any(arm in LISTS for arm in own):
        lists = {arm: each for arm, each in own.items() if arm in LISTS}
        rows, said = list_arms(lists, cfg, start, trie, dataset, processes)
        notes += said
    return Reinforced(policies, rows, notes)


def announce(arm: str, cfg: Config) -> list[str]:
    """The line that opens an arm."""
    return [f"{LABELS[arm]}: {cfg.rl_steps} batches of {cfg.contexts} x {cfg.group} rollouts"]


def kept(path: Path, make: Callable[[], nn.Module], empty: nn.Module, processes: Processes) -> nn.Module:
    """Make a model once, in the first process, and load it in all.

    Args:
        path: of its weights; where the file is there already, nothing is made.
        make: trains the model.
        empty: a model of that shape, for the weights.
        processes: this one and the others.

    Returns:
        ``empty`` with the weights, on the device.
    """
    if processes.rank == 0 and not path.is_file():
        checkpoint.save(path, make().state_dict())
    processes.total(0)  # the file is there
    empty.load_state_dict(checkpoint.load(path))
    return empty.to(processes.device)


def list_arms(
    own: dict[str, Config], cfg: Config, start: Policy, trie: Trie, dataset: Dataset, processes: Processes
) -> tuple[list[dict[str, str | float]], list[str]]:
    """Run the arms that rank closed sets, from one list start, and measure them beside floors.

    Args:
        own: by arm, its settings.
        cfg: of the run.
        start: the supervised policy.
        trie: the catalogue.
        dataset: with users left to RL.
        processes: this one and the others.

    Returns:
        A row per way of ranking, with ndcg@5 on test lists by need; and lines about them.

    Raises:
        InputError: the data cannot give lists with gains.
    """
    base, device = Path(cfg.out), processes.device
    world = None if cfg.data else make_world(cfg)
    train, valid, test, known = (make_lists(cfg, dataset, part, world) for part in PARTS)
    vectors = item_vectors(dataset, cfg.seed)

    def new_critic() -> Critic:
        return Critic(vectors, dataset.periods, cfg.seed)

    critic = kept(
        base / "critic.pt",
        lambda: fit_critic(new_critic(), train, cfg.critic_steps, cfg.seed),
        new_critic(),
        processes,
    )
    critic.requires_grad_(False).eval()
    first = kept(
        base / "lists.pt",
        lambda: rankings.warm_start(cfg, start, trie, train, device),
        copy.deepcopy(start),
        processes,
    )
    trained: dict[str, Policy] = {}
    for arm, each in own.items():
        if processes.rank == 0:
            print("", *announce(arm, each), sep="\n")
        task = rankings.Rankings(each, trie, train, valid, critic, processes)
        trained[arm] = train_arm(each, first, task, processes)
    if processes.rank:
        return [], []
    found = list_floors(known, test, len(trie), cfg.seed)  # by need, then by floor
    every = torch.arange(len(test))
    models = {"list start": first} | {LABELS[arm]: policy for arm, policy in trained.items()}
    for name, model in models.items():
        for need, measured in rankings.by_need(model, trie, test, every, device).items():
            found[need][name] = measured
    names = list(found["interest"])
    means = {
        name: {need: found[need][name][rankings.METRIC].nanmean().item() for need in found} for name in names
    }
    said = [
        f"lists: {len(test):,} test sets of {cfg.candidates}; {cfg.feedback:.0%} of the gains are observed in "
        "training, the critic's mean stands for the rest"
    ]
    if len(trained) == 2:
        one, other = (
            torch.stack([found[need][LABELS[arm]][rankings.METRIC] for need in TRAINED]) for arm in own
        )
        whole = ~(one - other).isnan().any(0)
        by = paired_bootstrap(one[:, whole].mean(0), other[:, whole].mean(0), cfg.seed)
        said.append(
            "FlexRec minus list-level GRPO, ndcg@5, mean of the trained needs: "
            "{:+.4f} (95 % interval {:+.4f} to {:+.4f})".format(*by)
        )
    return [{"method": name, **means[name]} for name in names], said
