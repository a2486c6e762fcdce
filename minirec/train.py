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
from minirec.measure import evaluation, report
from minirec.run import experiment, folder, machine, supervised


def finish(run: folder.Run, runs: dict[str, folder.Run], reinforced: experiment.Reinforced, began: float):
    """Evaluate what was trained beside the floors on the test split, and write and print the report."""
    cfg, dataset, (arms, lists, notes) = run.cfg, run.dataset, reinforced
    policies = {name: (each.trained(), each.trie) for name, each in runs.items()}
    policies |= {name: (policy, run.trie) for name, policy in arms.items()}
    test = evaluation.sample(dataset.test, cfg.test_contexts, cfg.seed)
    methods = evaluation.floors(dataset, test, cfg)
    methods |= {name: evaluation.evaluate_policy(*of, dataset, test, cfg) for name, of in policies.items()}
    results = report.Results(methods, "test", tuple(arms), lists, notes, whole=len(dataset.test))
    print("\n" + report.text(results, cfg.seed))
    seconds = time.monotonic() - began
    written = report.write(results, dataset, cfg, seconds, run.notes)
    print(f"\n{seconds:.0f} s; written: {', '.join(map(str, written))}")
    print("Read next: minirec/records.py, then the files in the order of minirec/__init__.py.")


def floors(cfg: settings.Config, began: float) -> None:
    """Read the data, and evaluate the floors alone; InputError if the folder holds a run."""
    folder.refuse_runs([cfg])
    dataset, summary = prepare.read(cfg)
    print(summary)
    with owned(Path(cfg.out)):
        finish(folder.Run(cfg, dataset, None, None, [summary]), {}, ({}, [], []), began)


@command()
def main() -> None:
    """Train a policy, and SASRec for the table; reinforce the policy; evaluate all; write the report."""
    began = time.monotonic()
    given = settings.arguments()
    cfg = prepare.shaped(settings.configure(given))
    chosen = experiment.arms(cfg, given)  # what cannot be reinforced is said before anything is trained
    processes = machine.Distributed(cfg)
    sasrec = replace(cfg, levels=1, item_codes="", sasrec=False, out=f"{cfg.out}/sasrec")
    baselines = {"SASRec": sasrec} if cfg.sasrec and cfg.levels > 1 else {}
    again = [] if cfg.resume else ["--resume", "--out", cfg.out]
    again = f"to go on: {shlex.join(['python', *sys.orig_argv[1:], *again])}"
    first = processes.rank == 0
    try:
        if cfg.floors:
            return first and floors(cfg, began)
        with folder.begun([cfg, *baselines.values()]) if first else nullcontext():
            processes.wait()  # for the data
            run = folder.open_run(cfg, processes)
            runs = {name: folder.open_run(each, processes, run) for name, each in baselines.items()}
            runs["supervised"] = run
            for each in runs.values():
                supervised.train(each)
            reinforced = experiment.reinforce_all(run, chosen)
            if first:
                finish(run, runs, reinforced, began)
        processes.close()
    except KeyboardInterrupt:
        if first and (Path(cfg.out) / "config.json").is_file():
            print(again, file=sys.stderr)
        raise
    except RuntimeError as error:
        if processes.lost(error):
            raise InputError(f"another process of this run has ended, so this one ends; {again}") from None
        if isinstance(error, torch.OutOfMemoryError) or "allocate" in str(error):
            raise InputError(f"not enough memory: {error}") from None
        raise


if __name__ == "__main__":
    main()
