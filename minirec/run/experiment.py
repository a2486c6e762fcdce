"""Every objective from the same start: one supervised policy, one run folder, one folder below it per arm.

An arm is the settings of the run with an objective's own. Arms have the same contexts, the same noise and the
same number of rollouts; beside every arm of next items stands *supervised continued*.
"""

import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from minirec import settings
from minirec.data.contexts import contexts
from minirec.data.lists import PARTS, make_lists
from minirec.errors import InputError, nearest
from minirec.measure.evaluation import evaluate_policy
from minirec.measure.probe import CONTEXTS
from minirec.measure.rankers import describe_ranker
from minirec.measure.report import Row
from minirec.models import ranker
from minirec.objectives import OBJECTIVES, settings_of
from minirec.policy import Policy
from minirec.run.folder import Run, kept, refuse_other
from minirec.run.lists import prepare_lists
from minirec.run.reinforced import Reinforcement, Validate
from minirec.run.training import fit
from minirec.settings import ELSEWHERE, REINFORCED, Config
from minirec.tasks import NextItem, Rankings, Reward, hit

VALID = 1000  # contexts of a line's validation
IMPRESSIONS = 250  # per user of the simulated world, for a trained ranker
NOTE = (
    "One data set, one seed, no learning rate of an arm's own: the numbers show the mechanism and prove no "
    "claim. Without NLL, and where advantages sum to 0, the loss in metrics.jsonl is "
    "near 0 while a policy learns, as its ratio is 1; the gradient is not 0."
)


@dataclass(frozen=True)
class Reinforced:
    """What reinforcement learning came to."""

    policies: dict[str, Policy] = field(default_factory=dict)  # arms of next items, by what tables call them
    lists: list[Row] = field(default_factory=list)  # a row per way of ranking closed sets
    notes: list[str] = field(default_factory=list)  # what is to be said beside the numbers


def arms(cfg: Config, given: Iterable[str] = ()) -> dict[str, Config]:
    """The arms of a run, those of its objective with the control beside, and the settings of each.

    Raises InputError for an unknown objective, or for a setting in ``given`` that no arm reads.
    """
    if cfg.objective not in (choices := ("none", "all", *OBJECTIVES)):
        raise InputError(f"--objective: '{cfg.objective}' is not valid{nearest(cfg.objective, choices)}")
    if cfg.objective == "all":
        names = list(OBJECTIVES)
    elif cfg.objective == "none":
        names = []
    else:
        control = "list" if OBJECTIVES[cfg.objective].lists else "continued"
        names = sorted({cfg.objective, control}, key=list(OBJECTIVES).index)
    chosen = {name: replace(settings_of(cfg, name), sasrec=False, resume=False) for name in names}
    chosen = {name: replace(each, out=f"{cfg.out}/{name}") for name, each in chosen.items()}
    _refuse_ignored(cfg, chosen, given)
    return chosen


def _refuse_ignored(cfg: Config, chosen: dict[str, Config], given: Iterable[str]) -> None:
    """Raise InputError for a setting that was given and that no arm reads."""
    special = {name for objective in OBJECTIVES.values() for name in objective.reads or ()}
    for name in given:
        flag, reads = "--" + name.replace("_", "-"), [OBJECTIVES[arm].reads for arm in chosen]
        if name in REINFORCED - {"objective"} and not chosen:
            raise InputError(f"{flag}: without reinforcement learning it has no effect; add --objective")
        if name in special and not any(each is None or name in each for each in reads):
            readers = [arm for arm, objective in OBJECTIVES.items() if name in (objective.reads or ())]
            raise InputError(f"{flag}: {cfg.objective} does not read it; it is for {', '.join(readers)}")
        if name == "ranker" and not any(each.reward == "ranker" for each in chosen.values()):
            raise InputError("--ranker: no ranker is asked; add --reward ranker")


def label(cfg: Config) -> str:
    """What tables call an arm: a reward that is made from the world's truth says so."""
    simulated = cfg.reward == "ranker" and cfg.ranker != "trained"
    return OBJECTIVES[cfg.objective].title + (", simulated reward" if simulated else "")


def item_reward(cfg: Config, run: Run) -> tuple[Reward, list[str]]:
    """The reward of an arm of next items, the binary hit or a ranker's score, and lines about the ranker.

    A trained ranker is kept in the run folder as ranker.pt; the first process trains it, all load it.
    """
    title, dataset, world = OBJECTIVES[cfg.objective].title, run.dataset, run.dataset.world
    if cfg.reward == "hit":
        return hit, []
    if cfg.ranker != "trained":
        note = f"{title}: simulated reward, the world's designed ranker '{cfg.ranker}'"
        return ranker.designed(world, cfg.ranker), [note]
    if world is None:
        empty: nn.Module = ranker.LogRanker(len(dataset.catalogue), cfg.history)
        make = partial(ranker.trained_on_log, dataset, cfg.history, cfg.seed)
    else:
        empty = ranker.ExposureRanker(len(world.taste), world.features)
        make = partial(ranker.trained_on_exposures, world, IMPRESSIONS * len(world.taste), cfg.seed)
    model = kept(run, "ranker.pt", ("seed", "history"), make, empty.requires_grad_(False))
    about = [] if run.processes.rank else describe_ranker(model.cpu(), dataset, cfg.history, world)
    return model.to(run.processes.device), [f"{title}: the reward is a trained ranker", *about]


def next_items(cfg: Config, run: Run, reward: Reward) -> tuple[NextItem, Validate]:
    """The task of an arm of next items, and its validation."""
    dataset = run.dataset
    order = torch.randperm(len(dataset.valid), generator=torch.Generator().manual_seed(cfg.seed))
    valid = dataset.valid.select(order[:VALID])
    probe = valid.select(torch.arange(min(CONTEXTS, len(valid))))
    narrow = replace(cfg, beam=20, samples=0)

    def validate(policy: Policy) -> dict[str, float]:
        result = evaluate_policy(policy, run.trie, dataset, valid, narrow)
        return {name: result.values[name].mean().item() for name in ("ndcg@10", "hallucination")}

    task = NextItem(cfg, run.trie, contexts(dataset.fresh), reward, probe=probe, processes=run.processes)
    return task, validate


def begin_arm(cfg: Config, base: Path) -> None:
    """Make the folder of an arm on the run's data; InputError if it holds one with other settings."""
    folder = Path(cfg.out)
    if (folder / "config.json").is_file():
        old, new = asdict(settings.read(folder / "config.json")), asdict(cfg)
        for name in new:
            if name not in ELSEWHERE | {"given"}:
                refuse_other(folder, name, old[name], new[name])
        return
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(base / "data.pt", folder / "data.pt")
    settings.write(cfg, folder / "config.json")


def train_arm(
    cfg: Config, run: Run, start: Policy, task: NextItem | Rankings, validate: Validate, notes: list[str]
) -> Policy:
    """Run one arm to its end, from its checkpoint where there is one; the policy at the last step."""
    objective = OBJECTIVES[cfg.objective]
    if run.processes.rank == 0:
        line = f"{objective.title}: {cfg.rl_steps} batches of {cfg.contexts} x {cfg.group} rollouts"
        print("", line, *notes, sep="\n")
    return fit(Reinforcement(start, task, objective, validate), Path(cfg.out))


def reinforce_all(run: Run, chosen: dict[str, Config]) -> Reinforced:
    """Run arms one after another, each from the supervised policy in the run folder.

    Raises InputError if supervised training left no users to RL, or an arm cannot be run on this data.
    """
    if not chosen:
        return Reinforced()
    if run.dataset.fresh is None:
        why = f"supervised training in {run.folder} saw every user; train anew with --fresh 0.2"
        raise InputError(f"--objective: {why}")
    run.processes.wait()  # the first process has written the checkpoint
    start = run.trained()
    if run.processes.rank == 0:
        for each in chosen.values():
            begin_arm(each, run.folder)
        print("", NOTE, sep="\n")
    run.processes.wait()  # the folders are there
    policies, notes = {}, [NOTE]
    for name, each in chosen.items():
        if not OBJECTIVES[name].lists:
            reward, about = item_reward(each, run)
            notes += about
            task, validate = next_items(each, run, reward)
            policies[label(each)] = train_arm(each, run, start, task, validate, about)
    listwise = {name: each for name, each in chosen.items() if OBJECTIVES[name].lists}
    rows, about = _list_arms(run, listwise, start, alone=run.cfg.objective != "all") if listwise else ([], [])
    return Reinforced(policies, rows, notes + about)


def _list_arms(
    run: Run, chosen: dict[str, Config], start: Policy, alone: bool
) -> tuple[list[Row], list[str]]:
    """Run the arms that rank closed sets, from one list start, and measure them beside floors."""
    try:
        sources = {part: make_lists(run.cfg, run.dataset, part) for part in PARTS}
    except InputError as error:
        if alone:
            raise
        return [], [f"no list arms: {error}"]
    lists, trained = prepare_lists(run, start, sources), {}
    for name, each in chosen.items():
        trained[name] = train_arm(each, run, lists.start, lists.task(each), lists.validate, [])
    return lists.compare(trained, next(iter(chosen.values())))
