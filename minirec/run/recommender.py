"""A trained run answers: a history in, items out."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from minirec import rollout
from minirec.errors import InputError, nearest
from minirec.records import CONDITION, PAD, Batch
from minirec.run.folder import Run, find_run
from minirec.run.machine import pick_device


class Recommender:
    """A trained policy with the catalogue that it speaks about."""

    def __init__(self, run: Run) -> None:
        self.policy, self.trie, self.dataset, self.cfg = run.trained(), run.trie, run.dataset, run.cfg

    def recommend(
        self, history: Sequence[str], top: int = 10, keep_seen: bool | None = None
    ) -> list[dict[str, Any]]:
        """Recommend after a history of external item ids, oldest first, which may be empty.

        Returns ``top`` items best first, or fewer where the catalogue has no more: ``item`` (external id),
        ``title`` (or None) and ``score``, the natural logarithm of the item's probability under the trie.
        ``keep_seen`` lets items of the history come again; None is the run's setting. Raises InputError for
        an unknown item, or ``top`` below 1.
        """
        known = {name: row for row, name in enumerate(self.dataset.catalogue.ids)}
        past = torch.tensor([[_find("item", item, known) for item in history]], dtype=torch.int64)
        condition = torch.zeros(1, len(CONDITION), dtype=torch.int64)
        recent = past[:, max(0, past.shape[1] - self.cfg.history) :]
        nobody = torch.full((1,), -1)
        return self._answer(Batch(nobody, recent, condition, past[:, :0], past), top, keep_seen)

    def for_user(self, user: str, top: int = 10, keep_seen: bool | None = None) -> list[dict[str, Any]]:
        """Recommend for a user of the data, in their latest context, whose held-out targets stay unseen.

        Answers as ``recommend`` does. Raises InputError for an unknown user, one with too few events for a
        context, or ``top`` below 1.
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
        items, scores, _ = rollout.beam(self.policy, prompt, self.trie, width)
        ids, titles = self.dataset.catalogue.ids, self.dataset.catalogue.titles
        rows = [
            {"item": ids[item], "title": titles[item] if titles else None, "score": score}
            for item, score in zip(items[0].tolist(), scores[0].tolist(), strict=True)
            if item != PAD and item not in seen
        ]
        return rows[:top]


def _find(kind: str, name: str, known: dict[str, int]) -> int:
    """The row of an external id."""
    if name not in known:
        raise InputError(f"unknown {kind} '{name}'{nearest(name, known)}")
    return known[name]


def load(folder: str | Path, device: str = "cpu") -> Recommender:
    """Load a trained run; InputError if the folder or a file in it is missing, damaged, or does not fit."""
    known = device in ("auto", "cpu", "cuda")
    return Recommender(find_run(folder, pick_device(device) if known else torch.device(device)))
