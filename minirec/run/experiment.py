"""Every objective from the same start: one supervised policy, one run folder, one folder below it per arm.

An arm is the settings of the run with an objective's own. Arms have the same contexts, noise and number of
rollouts; beside every arm of next items stands *supervised continued*.
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

from minirec import settings
from minirec.data.dataset import contexts
from minirec.data.lists import PARTS, make_lists
from minirec.errors import InputError, nearest
from minirec.measure import evaluation, exact, pictures, rankings, report
from minirec.models import ranker
from minirec.objectives import OBJECTIVES, settings_of
from minirec.run import folder, lists
from minirec.run.training import LINES, PRINTED, train_arm
from minirec.settings import Config
from minirec.tasks import NextItem, Processes, Reward, hit

VALID = 1000  # contexts of a line's validation
IMPRESSIONS = 250  # per user of the simulated world, for a trained ranker
NOTE = (
    "One data set, one seed, no learning rate of an arm's own: the numbers show the mechanism and prove no "
    "claim. Without NLL, and where advantages sum to 0, the loss in metrics.jsonl is "
    "near 0 while a policy learns, as its ratio is 1; the gradient is not 0."
)


def arms(cfg: Config, given: Iterable[str] = ()) -> dict[str, Config]:
    """The arms of a run, those of its objective with the control beside, and the settings of each.

    Raises InputError for an unknown objective, or for a setting in ``given`` that no arm reads.
    """
    names = {"none": set(), "all": set(OBJECTIVES)}
    names |= {name: {name, "list" if each.lists else "continued"} for name, each in OBJECTIVES.items()}
    if cfg.objective not in names:
        raise InputError(f"--objective: '{cfg.objective}' is not valid{nearest(cfg.objective, names)}")
    asked = [name for name in OBJECTIVES if name in names[cfg.objective]]
    alone = {"sasrec": False, "resume": False}
    chosen = {name: settings_of(cfg, name, **alone, out=f"{cfg.out}/{name}") for name in asked}
    for name in given:
        flag = "--" + name.replace("_", "-")
        if cfg.floors and name in settings.LEARNING:
            raise InputError(f"{flag}: it has no effect with --floors; leave one of them out")
        readers = [arm for arm, objective in OBJECTIVES.items() if name in (objective.reads or ())]
        if name in settings.REINFORCED - {"objective"} and not chosen:
            raise InputError(f"{flag}: without reinforcement learning it has no effect; add --objective")
        if readers and not any(arm in readers or OBJECTIVES[arm].reads is None for arm in chosen):
            raise InputError(f"{flag}: {cfg.objective} does not read it; it is for {', '.join(readers)}")
        if name == "ranker" and not any(each.reward == "ranker" for each in chosen.values()):
            raise InputError("--ranker: no ranker is asked; add --reward ranker")
    return chosen


def label(cfg: Config) -> str:
    """What tables call an arm: a reward that is made from the world's truth says so."""
    objective, simulated = OBJECTIVES[cfg.objective], cfg.reward == "ranker" and cfg.ranker != "trained"
    return objective.title + (", simulated reward" if simulated and not objective.lists else "")


def item_reward(cfg: Config, run: folder.Run) -> tuple[Reward, list[str]]:
    """The reward of an arm of next items, and lines about it; a trained ranker is kept as ranker.pt."""
    title, dataset, world = OBJECTIVES[cfg.objective].title, run.dataset, run.dataset.world
    if cfg.reward == "hit":
        return hit, []
    if cfg.ranker != "trained":
        about = f"simulated reward, the world's designed ranker '{cfg.ranker}'"
        return ranker.designed(world, cfg.ranker), [f"{title}: {about}"]
    if world is None:
        empty = ranker.LogRanker(len(dataset.catalogue), cfg.history)
        make = partial(ranker.trained_on_log, dataset, cfg.history, cfg.seed)
    else:
        empty = ranker.ExposureRanker(len(world.taste), world.features)
        make = partial(ranker.trained_on_exposures, world, IMPRESSIONS * len(world.taste), cfg.seed)
    model = run.kept("ranker.pt", "seed history", make, empty.requires_grad_(False))
    about = [] if run.processes.rank else rankings.describe_ranker(model.cpu(), dataset, cfg.history, world)
    return model.to(run.processes.device), [f"{title}: the reward is a trained ranker", *about]


def begin_arm(cfg: Config) -> None:
    """Make the folder of an arm; InputError if it holds one with other settings."""
    out, path = Path(cfg.out), Path(cfg.out) / "config.json"
    if path.is_file():
        new = {name: value for name, value in vars(cfg).items() if name not in settings.ELSEWHERE | {"given"}}
        return folder.refuse_others(out, vars(settings.read(path)), new)
    settings.write(cfg, path)


def reinforce_all(run: folder.Run, chosen: dict[str, Config]) -> list[str]:
    """Run arms, by their headings, each from the supervised policy in the run folder; returns notes on them.

    Raises InputError if supervised training left no users to RL, or an arm cannot be run on this data.
    """
    if not chosen:
        return []
    if run.dataset.fresh is None:
        saw = f"--objective: supervised training in {run.folder} saw every user"
        raise InputError(f"{saw}; train anew with --fresh 0.2")
    run.processes.wait()  # the first process has written the checkpoint
    start = run.trained()
    if run.processes.rank == 0:
        for each in chosen.values():
            begin_arm(each)
        report.say("", NOTE, *(f"{name}: {LINES[name]}" for name in PRINTED if name != "ndcg@10"))
    run.processes.wait()  # the folders are there
    notes = [NOTE]
    for heading, each in chosen.items():
        if not OBJECTIVES[each.objective].lists:
            reward, about = item_reward(each, run)
            notes += about
            few = evaluation.sample(run.dataset.valid, exact.CONTEXTS, run.cfg.seed)
            shared = {"probe": few, "processes": run.processes}
            task = NextItem(each, run.trie, contexts(run.dataset.fresh), reward, **shared)
            validate = partial(run.validate, count=VALID, names=("ndcg@10", "hallucination"))
            train_arm(run, start, task, validate, heading, *about)
    listwise = {heading: each for heading, each in chosen.items() if OBJECTIVES[each.objective].lists}
    if not listwise:
        return notes
    try:
        sources = {part: make_lists(run.cfg, run.dataset, part) for part in PARTS}
    except InputError as error:
        if run.cfg.objective != "all":
            raise
        return [*notes, f"no list arms: {error}"]
    shared = lists.ListArms(run, start, sources)  # one list start for all
    for heading, each in listwise.items():
        train_arm(run, shared.start, shared.task(each), shared.validate, heading)
    shared.control(next(iter(listwise.values())))
    return notes


def measured(run: folder.Run, split: str) -> report.Results:
    """Measure all that a run folder holds on a split, beside the floors, in this process alone."""
    run = replace(run, processes=Processes(run.processes.device))
    cfg, dataset, whole = run.cfg, run.dataset, getattr(run.dataset, split)
    examples = evaluation.sample(whole, cfg.test_contexts, cfg.seed)
    paths, device = run.folder.glob("*/checkpoint.pt"), run.processes.device
    below = {path.parent.name: folder.find_run(path.parent, device, run) for path in paths}
    runs = {"SASRec": below.pop("sasrec")} if "sasrec" in below else {}
    arms = {name: below.pop(name) for name in OBJECTIVES if name in below}
    notes = [f"{name}: left out, as no such objective is known here" for name in sorted(below)]
    done = {name: [{"step": 0}, *pictures.lines_of(arm.folder)][-1]["step"] for name, arm in arms.items()}
    notes += [f"{name}: not at its end" for name, arm in arms.items() if done[name] < arm.cfg.rl_steps]
    items = {label(arm.cfg): arm for name, arm in arms.items() if not OBJECTIVES[name].lists}
    runs |= ({"supervised": run} if run.trie else {}) | items
    policies = {name: each.trained() for name, each in runs.items()}  # what does not fit is said first
    methods, rows = evaluation.floors(dataset, examples, cfg, split), []
    for name, policy in policies.items():
        methods[name] = evaluation.evaluate_policy(policy, runs[name].trie, dataset, examples, cfg)
    listwise = {label(arm.cfg): arm for name, arm in arms.items() if OBJECTIVES[name].lists}
    if listwise and (run.folder / "supervised_lists.pt").is_file():  # made when all have been trained
        arm = replace(next(iter(listwise.values())).cfg, out=cfg.out)
        sources = {part: make_lists(arm, dataset, part) for part in PARTS}
        shared = lists.ListArms(replace(run, cfg=arm), policies["supervised"], sources)
        rows, about = shared.compare({name: arm.trained() for name, arm in listwise.items()}, arm, split)
        notes += about
    return report.Results(methods, split, tuple(items), rows, notes, len(whole))
