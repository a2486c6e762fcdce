"""Ask a trained run: a history in, items out.

python -m minirec.recommend --run runs/tiny --user 17
python -m minirec.recommend --run runs/tiny --history 3,17,29 --top 5 --json
"""

import csv
import json
from argparse import ArgumentParser, BooleanOptionalAction

import minirec
from minirec.errors import command, usage_error
from minirec.measure import report

HISTORY = "item ids, oldest first, between commas; one with a comma stands in quotes; '' for nothing known"


@command()
def main() -> None:
    """Recommend items from a trained run."""
    parser = ArgumentParser(prog="python -m minirec.recommend", description=main.__doc__)
    parser.error = usage_error  # type: ignore[method-assign]
    parser.add_argument("--run", required=True, help="run folder")
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--user", help="a user id of the data")
    who.add_argument("--history", help=HISTORY)
    parser.add_argument("--top", type=int, default=10, help="how many items [10]")
    parser.add_argument("--keep-seen", action=BooleanOptionalAction, help="let items of the past come again")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    args = parser.parse_args()

    recommender = minirec.load(args.run)
    if args.user is not None:
        rows = recommender.for_user(args.user, args.top, args.keep_seen)
    else:
        history = next(csv.reader([args.history], skipinitialspace=True), [])
        rows = recommender.recommend(history, args.top, args.keep_seen)
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        ranked = [{"rank": i, **row} for i, row in enumerate(rows, 1)]
        print(report.table(ranked, ["rank", "item", "title", "score"]))


if __name__ == "__main__":
    main()
