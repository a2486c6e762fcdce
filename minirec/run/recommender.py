"""A trained run answers: a history in, items out."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from minirec import rollout
from minirec.errors import InputError, nearest
from minirec.records import CONDITION, PAD, Batch
from minirec.run.folder import Run


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
        items, scores, _ = rollout.beam(self.policy, prompt, self.trie, width)
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
