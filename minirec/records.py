"""The few records that pass between the stages. Shapes are checked when a record is made.

Letters, here and everywhere: B contexts, G rollouts per context, H items of history, P items of a
rollout (1 for the next item, K for a list), L code levels, V codes per level, N items, n targets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from minirec.settings import Config
    from minirec.trie import Trie

PAD = -1  # no item: fills a padded row
HOLE = -1  # no item: a code tuple that the catalogue does not have

# The condition of a context is four small integers; 0 means "none" for all but the mode.
CONDITION = ("mode", "novel", "trend", "period")
NEXT, LIST = 0, 1  # mode
OFF, ON = 1, 2  # the two flags of a need: novel, trend


def check(name: str, tensor: Tensor, *shape: int | None, dtype: torch.dtype = torch.int64) -> None:
    """Check the dtype and the shape of a field.

    Args:
        name: of the field, for the message.
        tensor: its value.
        shape: the size of each dimension; None is any size.
        dtype: expected.

    Raises:
        ValueError: the tensor has another dtype or shape; names the field.

    >>> check("history", torch.zeros(2, 3), 2, None)
    Traceback (most recent call last):
    ValueError: history: expected torch.int64 (2, *), got torch.float32 (2, 3)
    """
    fits = tensor.dim() == len(shape) and all(
        w in (None, s) for w, s in zip(shape, tensor.shape, strict=True)
    )
    if not fits or tensor.dtype != dtype:
        want = "(" + ", ".join("*" if w is None else str(w) for w in shape) + ")"
        raise ValueError(f"{name}: expected {dtype} {want}, got {tensor.dtype} {tuple(tensor.shape)}")


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
        if self.features is not None:
            check("features", self.features, len(self.ids), None, dtype=torch.float32)
        if self.topics is not None:
            check("topics", self.topics, len(self.ids), None)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Batch:
    """B contexts with padded histories: what the policy is asked, and what was right."""

    user: Tensor  # (B,) row in Dataset.users
    history: Tensor  # (B, H) items, oldest first, padded with PAD on the right
    condition: Tensor  # (B, 4) mode, novel, trend, period
    targets: Tensor  # (B, n) a set of items, padded with PAD
    seen: Tensor  # (B, S) every item of the past, also those before the history; padded with PAD

    def __post_init__(self) -> None:
        size = len(self.user)
        check("history", self.history, size, None)
        check("condition", self.condition, size, len(CONDITION))
        check("targets", self.targets, size, None)
        check("seen", self.seen, size, None)

    def __len__(self) -> int:
        return len(self.user)

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on a device."""
        return Batch(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def select(self, rows: Tensor) -> Batch:
        """Return some of the contexts, in this order, repeats allowed."""
        return Batch(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


@dataclass(frozen=True)
class Examples:
    """One split: B contexts whose histories are slices ``start:stop`` of one flat array of events.

    A training sequence has no targets (n = 0): every item of its history is predicted from those before.
    """

    events: Tensor  # (E,) items of all users in time order, shared between the splits
    start: Tensor  # (B,)
    stop: Tensor  # (B,)
    user: Tensor  # (B,)
    condition: Tensor  # (B, 4)
    targets: Tensor  # (B, n) padded with PAD
    tied: Tensor  # (B,) bool: the target has the same time stamp as the last event before it

    def __post_init__(self) -> None:
        size = len(self.user)
        check("events", self.events, None)
        check("start", self.start, size)
        check("stop", self.stop, size)
        check("condition", self.condition, size, len(CONDITION))
        check("targets", self.targets, size, None)
        check("tied", self.tied, size, dtype=torch.bool)

    def __len__(self) -> int:
        return len(self.user)

    @property
    def lengths(self) -> Tensor:
        """Items of history per context, (B,) int64."""
        return self.stop - self.start

    def select(self, rows: Tensor) -> Examples:
        """Return some of the contexts; the event array stays shared."""
        own = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "events"}
        return Examples(events=self.events, **own)

    def batch(self, rows: Tensor, history: int) -> Batch:
        """Gather contexts into padded tensors.

        Args:
            rows: (B,) int64, which contexts.
            history: the most recent items that the policy may see.

        Returns:
            A Batch whose history is as wide as its longest row.
        """
        start, stop = self.start[rows], self.stop[rows]
        seen = self._padded(start, stop)
        recent = self._padded(torch.maximum(start, stop - history), stop)
        return Batch(self.user[rows], recent, self.condition[rows], self.targets[rows], seen)

    def _padded(self, start: Tensor, stop: Tensor) -> Tensor:
        width = int((stop - start).max()) if len(start) else 0
        index = start[:, None] + torch.arange(width)  # (B, width)
        inside = index < stop[:, None]
        return torch.where(inside, self.events[index.clamp(max=len(self.events) - 1)], PAD)


@dataclass(frozen=True)
class Dataset:
    """A catalogue, its users, and three splits; on a simulated world also the true law.

    ``law(batch) -> (B, N)`` float64 gives the true probability of each next item.
    """

    catalogue: Catalogue
    users: list[str]
    train: Examples
    valid: Examples
    test: Examples
    fresh: Examples | None = None  # training sequences of the users that are left to RL
    periods: int = 0  # 0: the data has none
    law: Callable[[Batch], Tensor] | None = None
    rating: Tensor | None = None  # (E,) float64, of the splits' events
    time: Tensor | None = None  # (E,) float64, likewise

    @property
    def known(self) -> Examples:
        """All training sequences, those left to RL as well: what floors are fitted on."""
        if self.fresh is None:
            return self.train
        pairs = ((f.name, getattr(self.train, f.name), getattr(self.fresh, f.name)) for f in fields(Examples))
        return Examples(**{name: a if name == "events" else torch.cat([a, b]) for name, a, b in pairs})


@dataclass(frozen=True)
class Rollout:
    """G generated lists of P items for each of B contexts."""

    items: Tensor  # (B, G, P), HOLE where the codes are no item
    codes: Tensor  # (B, G, P, L)
    logp: Tensor  # (B, G, P, L) float32, log-probability of each code when it was drawn

    def __post_init__(self) -> None:
        size = self.items.shape
        check("items", self.items, None, None, None)
        check("codes", self.codes, *size, None)
        check("logp", self.logp, *self.codes.shape, dtype=torch.float32)


@dataclass(frozen=True)
class Experience:
    """A batch, what the policy did with it, and what an objective may ask about it.

    A is the number of contexts of all processes together; in one process, A = B.
    """

    cfg: Config
    batch: Batch  # B contexts
    rollout: Rollout  # G rollouts of each
    rewards: Tensor  # (B, G) float32, of the rollouts
    trie: Trie
    reward: Callable[[Tensor], Tensor]  # items (B, C) -> rewards (B, C) float32, a HOLE or PAD is worth 0
    logp: Callable[
        [Tensor], Tensor
    ]  # items (B, n) -> their log-probabilities (B, n), under the rollout's mask
    mine: Tensor  # (B,) this process's rows of the whole batch
    gather: Callable[[Tensor], Tensor]  # (B, ...) -> (A, ...), the rows of all processes, in order
    noise: Callable[[int], Tensor]  # n -> (A, n) float64 uniform, the same in every process
    candidates: Tensor | None = None  # (B, C), of lists
    gains: Tensor | None = None  # (B, C) float32, observed or filled in by the critic
    variance: Tensor | None = None  # (B, C) float32, the critic's


@dataclass(frozen=True)
class Signal:
    """What an objective makes of a rollout: S sequences of each of R <= B contexts, and their advantages.

    Contexts and sequences that teach nothing are not in it, so no forward pass ever sees them.
    """

    rows: Tensor  # (R,) which contexts of the batch
    codes: Tensor  # (R, S, P, L)
    advantages: Tensor  # (R, S, P) float32
    width: int  # sequences per context by which the loss is divided, whatever survives
    nll: bool = False  # whether the NLL of every context's target joins, whatever ``rows``
    weight: float = 1.0  # of the reinforced part
    facts: dict[str, float] = field(default_factory=dict)  # to be logged; sums over contexts

    def __post_init__(self) -> None:
        check("rows", self.rows, None)
        check("codes", self.codes, len(self.rows), None, None, None)
        check("advantages", self.advantages, *self.codes.shape[:3], dtype=torch.float32)
