"""Random numbers that depend on a use, a seed and a step, and on nothing else.

A run has no random state to save: whatever is drawn can be drawn again. All uses of ``stream`` are named
here, with the numbers that each is made from, so no two of them can share one. The order of an epoch, the
choice of validation contexts, dropout and the bootstrap have generators of their own where they are used.
"""

import numpy as np
import torch
from torch import Tensor

USES = {  # a new one goes to the end, as the place of a use is part of its seed
    "world": ("seed",),  # items, tastes and periods of the simulated world
    "sequences": ("seed",),  # what its users choose
    "exposures": ("seed of the world", "seed"),  # what its logging policy shows, and the clicks
    "unreliable ranker": ("seed",),  # the noise of a designed ranker
    "rollouts": ("seed", "step"),  # of reinforcement learning
    "objective": ("seed", "step"),  # what an objective draws
    "log ranker": ("seed",),  # training of the ranker on a log
    "click ranker": ("seed",),  # training of the ranker on clicks
    "needs": ("seed", "step"),  # of the contexts of a step
    "candidates": ("seed", "part"),  # closed sets, and whose feedback is observed
    "random order": ("seed",),  # a floor
    "critic": ("seed",),  # its training
    "fresh users": ("seed",),  # who is left to reinforcement learning
    "judged contexts": ("seed",),  # on which a ranker is described
    "log ranker weights": ("seed",),
    "click ranker weights": ("seed",),
}


def stream(use: str, *numbers: int) -> torch.Generator:
    """Make the random stream of a use, such as ``stream("rollouts", seed, step)``.

    Raises ValueError for other numbers than the use has: numpy takes (seed, 4) and (seed, 4, 0) for the same.
    """
    if len(numbers) != len(USES[use]):
        raise ValueError(f"stream: '{use}' is made from {USES[use]}, got {numbers}")
    entropy = (numbers[0], list(USES).index(use), *numbers[1:])
    seed = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(seed >> 1))


NARROW = {"mps"}  # types of devices without float64


def widest(device: torch.device | str) -> torch.dtype:
    """float64; float32 on a device that has no more, Apple's MPS."""
    return torch.float32 if torch.device(device).type in NARROW else torch.float64


def wide(values: Tensor) -> Tensor:
    """In the widest numbers that their device has."""
    return values.to(widest(values.device))


def uniform(random: torch.Generator, *shape: int, device: torch.device | str = "cpu") -> Tensor:
    """Draw uniform numbers in [0, 1), always on the CPU, as wide as a device has them."""
    numbers = torch.rand(*shape, generator=random, dtype=torch.float64)
    if widest(device) == torch.float32:
        numbers = numbers.float().clamp(max=1 - 2**-20)  # below 1 after float32's rounding too
    return sent(numbers, device)


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Copy to a device; a copy from the CPU makes nobody wait, but on MPS, which reads its source later."""
    later = tensor.is_cpu and torch.device(device).type != "mps"
    return tensor.to(device, non_blocking=later)


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
