"""Drive a training to its end, supervised or reinforced: lines of metrics, checkpoints, and Ctrl-C."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from torch import Tensor
from tqdm import tqdm

from minirec.policy import Policy
from minirec.run.machine import Processes, interruptions


class Stoppable(Protocol):
    """What ``fit`` asks of a training: ``train.Training`` and ``reinforce.Reinforcement`` have it."""

    policy: Policy
    processes: Processes
    step: int
    steps: int

    @property
    def best(self) -> dict[str, Tensor]:
        """The weights that are kept."""

    def update(self) -> None:
        """Do one step."""

    def due(self) -> bool:
        """Whether to measure before the next step."""

    def measure(self) -> None:
        """Add a line of metrics."""

    def save(self, run: Path) -> None:
        """Write a checkpoint."""


def fit(training: Stoppable, run: Path) -> Policy:
    """Train to the last step; whenever a line of metrics is due, measure and write a checkpoint.

    Args:
        training: a new one, or one that was loaded.
        run: the run folder.

    Returns:
        The policy in evaluation mode, in the first process with the weights that are kept.

    Raises:
        KeyboardInterrupt: Ctrl-C; the step in progress is done, and a checkpoint stands in the run folder.
    """
    processes = training.processes
    quiet = True if processes.rank else None  # one bar, and none where nobody looks
    bar = tqdm(
        total=training.steps, initial=training.step, desc="train", unit=" steps", leave=False, disable=quiet
    )
    with bar, interruptions() as caught:
        while True:
            if training.due():
                training.measure()
                training.save(run)
            if processes.total(len(caught)):
                training.save(run)
                raise KeyboardInterrupt
            if training.step == training.steps:
                break
            training.update()
            bar.update()
    training.policy.load_state_dict(training.best)
    return training.policy.eval()
