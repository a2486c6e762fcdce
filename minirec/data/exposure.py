"""What a logging policy showed in the simulated world, what was clicked, and rankers of designed reliability.

The log hides the tail, so rankers trained on it are biased; in designed ones bias is a setting. All is ours.
"""

from collections import namedtuple
from collections.abc import Callable

import torch
from torch import Tensor

from minirec.data.world import World
from minirec.noise import draw, stream
from minirec.records import HOLE

MOST_LOGIT = 1e4  # beyond it, float32 would round a score to 0 or 1
CLICK_SCALE = 0.1  # affinity over which a click's odds change
TAIL_EXPOSURE = 0.005  # of a tail item, against an equally popular item of A
Exposures = namedtuple("Exposures", "user item clicked")  # of n impressions: (n,) int64, int64, bool


def squash(z: Tensor) -> Tensor:
    """Map logits to (0, 1) without exp, whose last bits differ by the place in a tensor. Source: ours."""
    z = z.clamp(-MOST_LOGIT, MOST_LOGIT)
    return 0.5 + 0.5 * z / (1 + z.abs())


def true_score(world: World, user: Tensor, items: Tensor) -> Tensor:
    """The probability (B, C) float64 that users (B,) click items (B, C) that are shown. Source: ours."""
    return squash((world.affinity(user, items) - world.cuts[-1]) / CLICK_SCALE)


def exposures(world: World, n: int, seed: int) -> Exposures:
    """Log n impressions of uniform users: popular items, few of B, clicks by ``true_score``. Source: ours."""
    random = stream("exposures", world.seed, seed)
    user = torch.randint(len(world.taste), (n,), generator=random)
    noise = torch.rand(2, n, generator=random, dtype=torch.float64)
    shown = world.bias.softmax(1) * torch.where(world.tail, TAIL_EXPOSURE, 1.0)  # (T, N)
    item = torch.empty_like(user)
    for period, weight in enumerate(shown):
        rows = world.period[user] == period
        item[rows] = draw(weight, noise[0, rows])
    return Exposures(user, item, noise[1] < true_score(world, user, item[:, None])[:, 0])


def ranker(world: World, kind: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Make a ranker of designed reliability: user (B,) and items (B, C) to scores (B, C) float32 in (0, 1).

    Users of A get the true score. Those of B get it too if "right", a number of user and item alone if
    "noise", the true score reversed if "harmful". A HOLE scores 0. Source: ours.
    """
    random = stream("unreliable ranker", world.seed)
    # The fraction of a product of two large random numbers: noise per pair without a table of pairs.
    sizes = len(world.taste), len(world.latent)
    one, other = (2**15 * (1 + torch.rand(n, generator=random, dtype=torch.float64)) for n in sizes)
    in_tail = {
        "right": lambda true, user, items: true,
        "noise": lambda true, user, items: 0.1 + 0.8 * (one[user, None] * other[items] % 1),
        "harmful": lambda true, user, items: 1 - true,
    }[kind]

    def rank(user: Tensor, items: Tensor) -> Tensor:
        true = true_score(world, user, items)  # (B, C)
        mixed = torch.where(world.tail_user[user, None], in_tail(true, user, items), true)
        return mixed.float().masked_fill(items == HOLE, 0.0)

    return rank
