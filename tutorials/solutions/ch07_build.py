"""Build: a contrast whose miss is drawn at random.

Who pays: a miss of the group is a sample of the policy that is not the target, so item y pays with
probability π(y) / (1 - π(g)). That is what it pays under the NLL as well, but for the length of the step.
"""

import torch
from torch import Tensor

from minirec.objectives import recast


def contrast(hits: Tensor, likelihood: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Pick the pair that a group learns from.

    Args:
        hits: (B, G) of 0 and 1.
        likelihood: (B, G) log-probability of each rollout, in nats.
        noise: (B,) float64 uniform in [0, 1), one number per group. The same noise gives the same miss.

    Returns:
        The learnable rows (R,) int64, and their hit and their random miss (R, 2) int64.
    """
    rows = ((hits > 0).any(1) & (hits == 0).any(1)).nonzero()[:, 0]
    hits, likelihood, noise = hits[rows], likelihood[rows], noise[rows]
    miss = hits == 0  # (R, G)
    which = (noise * miss.sum(1)).long()  # (R,) counted among the misses, from 0
    place = (miss.cumsum(1) > which[:, None]).int().argmax(1)
    return rows, torch.stack([recast.choose(hits, likelihood), place], 1)
