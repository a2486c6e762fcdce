"""Repeat the evaluation of a run folder.

python -m minirec.evaluate --run runs/tiny --predictions top50.jsonl
"""

from argparse import ArgumentParser, BooleanOptionalAction
from dataclasses import replace
from pathlib import Path

from minirec.data import recbole
from minirec.errors import InputError, command, usage_error
from minirec.measure import evaluation, report
from minirec.run.folder import find_run
from minirec.run.machine import keep_freed_memory


@command()
def main() -> None:
    """Repeat the evaluation of a run folder and print its table."""
    parser = ArgumentParser(prog="python -m minirec.evaluate", description=main.__doc__)
    parser.error = usage_error  # type: ignore[method-assign]
    parser.add_argument("--run", required=True, type=Path, help="run folder")
    parser.add_argument("--split", choices=("test", "valid"), default="test", help="[test]")
    parser.add_argument("--predictions", type=Path, help="write the top 50 of every context as JSON lines")
    parser.add_argument("--recbole", type=Path, help="folder NAME for the log as RecBole's NAME.inter, .item")
    parser.add_argument("--keep-seen", action=BooleanOptionalAction, help="let items of the past come again")
    args = parser.parse_args()
    if args.predictions and not args.predictions.parent.is_dir():
        raise InputError(f"--predictions: there is no folder {args.predictions.parent}")

    run = find_run(args.run, "auto")
    if run.processes.device.type == "cpu":
        keep_freed_memory()
    runs = {"supervised": run}
    if (args.run / "sasrec").is_dir():  # not so with --no-sasrec, and with --levels 1
        runs = {"SASRec": find_run(args.run / "sasrec", "auto")} | runs
    policies = {name: each.trained() for name, each in runs.items()}  # what does not fit is said first
    cfg, dataset, whole = run.cfg, run.dataset, getattr(run.dataset, args.split)
    if args.keep_seen is not None:
        cfg = replace(cfg, keep_seen=args.keep_seen)
    if args.recbole:
        recbole.write(args.recbole, dataset)
    examples = evaluation.sample(whole, cfg.test_contexts, cfg.seed)
    methods = evaluation.floors(dataset, examples, cfg, args.split)
    for name, each in runs.items():
        methods[name] = evaluation.evaluate_policy(policies[name], each.trie, dataset, examples, cfg)
    if args.predictions:
        report.write_predictions(args.predictions, methods["supervised"], dataset, examples)
    print(report.text(report.Results(methods, args.split, whole=len(whole)), cfg.seed))


if __name__ == "__main__":
    main()
