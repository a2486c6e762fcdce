"""Random numbers that depend on a use, a seed and a step, and on nothing else.

A run has no random state to save: whatever is drawn can be drawn again. Each use has a stream of its own, and
all uses are named here, so that no two of them can share one.
"""

import numpy as np
import torch
from torch import Tensor

USES = (
    "world",  # items, tastes and periods of the simulated world
    "sequences",  # what its users choose
    "exposures",  # what its logging policy shows, and the clicks
    "unreliable ranker",  # the noise of a designed ranker
    "rollouts",  # of a step of reinforcement learning
    "objective",  # of the same step: what an objective draws
    "log ranker",  # training of the ranker on a log
    "click ranker",  # training of the ranker on clicks
    "needs",  # of a step
    "candidates",  # closed sets, and whose feedback is observed
    "random order",  # a floor
    "critic",  # its training
    "fresh users",  # who is left to reinforcement learning
    "judged contexts",  # validation contexts on which a ranker is described
    "log ranker weights",
    "click ranker weights",
)


def stream(use: str, *numbers: int) -> torch.Generator:
    """Make the random stream of a use, such as ``stream("rollouts", seed, step)``.

    How many numbers there are counts too: numpy takes (1,) and (1, 0) for the same seed.
    """
    seed = np.random.SeedSequence((USES.index(use), len(numbers), *numbers))
    return torch.Generator().manual_seed(int(seed.generate_state(1, np.uint64)[0] >> 1))


def draw(weights: Tensor, noise: Tensor) -> Tensor:
    """Draw by inverting the cumulative distribution, so that the same noise gives the same draw.

    weights (..., N) float64, not negative, with any sum; noise (..., n) float64 uniform in [0, 1).
    Returns (..., n) int64: the first index whose share of the cumulative sum exceeds the noise, so never one
    of weight 0. Source: definition.

    >>> draw(torch.tensor([0.0, 0.5, 0.5]).double(), torch.tensor([0.25, 0.75]).double())
    tensor([1, 2])
    """
    total = weights.cumsum(-1)
    return torch.searchsorted(total, (noise * total[..., -1:]).contiguous(), right=True)
