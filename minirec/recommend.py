"""A trained run answers: a history in, items out.

python -m minirec.recommend --run runs/tiny --user 17
python -m minirec.recommend --run runs/tiny --history 3,17,29 --top 5 --json
"""

import csv
import json
from argparse import ArgumentParser, BooleanOptionalAction
from collections.abc import Sequence
from dataclasses import replace

import torch

from minirec import rollout
from minirec.errors import InputError, command, nearest, usage_error
from minirec.measure import report
from minirec.records import CONDITION, PAD, Batch
from minirec.run.folder import Run, find_run

HISTORY = "item ids, oldest first, between commas; one with a comma stands in quotes; '' for nothing known"


class Recommender:
    """A trained policy with the catalogue that it speaks about."""

    def __init__(self, run: Run) -> None:
        self.policy, self.trie, self.dataset, self.cfg = run.trained(), run.trie, run.dataset, run.cfg

    def recommend(
        self, history: Sequence[str | int], top: int = 10, keep_seen: bool | None = None
    ) -> list[dict]:
        """Recommend after a history of external item ids, words or numbers, oldest first, which may be empty.

        Returns ``top`` items best first, or fewer where the catalogue has no more: ``item`` (external id),
        ``title`` (or None) and ``score``, the natural logarithm of the item's probability under the trie.
        ``keep_seen`` lets items of the history come again; None is the run's setting. Raises InputError for
        an unknown item, or ``top`` below 1.
        """
        rows = [_find("item", str(item), self.dataset.catalogue.ids) for item in history]
        past = torch.tensor([rows], dtype=torch.int64)
        nobody, condition = torch.tensor([-1]), torch.zeros(1, len(CONDITION), dtype=torch.int64)
        batch = Batch(nobody, past[:, -self.cfg.history :], condition, past[:, :0], past)
        return self._answer(batch, top, keep_seen)

    def for_user(self, user: str | int, top: int = 10, keep_seen: bool | None = None) -> list[dict]:
        """Recommend for a user of the data, in their latest context, whose held-out targets stay unseen.

        Answers as ``recommend`` does. Raises InputError for an unknown user, one with too few events for a
        context, or ``top`` below 1.
        """
        data, index = self.dataset, _find("user", str(user), self.dataset.users)
        for split in filter(None, (data.test, data.valid, data.train, data.fresh)):
            windows = (split.user == index).nonzero()[:, 0]
            rows, first = windows[-1:], split.start[windows[:1]]  # the last window is the latest
            if len(rows):
                whole = replace(split, start=split.start.index_copy(0, rows, first))  # all that was seen
                return self._answer(whole.batch(rows, self.cfg.history), top, keep_seen)
        raise InputError(f"user '{user}' has too few events for a context; give --history instead")

    @torch.no_grad()
    def _answer(self, batch: Batch, top: int, keep_seen: bool | None) -> list[dict]:
        if top < 1:
            raise InputError(f"--top: {top} is too small; the smallest valid value is 1")
        keep_seen = self.cfg.keep_seen if keep_seen is None else keep_seen
        batch = batch.to(self.trie.codes.device)
        seen = set() if keep_seen else set(batch.seen[0].tolist())
        prompt = self.policy.encode(batch.condition, self.trie.encode(batch.history))
        width = min(max(self.cfg.beam, top) + len(seen), len(self.trie))
        items, scores = rollout.best(self.policy, prompt, self.trie, width)
        ids, titles = self.dataset.catalogue.ids, self.dataset.catalogue.titles
        rows = [
            {"item": ids[item], "title": titles[item] if titles else None, "score": score}
            for item, score in zip(items[0].tolist(), scores[0].tolist(), strict=True)
            if item != PAD and item not in seen
        ]
        return rows[:top]


def _find(kind: str, name: str, known: list[str]) -> int:
    """The row of an external id."""
    if name not in known:
        raise InputError(f"unknown {kind} '{name}'{nearest(name, known)}")
    return known.index(name)


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

    recommender = Recommender(find_run(args.run))
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
