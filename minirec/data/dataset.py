"""What is known of a log or of the simulated world once it has been read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from minirec.noise import stream
from minirec.records import CONDITION, PAD, Batch, check

if TYPE_CHECKING:
    from minirec.data.world import World


@dataclass(frozen=True)
class Catalogue:
    """What is known of the N items: external ids, titles, vectors of side information, and topics."""

    ids: list[str]  # N
    titles: list[str] | None = None  # N
    features: Tensor | None = None  # (N, F) float32
    topics: Tensor | None = None  # (N, n) numbers from 0, padded with PAD

    def __post_init__(self) -> None:
        if self.titles is not None and len(self.titles) != len(self.ids):
            raise ValueError(f"titles: expected {len(self.ids)}, got {len(self.titles)}")
        for name, dtype in (("features", torch.float32), ("topics", torch.int64)):
            if (rows := getattr(self, name)) is not None:
                check(name, rows, len(self.ids), None, dtype=dtype)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Examples:
    """One split: B contexts whose histories are slices ``start:stop`` of one flat array of events."""

    events: Tensor  # (E,) items of all users in time order, shared between the splits
    start: Tensor  # (B,)
    stop: Tensor  # (B,)
    user: Tensor  # (B,)
    condition: Tensor  # (B, 4)
    targets: Tensor  # (B, n) padded with PAD; n = 0 in training, which predicts the history's own items
    tied: Tensor  # (B,) bool: the target has the same time stamp as the last event before it

    def __post_init__(self) -> None:
        check("events", self.events, None)
        more = {"start": (), "stop": (), "condition": (len(CONDITION),), "targets": (None,)}
        for name, shape in more.items():
            check(name, getattr(self, name), len(self), *shape)
        check("tied", self.tied, len(self), dtype=torch.bool)

    def __len__(self) -> int:
        return len(self.user)

    @property
    def lengths(self) -> Tensor:
        """Items of history per context, (B,)."""
        return self.stop - self.start

    def select(self, rows: Tensor) -> Examples:
        """Return some of the contexts; the event array stays shared."""
        return replace(self, **{name: a[rows] for name, a in vars(self).items() if name != "events"})

    def batch(self, rows: Tensor, history: int) -> Batch:
        """Gather the contexts ``rows`` (B,) with at most ``history`` recent items, as wide as the longest."""
        start, stop = self.start[rows], self.stop[rows]
        seen, recent = self._padded(start, stop), self._padded(torch.maximum(start, stop - history), stop)
        return Batch(self.user[rows], recent, self.condition[rows], self.targets[rows], seen)

    def _padded(self, start: Tensor, stop: Tensor) -> Tensor:
        width = int((stop - start).max()) if len(start) else 0
        index = start[:, None] + torch.arange(width)  # (B, width)
        return torch.where(index < stop[:, None], self.events[index.clamp(max=len(self.events) - 1)], PAD)


@dataclass(frozen=True)
class Dataset:
    """A catalogue, its users, and three splits; of a simulated world also the world."""

    catalogue: Catalogue
    users: list[str]
    train: Examples
    valid: Examples
    test: Examples
    fresh: Examples | None = None  # training sequences of the users that are left to RL
    periods: int = 0  # 0: the data has none
    world: World | None = None
    rating: Tensor | None = None  # (E,) float64, of the splits' events
    time: Tensor | None = None  # (E,) int64 or float64, likewise
    start: Tensor | None = None  # (U,) each user's first event; the next user's follow the last

    @property
    def law(self) -> Callable[[Batch], Tensor] | None:
        """The true probability of each next item, a batch to (B, N) float64; None on real data."""
        return self.world.law if self.world else None

    @property
    def known(self) -> Examples:
        """All training sequences, those left to RL as well: what floors are fitted on."""
        if self.fresh is None:
            return self.train
        pairs = zip(vars(self.train).items(), vars(self.fresh).values(), strict=True)
        return replace(self.train, **{name: torch.cat([a, b]) for (name, a), b in pairs if name != "events"})


def leave_fresh(train: Examples, share: float, seed: int) -> tuple[Examples, Examples]:
    """Split training sequences by user: those of most users, and those of a random share, left to RL.

    On contexts that the policy was fitted to, rollouts say little and an objective only fits them further.
    So the objectives, and *supervised continued*, their control, have users of their own. Source: ours.
    """
    users, owner = train.user.unique_consecutive(return_inverse=True)
    order = torch.randperm(len(users), generator=stream("fresh users", seed))
    chosen = torch.isin(owner, order[: round(share * len(users))])
    return train.select(~chosen), train.select(chosen)


def whole(sequences: Examples) -> Examples:
    """Join training windows, a user's one after another, to one sequence per user."""
    count = sequences.user.unique_consecutive(return_counts=True)[1]  # (U,) windows
    last = count.cumsum(0) - 1
    return replace(sequences.select(last), start=sequences.start[last - count + 1])


def contexts(sequences: Examples) -> Examples:
    """Make every item of training windows but a user's first a target (B, 1); all before it is history."""
    users = whole(sequences)
    count = (users.lengths - 1).clamp(min=0)  # (U,) targets
    owner = torch.arange(len(users)).repeat_interleave(count)  # (B,)
    stop = users.start[owner] + 1 + torch.arange(len(owner)) - (count.cumsum(0) - count)[owner]
    return replace(users.select(owner), stop=stop, targets=sequences.events[stop][:, None])
