"""The loop of supervised training: a loss per step, minimised with one progress bar."""

import math
from collections.abc import Callable

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR
from tqdm import tqdm

from minirec.loop import update

Loss = Callable[[int], Tensor]  # of a step


def minimise(
    optimiser: Optimizer, loss: Loss, steps: int, name: str, final: float = 1.0, clip: float = math.inf
) -> None:
    """Minimise the loss of steps 0 to ``steps`` - 1 over the optimiser's parameters; ``name`` titles the bar.

    The rate moves linearly to ``final`` times itself; ``clip`` is a gradient's largest norm.
    """
    schedule = LinearLR(optimiser, 1.0, final, steps)
    for step in tqdm(range(steps), name, unit=" steps", delay=2, leave=False, disable=None):
        update(loss(step), optimiser, step, clip)
        schedule.step()
