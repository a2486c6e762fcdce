"""The loop of supervised training: a loss per step, minimised with one progress bar."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR
from tqdm import tqdm

from minirec.loop import update

JUDGED = 25  # steps from one judgement to the next


def minimise(
    optimiser: Optimizer,
    loss: Callable[[int], Tensor],
    steps: int,
    name: str,
    final: float = 1.0,
    clip: float = math.inf,
    judge: Callable[[], float] | None = None,
) -> None:
    """Minimise the loss of steps 0 to ``steps`` - 1 over the optimiser's parameters; ``name`` titles the bar.

    The rate moves linearly to ``final`` times itself; ``clip`` is a gradient's largest norm. A judge gives a
    number every JUDGED steps and after the last; the parameters end as they were when it was last lowest.
    """
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    schedule = LinearLR(optimiser, 1.0, final, steps)
    best, least = parameters, math.inf
    for step in tqdm(range(steps), name, unit=" steps", delay=2, leave=False, disable=None):
        update(loss(step), optimiser, clip)
        schedule.step()
        if judge is not None and ((step + 1) % JUDGED == 0 or step + 1 == steps):
            with torch.no_grad():
                now = judge()
            if now <= least:
                best, least = [parameter.detach().clone() for parameter in parameters], now
    if judge is not None:
        for parameter, value in zip(parameters, best, strict=True):
            parameter.detach().copy_(value)
