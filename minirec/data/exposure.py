"""What a logging policy showed in the simulated world, what was clicked, and rankers of designed reliability.

The log exposes by popularity and hides the tail, so what is trained on it is biased, as production rankers
are. The designed rankers make that bias a knob: right everywhere, right in A and noise in B, or harmful in B.
All of it is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from minirec.data.world import World
from minirec.errors import InputError, nearest
from minirec.noise import draw, stream
from minirec.records import HOLE

CLICK_SCALE = 0.1  # affinity over which a click's odds change
TAIL_EXPOSURE = 0.005  # of a tail item, against an equally popular item of A


@dataclass(frozen=True)
class Exposures:
    """A log of what was shown, and whether it was clicked."""

    user: Tensor  # (n,) int64
    item: Tensor  # (n,) int64
    clicked: Tensor  # (n,) bool


Ranker = Callable[[Tensor, Tensor], Tensor]  # user (B,), items (B, C) -> scores (B, C) float32


def true_score(world: World, user: Tensor, items: Tensor) -> Tensor:
    """The true score: the probability that a user clicks an item that is shown.

    Args:
        world: the world.
        user: (B,) int64.
        items: (B, C) int64.

    Returns:
        (B, C) float64 in (0, 1): ½ + ½ z/(1 + |z|), where z = (affinity − highest cut) / ``CLICK_SCALE``.

    Source: ours. A rational sigmoid, as exp gives other last bits in other places of a tensor.
    """
    z = (world.affinity(user, items) - world.cuts[-1]) / CLICK_SCALE
    return 0.5 + 0.5 * z / (1 + z.abs())


def exposures(world: World, n: int, seed: int) -> Exposures:
    """Log n impressions of a policy that shows the popular, and hides the tail.

    Args:
        world: the world.
        n: impressions; their users are uniform.
        seed: of the log; together with the world's seed it decides everything.

    Returns:
        Exposures. Items are shown with probability ∝ popularity in the user's period × (1 in A,
        ``TAIL_EXPOSURE`` in B), and clicked with the probability ``true_score``.

    Source: ours.
    """
    random = stream("exposures", world.seed, seed)
    user = torch.randint(len(world.taste), (n,), generator=random)
    noise = torch.rand(2, n, generator=random, dtype=torch.float64)
    shown = world.bias.softmax(1) * torch.where(world.tail, TAIL_EXPOSURE, 1.0)  # (T, N)
    item = torch.empty_like(user)
    for period, weight in enumerate(shown):
        rows = world.period[user] == period
        item[rows] = draw(weight, noise[0, rows])
    return Exposures(user, item, noise[1] < true_score(world, user, item[:, None])[:, 0])


def ranker(world: World, kind: str) -> Ranker:
    """A ranker of designed reliability.

    Args:
        world: the world.
        kind: "right": the true score; "noise": the true score for users of A, for those of B a number
            that depends on user and item alone; "harmful": for users of B the true score reversed.

    Returns:
        A function of user (B,) and items (B, C) that gives scores (B, C) float32 in (0, 1), and 0 to a
        HOLE. Equal items have equal bits.

    Raises:
        InputError: there is no such kind.

    Source: ours.
    """
    random = stream("unreliable ranker", world.seed)
    # The fraction of a product of two large random numbers: noise per pair without a table of pairs.
    one, other = (
        2**15 * (1 + torch.rand(size, generator=random, dtype=torch.float64))
        for size in (len(world.taste), len(world.latent))
    )
    in_tail = {
        "right": lambda true, user, items: true,
        "noise": lambda true, user, items: 0.1 + 0.8 * (one[user, None] * other[items] % 1),
        "harmful": lambda true, user, items: 1 - true,
    }
    if kind not in in_tail:
        raise InputError(f"ranker: '{kind}' is not valid{nearest(kind, in_tail)}")

    def rank(user: Tensor, items: Tensor) -> Tensor:
        true = true_score(world, user, items)  # (B, C)
        mixed = torch.where(world.tail_user[user, None], in_tail[kind](true, user, items), true)
        return mixed.float().masked_fill(items == HOLE, 0.0)

    return rank
