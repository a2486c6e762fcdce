"""The whole run, from a log to a report: ``python -m minirec.train --tiny``."""

import sys
import time
from dataclasses import replace

from minirec import settings
from minirec.errors import command
from minirec.measure import report
from minirec.measure.evaluation import evaluate_policy, floors
from minirec.policy import Policy
from minirec.run.experiment import Reinforced, arms, reinforce_all
from minirec.run.folder import Run, begin, open_run
from minirec.run.machine import Distributed
from minirec.run.supervised import train


def finish(run: Run, trained: dict[str, tuple[Run, Policy]], reinforced: Reinforced, began: float) -> None:
    """Evaluate beside the floors on the test split, and write and print the report."""
    cfg, dataset = run.cfg, run.dataset
    policies = {name: (policy, each.trie) for name, (each, policy) in trained.items()}
    policies |= {name: (policy, run.trie) for name, policy in reinforced.policies.items()}
    methods = floors(dataset, dataset.test, cfg)
    for name, (policy, trie) in policies.items():
        methods[name] = evaluate_policy(policy, trie, dataset, dataset.test, cfg)
    results = report.Results(methods, "test", tuple(reinforced.policies), reinforced.lists, reinforced.notes)
    print("\n" + report.text(results, cfg.seed))
    seconds = time.monotonic() - began
    written = report.write(results, dataset, cfg, seconds, run.notes)
    print(f"\n{seconds:.0f} s; written: {', '.join(map(str, written))}")
    print("Read next: minirec/records.py, then the files in the order of minirec/__init__.py.")


@command()
def main() -> None:
    """Train a policy, and SASRec for the table; reinforce the policy; evaluate all; write the report."""
    began = time.monotonic()
    given = settings.arguments()
    cfg = settings.configure(given)
    chosen = arms(cfg, given)  # what cannot be reinforced is said before anything is trained
    processes = Distributed(cfg)
    sasrec = replace(cfg, levels=1, sasrec=False, out=f"{cfg.out}/sasrec")
    both = cfg.sasrec and cfg.levels > 1
    if processes.rank == 0:
        begin([cfg, sasrec] if both else [cfg])
    processes.wait()  # for the data
    try:
        run = open_run(cfg, processes)
        runs = {"SASRec": open_run(sasrec, processes, sibling=run)} if both else {}
        runs["supervised"] = run
        trained = {name: (each, train(each)) for name, each in runs.items()}
        reinforced = reinforce_all(run, chosen)
        if processes.rank == 0:
            finish(run, trained, reinforced, began)
    except KeyboardInterrupt:
        if processes.rank == 0:
            again = f" --objective {cfg.objective}" if cfg.objective != "none" else ""
            print(f"to go on: python -m minirec.train --resume --out {cfg.out}{again}", file=sys.stderr)
        raise
    processes.close()


if __name__ == "__main__":
    main()
