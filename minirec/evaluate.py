"""Repeat the evaluation of a run folder.

python -m minirec.evaluate --run runs/tiny --predictions top50.jsonl
"""

import argparse
from dataclasses import replace
from pathlib import Path

from minirec.errors import InputError, command, usage_error
from minirec.measure import report
from minirec.measure.evaluation import evaluate_policy, floors
from minirec.run.folder import find_run
from minirec.run.machine import keep_freed_memory, pick_device


@command
def main() -> None:
    """Repeat the evaluation of a run folder and print its table."""
    parser = argparse.ArgumentParser(prog="python -m minirec.evaluate", description=main.__doc__)
    parser.error = usage_error  # type: ignore[method-assign]
    parser.add_argument("--run", required=True, type=Path, help="run folder")
    parser.add_argument("--split", choices=("test", "valid"), default="test", help="[test]")
    parser.add_argument("--predictions", type=Path, help="write the top 50 of every context as JSON lines")
    keep = "let items of the past be recommended again"
    parser.add_argument("--keep-seen", action=argparse.BooleanOptionalAction, help=keep)
    args = parser.parse_args()
    if args.predictions and not args.predictions.parent.is_dir():
        raise InputError(f"--predictions: there is no folder {args.predictions.parent}")

    device = pick_device("auto")
    if device.type == "cpu":
        keep_freed_memory()
    runs = {"supervised": find_run(args.run, device)}
    if (args.run / "sasrec").is_dir():  # not so with --no-sasrec, and with --levels 1
        runs = {"SASRec": find_run(args.run / "sasrec", device), **runs}
    cfg, dataset = runs["supervised"].cfg, runs["supervised"].dataset
    if args.keep_seen is not None:
        cfg = replace(cfg, keep_seen=args.keep_seen)
    examples = {"test": dataset.test, "valid": dataset.valid}[args.split]
    policies = {name: run.trained() for name, run in runs.items()}  # what does not fit is said first
    methods = floors(dataset, examples, cfg)
    for name, run in runs.items():
        methods[name] = evaluate_policy(policies[name], run.trie, dataset, examples, cfg)
    if args.predictions:
        report.write_predictions(args.predictions, methods["supervised"], dataset, examples)
    print(report.text(report.Results(methods, args.split), cfg.seed))


if __name__ == "__main__":
    main()
