"""A trained run answers: a history in, items out.

python -m minirec.recommend --run runs/tiny --user 17
python -m minirec.recommend --run runs/tiny --history 3,17,29 --top 5 --json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minirec import config, rollout
from minirec.errors import InputError, command, nearest, usage_error
from minirec.measure import report
from minirec.policy import Policy
from minirec.records import CONDITION, PAD, Batch, Dataset
from minirec.run import checkpoint
from minirec.settings import Config
from minirec.trie import Trie


class Recommender:
    """A trained policy with the catalogue that it speaks about."""

    def __init__(self, policy: Policy, trie: Trie, dataset: Dataset, cfg: Config) -> None:
        self.policy, self.trie, self.dataset, self.cfg = policy.eval(), trie, dataset, cfg

    def recommend(
        self, history: Sequence[str], top: int = 10, keep_seen: bool | None = None
    ) -> list[dict[str, Any]]:
        """Recommend after a history.

        Args:
            history: external item ids, oldest first; empty for somebody of whom nothing is known.
            top: how many items; fewer come where the catalogue has no more.
            keep_seen: let items of the history come again; None is the run's setting.

        Returns:
            Items best first: ``item`` (external id), ``title`` (or None) and ``score``, the natural
            logarithm of the item's probability under the trie.

        Raises:
            InputError: an unknown item, or ``top`` below 1.
        """
        known = {name: row for row, name in enumerate(self.dataset.catalogue.ids)}
        past = torch.tensor([[_find("item", item, known) for item in history]], dtype=torch.int64)
        condition = torch.zeros(1, len(CONDITION), dtype=torch.int64)
        recent = past[:, max(0, past.shape[1] - self.cfg.history) :]
        nobody = torch.full((1,), -1)
        return self._answer(Batch(nobody, recent, condition, past[:, :0], past), top, keep_seen)

    def for_user(self, user: str, top: int = 10, keep_seen: bool | None = None) -> list[dict[str, Any]]:
        """Recommend for a user of the data, in their latest context, whose held-out targets stay unseen.

        Args:
            user: external user id.
            top, keep_seen: as in ``recommend``.

        Returns:
            As ``recommend``.

        Raises:
            InputError: an unknown user, one with too few events for a context, or ``top`` below 1.
        """
        index = _find("user", user, {name: row for row, name in enumerate(self.dataset.users)})
        for split in (self.dataset.test, self.dataset.valid, self.dataset.train):
            windows = (split.user == index).nonzero()[:, 0]
            rows, first = windows[-1:], split.start[windows[:1]]  # the last window is the latest
            if len(rows):
                whole = replace(split, start=split.start.index_copy(0, rows, first))  # all that was seen
                return self._answer(whole.batch(rows, self.cfg.history), top, keep_seen)
        raise InputError(f"user '{user}' has too few events for a context; give --history instead")

    @torch.no_grad()
    def _answer(self, batch: Batch, top: int, keep_seen: bool | None) -> list[dict[str, Any]]:
        if top < 1:
            raise InputError(f"--top: {top} is too small; the smallest valid value is 1")
        keep_seen = self.cfg.keep_seen if keep_seen is None else keep_seen
        device = self.trie.codes.device
        seen = set() if keep_seen else set(batch.seen[0].tolist())
        prompt = self.policy.encode(batch.condition.to(device), self.trie.encode(batch.history.to(device)))
        width = min(max(self.cfg.beam, top) + len(seen), len(self.trie))
        items, scores = rollout.beam(self.policy, prompt, self.trie, width)
        return self._rows(items[0], scores[0], seen)[:top]

    def _rows(self, items: Tensor, scores: Tensor, seen: set[int]) -> list[dict[str, Any]]:
        ids, titles = self.dataset.catalogue.ids, self.dataset.catalogue.titles
        pairs = zip(items.tolist(), scores.tolist(), strict=True)
        return [
            {"item": ids[item], "title": titles[item] if titles else None, "score": score}
            for item, score in pairs
            if item != PAD and item not in seen
        ]


def _find(kind: str, name: str, known: dict[str, int]) -> int:
    """The row of an external id."""
    if name not in known:
        raise InputError(f"unknown {kind} '{name}'{nearest(name, known)}")
    return known[name]


def load_run(run: str | Path, device: torch.device | str = "cpu") -> Recommender:
    """Load a trained run.

    Args:
        run: the run folder.
        device: for the policy and the trie.

    Returns:
        The Recommender, with the weights that validation chose.

    Raises:
        InputError: no such folder, no checkpoint in it, or a file that is damaged or does not fit.
    """
    run = Path(run)
    if not run.is_dir():
        raise InputError(f"{run}: no such run folder; python -m minirec.train --tiny makes runs/tiny")
    for name in ("config.json", "data.pt", "checkpoint.pt"):
        if not (run / name).is_file():
            raise InputError(
                f"{run}: has no {name}; is it the folder of a run, and has that run begun to train?"
            )
    cfg = config.read(run / "config.json")
    dataset, codes, _ = checkpoint.load_data(run, cfg)
    trie = Trie(codes.codes, codes.size)
    policy = Policy(cfg, trie.levels, trie.size, dataset.periods)
    state = checkpoint.load(run / "checkpoint.pt")
    try:
        policy.load_state_dict(state["best"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise InputError(f"{run / 'checkpoint.pt'}: no weights that fit this run's config.json") from error
    return Recommender(policy.to(device), trie.to(device), dataset, cfg)


@command
def main() -> None:
    """Recommend items from a trained run."""
    parser = argparse.ArgumentParser(prog="python -m minirec.recommend", description=main.__doc__)
    parser.error = usage_error  # type: ignore[method-assign]
    parser.add_argument("--run", required=True, help="run folder")
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--user", help="a user id of the data")
    who.add_argument("--history", help="item ids, oldest first, between commas; '' for nothing known")
    parser.add_argument("--top", type=int, default=10, help="how many items [10]")
    parser.add_argument(
        "--keep-seen", action=argparse.BooleanOptionalAction, help="let items of the past come again"
    )
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    args = parser.parse_args()

    recommender = load_run(args.run)
    if args.user is not None:
        rows = recommender.for_user(args.user, args.top, args.keep_seen)
    else:
        history = [item.strip() for item in args.history.split(",")] if args.history.strip() else []
        rows = recommender.recommend(history, args.top, args.keep_seen)
    if args.json:
        print(json.dumps(rows, ensure_ascii=False, indent=1))
    else:
        columns = (
            ["rank", "item", "title", "score"]
            if recommender.dataset.catalogue.titles
            else ["rank", "item", "score"]
        )
        print(report.table([{"rank": i, **row} for i, row in enumerate(rows, 1)], columns))


if __name__ == "__main__":
    main()
