"""The whole run, from a log to a report: ``python -m minirec.train --tiny``."""

import shlex
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from minirec import settings
from minirec.data import prepare
from minirec.errors import InputError, command
from minirec.files import owned
from minirec.measure import report
from minirec.run import experiment, folder, machine, training
from minirec.tasks import Processes


def finish(run: folder.Run, notes: list[str], began: float) -> None:
    """Evaluate beside the floors on the test split, write and print the report, and say what comes next."""
    results, cfg, dataset = experiment.measured(run, "test"), run.cfg, run.dataset
    report.say(report.text(results, cfg.seed))
    results, seconds = replace(results, notes=[*notes, *results.notes]), time.monotonic() - began
    written = report.write(results, dataset, cfg, seconds, run.notes)
    report.say("", f"{seconds:.0f} s; written to {cfg.out}: {', '.join(path.name for path in written)}")
    if not run.trie:
        return
    user = dataset.users[dataset.test.user[0]]
    ask = [sys.orig_argv[0], "-m", "minirec.recommend", "--run", cfg.out, f"--user={user}"]
    print(f"Ask it: {shlex.join(ask)}")  # in one piece, whatever the width
    report.say(f"Then read {cfg.out}/report.md, which says what all methods and columns are.")


def floors(cfg: settings.Config, began: float) -> None:
    """Read the data, and evaluate the floors alone; InputError if the folder holds a run."""
    folder.refuse_runs([cfg])
    dataset, summary = prepare.read(cfg)
    report.say(summary)
    with owned(Path(cfg.out)):
        finish(folder.Run(cfg, dataset, None, Processes(), [summary]), [], began)


@command()
def main() -> None:
    """Train a policy, and SASRec for the table; reinforce the policy; evaluate all; write the report."""
    began = time.monotonic()
    given = settings.arguments()
    cfg = prepare.shaped(settings.configure(given))
    arms = experiment.arms(cfg, given)  # what cannot be reinforced is said before anything is trained
    processes = machine.join(cfg)
    sasrec = replace(cfg, levels=1, item_codes="", vectors=False, sasrec=False, out=f"{cfg.out}/sasrec")
    baselines = {"SASRec, the baseline": sasrec} if cfg.sasrec and cfg.levels > 1 else {}
    stages = [*baselines, "supervised, the policy", *map(experiment.label, arms.values()), "evaluation"]
    headings = [f"{i}/{len(stages)} {name}" for i, name in enumerate(stages, 1)]
    again = [] if cfg.resume else ["--resume", "--out", cfg.out]
    again = f"to go on: {shlex.join([*sys.orig_argv, *again])}"
    first = processes.rank == 0
    try:
        if cfg.floors:
            return first and floors(cfg, began)
        with folder.begun([cfg, *baselines.values()]) if first else nullcontext():
            processes.wait()  # for the data
            run = folder.open_run(cfg, processes)
            models = [*(folder.open_run(each, processes, run) for each in baselines.values()), run]
            if first:
                report.say(*run.notes, *(f"{name}: {training.LINES[name]}" for name in ("nll", "ndcg@10")))
            for heading, each in zip(headings, models, strict=False):
                training.train(each, heading)
            chosen = dict(zip(headings[len(models) :], arms.values(), strict=False))
            notes = experiment.reinforce_all(run, chosen)
            if first:
                report.say("", headings[-1])
                finish(run, notes, began)
        machine.leave()
    except KeyboardInterrupt:
        if first and (Path(cfg.out) / "config.json").is_file():
            print(again, file=sys.stderr)
        raise
    except RuntimeError as error:
        if machine.lost(error):
            raise InputError(f"another process of this run has ended, so this one ends; {again}") from None
        if isinstance(error, torch.OutOfMemoryError) or "allocate" in str(error):
            raise InputError(f"not enough memory: {error}") from None
        raise


if __name__ == "__main__":
    main()
