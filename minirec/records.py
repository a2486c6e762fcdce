"""What passes between the stages. Shapes are checked when a record is made.

Letters, here and everywhere: B contexts, G rollouts per context, H items of history, P items of a rollout
(1 for the next item, K for a list), L code levels, V codes per level, N items, n targets, C candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from minirec.noise import sent

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
    """Raise ValueError, naming the field, unless it has this dtype and shape; None is any size."""
    sizes = zip(shape, tensor.shape, strict=False)
    fits = tensor.dim() == len(shape) and all(want in (None, size) for want, size in sizes)
    if not fits or tensor.dtype != dtype:
        want = "(" + ", ".join("*" if w is None else str(w) for w in shape) + ")"
        raise ValueError(f"{name}: expected {dtype} {want}, got {tensor.dtype} {tuple(tensor.shape)}")


class Record:
    """Tensors, and records of tensors, that stand on one device; None is no tensor."""

    def to(self, device: torch.device | str) -> Any:
        """Return the record on a device."""
        parts = {name: part for name, part in vars(self).items() if part is not None}
        for name, part in parts.items():
            parts[name] = sent(part, device) if isinstance(part, Tensor) else part.to(device)
        return replace(self, **parts)


@dataclass(frozen=True)
class Batch(Record):
    """B contexts with padded histories: what the policy is asked, and what was right."""

    user: Tensor  # (B,) row in Dataset.users
    history: Tensor  # (B, H) items, oldest first, padded with PAD on the right
    condition: Tensor  # (B, 4) mode, novel, trend, period
    targets: Tensor  # (B, n) a set of items, padded with PAD
    seen: Tensor  # (B, S) every item of the past, also those before the history; padded with PAD

    def __post_init__(self) -> None:
        check("condition", self.condition, len(self), len(CONDITION))
        for name in ("history", "targets", "seen"):
            check(name, getattr(self, name), len(self), None)

    def __len__(self) -> int:
        return len(self.user)

    def select(self, rows: Tensor) -> Batch:
        """Return some of the contexts, in this order, repeats allowed."""
        return Batch(*(tensor[rows] for tensor in vars(self).values()))


@dataclass(frozen=True)
class Lists(Record):
    """B closed sets to rank, each for a need, and what their items are worth."""

    batch: Batch  # its condition holds the need; no targets
    candidates: Tensor  # (B, C) int64, distinct in a row
    gains: Tensor  # (B, C) float32 in [0, 1] for the need: the truth, or what training knows of it
    observed: Tensor  # (B, C) bool, whether the feedback on a candidate was seen
    variance: Tensor | None = None  # (B, C) float32, how uncertain the critic is about the gains

    def __post_init__(self) -> None:
        check("candidates", self.candidates, len(self.batch), None)
        check("gains", self.gains, *self.candidates.shape, dtype=torch.float32)
        check("observed", self.observed, *self.candidates.shape, dtype=torch.bool)


@dataclass(frozen=True)
class Rollout:
    """G generated lists of P items for each of B contexts."""

    items: Tensor  # (B, G, P), HOLE where the codes are no item
    codes: Tensor  # (B, G, P, L)
    logp: Tensor  # (B, G, P, L) float32, log-probability of each code when it was drawn
    sampled: bool = True  # False: beams, which estimate no expectation

    def __post_init__(self) -> None:
        check("items", self.items, None, None, None)
        check("codes", self.codes, *self.items.shape, None)
        check("logp", self.logp, *self.codes.shape, dtype=torch.float32)


@dataclass(frozen=True)
class Experience:
    """A batch, what the policy did with it, and what an objective may ask about it.

    A is the number of contexts of all processes together; in one process, A = B.
    """

    cfg: Config
    trie: Trie
    batch: Batch  # B contexts
    rollout: Rollout  # G rollouts of each
    rewards: Tensor  # (B, G) float32, of the rollouts
    masks: Callable[[Signal], Tensor | None]  # (R, S, P, L, V) bool: what could be said; None: anything
    part: Tensor  # (B,) this process's rows of the whole batch
    gather: Callable[[Tensor], Tensor]  # (B, ...) -> (A, ...), the rows of all processes, in order
    noise: Callable[[int], Tensor]  # n -> (A, n) float64 uniform, the same in every process
    reward: Callable[[Tensor], Tensor] | None = None  # next item: items (B, n) -> rewards; HOLE and PAD: 0
    logp: Callable[[Tensor], Tensor] | None = None  # next item: items (B, n) -> log-probabilities, masked
    lists: Lists | None = None  # the closed sets, where lists are ranked


@dataclass(frozen=True)
class Signal:
    """S sequences of each of R <= B contexts, and their advantages. What teaches nothing is not in it."""

    rows: Tensor  # (R,) which contexts of the batch
    codes: Tensor  # (R, S, P, L)
    advantages: Tensor  # (R, S, P) float32
    width: int  # sequences per context by which the loss is divided, whatever survives
    nll: bool = False  # whether the NLL of every context's target joins, whatever ``rows``
    weight: float = 1.0  # of the reinforced part
    facts: dict[str, Tensor] = field(default_factory=dict)  # () each, to be logged: sums over contexts

    def __post_init__(self) -> None:
        check("rows", self.rows, None)
        check("codes", self.codes, len(self.rows), None, None, None)
        check("advantages", self.advantages, *self.codes.shape[:3], dtype=torch.float32)


@dataclass(frozen=True)
class Objective:
    """A way to learn from rollouts, and all that the rest of the house needs to know about it."""

    signal: Callable[[Experience], Signal]
    title: str  # in tables and pictures
    lists: bool = False  # its task: rank closed sets, or else say the next item
    defaults: dict[str, Any] = field(default_factory=dict)  # settings, where the command line is silent
    reads: tuple[str, ...] | None = None  # settings beside those of the loop; None: not declared
    facts: dict[str, str] = field(default_factory=dict)  # what the facts of its signals mean
