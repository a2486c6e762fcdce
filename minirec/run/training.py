"""Drive a training to its end, supervised or reinforced: lines of metrics, checkpoints, and Ctrl-C."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from minirec.files import atomic
from minirec.loop import LOGGED, Tally
from minirec.measure.probe import PROBED
from minirec.policy import Policy
from minirec.run import folder
from minirec.run.machine import interruptions
from minirec.tasks import Processes

LINES = LOGGED | PROBED
LINES |= {
    "step": "updates done, or with an objective, batches of rollouts done",
    "epoch": "passes over the training sequences",
    "recall@10": "on validation contexts, beam 20; 0 to 1",
    "ndcg@10": "on validation contexts, beam 20; its maximum chooses the supervised weights; 0 to 1",
    "hallucination": "on validation contexts, as in the report; 0 to 1",
    "ndcg@5": "lists: of the greedy ranking on validation contexts, mean over the trained needs; 0 to 1",
}  # every number in metrics.jsonl, beside the facts of an objective


class Training:
    """A policy while it is trained. All that changes on the way is written by ``save`` and read by ``load``.

    A case of it has ``update`` (one step), ``due`` (whether to measure before the next one) and ``measure``
    (complete a line of metrics).
    """

    def __init__(
        self,
        policy: Policy,
        optimiser: torch.optim.Optimizer,
        steps: int,
        processes: Processes,
        logged: Iterable[str] = (),
    ) -> None:
        self.policy, self.optimiser, self.steps, self.processes = policy, optimiser, steps, processes
        self.step = 0
        self.tally = Tally(logged)  # of the steps since the last line
        self.measured: list[dict[str, Any]] = []  # lines of metrics
        self.best: dict[str, Tensor] | None = None  # the weights to keep; None: the latest

    def save(self, run: Path) -> None:
        """Write checkpoint.pt, then metrics.jsonl, in the first process; all must call it."""
        sums = {name: self.processes.totals(pair) for name, pair in self.tally.sums.items()}
        if self.processes.rank == 0:
            weights = self.policy.state_dict()
            state = {"policy": weights, "best": self.best or weights, "step": self.step}
            state |= {"tally": sums, "measured": self.measured}
            folder.save(run / "checkpoint.pt", state | {"optimiser": self.optimiser.state_dict()})
            with atomic(run / "metrics.jsonl") as file:
                file.writelines(json.dumps(line).encode() + b"\n" for line in self.measured)

    def load(self, run: Path) -> dict[str, Any]:
        """Go on where checkpoint.pt stands, and return what is in it."""
        state = folder.load(run / "checkpoint.pt")
        self.policy.load_state_dict(state["policy"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.measured = state["step"], state["measured"]
        if self.processes.rank == 0:  # what all processes had added up
            self.tally.sums = state["tally"]
        return state


def fit(training: Training, run: Path) -> Policy:
    """Train to the last step; whenever a line of metrics is due, measure and write a checkpoint.

    Goes on from a checkpoint in the run folder. Returns the policy in evaluation mode, in the first process
    with the weights that are kept. After Ctrl-C the step in progress is done and a checkpoint is written.
    """
    if (run / "checkpoint.pt").is_file():
        training.load(run)
        training.save(run)  # brings metrics.jsonl to the same point
    quiet = True if training.processes.rank else None  # one bar, and none where nobody looks
    steps = {"total": training.steps, "initial": training.step, "unit": " steps"}
    with tqdm(**steps, desc="train", leave=False, disable=quiet) as bar, interruptions() as caught:
        while True:
            if training.due():
                training.measure()
                training.save(run)
            if training.processes.any(bool(caught)):
                training.save(run)
                raise KeyboardInterrupt
            if training.step == training.steps:
                break
            training.update()
            bar.update()
    if training.best:
        training.policy.load_state_dict(training.best)
    return training.policy.eval()
