"""The arms of a run, one after another: rewards and starts are made once, all arms share them."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn

from minirec import rankings, tasks
from minirec.data.lists import HELD_OUT, NEEDS, PARTS, make_lists
from minirec.data.lists import floors as list_floors
from minirec.data.vectors import item_vectors
from minirec.data.world import make_world
from minirec.errors import InputError
from minirec.measure.metrics import paired_bootstrap
from minirec.measure.rankers import describe_ranker
from minirec.models import ranker
from minirec.models.critic import Critic, train_critic
from minirec.policy import Policy
from minirec.records import Dataset
from minirec.run import checkpoint
from minirec.run.arms import (
    LISTS,
    NOTE,
    Reinforced,
    announce,
    arms,
    kept,
    prepare,
    settings,
    title,
    train_arm,
)
from minirec.run.machine import Processes
from minirec.settings import Config
from minirec.trie import Trie

TRAINED = [need for need in NEEDS if need != HELD_OUT]
LISTS_READ = ("seed", "candidates", "feedback")  # the settings that lists and their gains depend on ..
START_READ = ("seed", "candidates", "contexts", "list_rate", "clip")  # .. and supervised training on lists
IMPRESSIONS = 250  # per user of the simulated world, for a trained ranker


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
        said = f"{title(cfg.objective)}: simulated reward, the world's designed ranker '{cfg.ranker}'"
        return ranker.designed(world, cfg.ranker), [said]
    if world is None:
        empty: nn.Module = ranker.LogRanker(len(dataset.catalogue), cfg.history)
    else:
        empty = ranker.ExposureRanker(len(world.taste), world.features)

    def make() -> nn.Module:
        if world is None:
            return ranker.trained_on_log(dataset, cfg.history, cfg.seed)
        return ranker.trained_on_exposures(world, IMPRESSIONS * len(world.taste), cfg.seed)

    model = kept(base / "ranker.pt", cfg, ("seed", "history"), make, empty.requires_grad_(False), processes)
    said = describe_ranker(model.cpu(), dataset, cfg.history, world) if processes.rank == 0 else []
    return model.to(processes.device), [f"{title(cfg.objective)}: the reward is a trained ranker", *said]


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
        task = tasks.NextItem(each, dataset, trie, reward, processes)
        policies[arm] = train_arm(each, start, task, processes)
    if any(arm in LISTS for arm in own):
        lists = {arm: each for arm, each in own.items() if arm in LISTS}
        rows, said = list_arms(lists, cfg, start, trie, dataset, processes)
        notes += said
    return Reinforced(policies, rows, notes)


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
    try:
        train, valid, test, known = (make_lists(cfg, dataset, part, world) for part in PARTS)
    except InputError as error:
        if cfg.objective != "all":
            raise
        return [], [f"no list arms: {error}"]
    vectors = item_vectors(dataset, cfg.seed)

    def new_critic() -> Critic:
        return Critic(vectors, dataset.periods, cfg.seed)

    critic = kept(
        base / "critic.pt",
        cfg,
        (*LISTS_READ, "critic_steps"),
        lambda: train_critic(new_critic(), train, cfg.seed, cfg.critic_steps),
        new_critic(),
        processes,
    )
    critic.requires_grad_(False).eval()
    seen = rankings.Rankings(cfg, trie, train, valid, critic, processes).feedback
    first = kept(
        base / "lists.pt",
        cfg,
        (*START_READ, "warm"),
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
    control = kept(
        base / "supervised_lists.pt",
        cfg,
        (*START_READ, *LISTS_READ, "warm", "critic_steps", "list_steps"),
        lambda: rankings.imitate(cfg, first, trie, train, lambda x: seen(x)[0], cfg.list_steps, device),
        copy.deepcopy(start),
        processes,
    )
    if processes.rank:
        return [], []
    found = list_floors(known, test, len(trie), cfg.seed)  # by need, then by floor
    every = torch.arange(len(test))
    models = {"list start": first, "list-wise supervised": control} | {
        title(arm): policy for arm, policy in trained.items()
    }
    for name, model in models.items():
        for need, measured in rankings.by_need(model, trie, test, every, device).items():
            found[need][name] = measured
    names = list(found["interest"])
    means = {
        name: {need: by[name][rankings.METRIC].nanmean().item() for need, by in found.items()}
        for name in names
    }
    said = [
        f"lists: {len(test):,} test sets of {cfg.candidates}; {cfg.feedback:.0%} of the gains are seen "
        "in training, the critic's mean stands for the rest"
    ]
    if len(trained) == 2:
        both = [[found[need][title(arm)][rankings.METRIC] for need in TRAINED] for arm in trained]
        one, other = map(torch.stack, both)  # (needs, S)
        whole = ~(one - other).isnan().any(0)
        by = paired_bootstrap(one[:, whole].mean(0), other[:, whole].mean(0), cfg.seed)
        said.append(
            "FlexRec minus list-level GRPO, ndcg@5, mean of the trained needs: "
            "{:+.4f} (95 % interval {:+.4f} to {:+.4f})".format(*by)
        )
    return [{"method": name, **means[name]} for name in names], said
