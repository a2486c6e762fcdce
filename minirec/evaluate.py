"""Repeat the evaluation of a run folder.

python -m minirec.evaluate --run runs/tiny --predictions top50.jsonl
"""

from argparse import ArgumentParser, BooleanOptionalAction
from dataclasses import replace
from pathlib import Path

from minirec.data import prepare
from minirec.errors import InputError, command, usage_error
from minirec.measure import evaluation, report
from minirec.run import experiment, machine
from minirec.run.folder import find_run


@command()
def main() -> None:
    """Repeat the evaluation of a run folder, its arms included, and print the tables."""
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
    machine.prepare(run.cfg, run.processes.device)
    if args.keep_seen is not None:
        run = replace(run, cfg=replace(run.cfg, keep_seen=args.keep_seen))
    if args.recbole:
        prepare.write_recbole(args.recbole, run.dataset)
    results = experiment.measured(run, args.split)
    report.say(report.text(results, run.cfg.seed))
    if args.predictions:
        examples = evaluation.sample(getattr(run.dataset, args.split), run.cfg.test_contexts, run.cfg.seed)
        report.write_predictions(args.predictions, results.methods["supervised"], run.dataset, examples)
        what = "the top 50 of the supervised policy, a line per context"
        report.say("", f"written: {args.predictions}, {what}")


if __name__ == "__main__":
    main()
