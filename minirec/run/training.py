"""Drive a training to its end, supervised or reinforced: lines of metrics, checkpoints, and Ctrl-C."""

import json
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from tqdm import tqdm

from minirec.files import atomic
from minirec.loop import LOGGED, Tally
from minirec.measure import report
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

    A subclass has ``update``, one step, and ``measure``, which completes a line of metrics.
    """

    last = 0  # step of the last measurement; with -1 the start is measured too
    named = False  # whether the names of the numbers are on the screen

    def __init__(self, policy: Policy, optimiser: Optimizer, processes: Processes, steps: int, every: int):
        self.policy, self.optimiser, self.processes = policy, optimiser, processes
        self.step, self.steps, self.every = 0, steps, every
        self.tally = Tally(())  # of the steps since the last line
        self.measured: list[dict[str, Any]] = []  # lines of metrics
        self.best: dict[str, Tensor] | None = None  # the weights to keep; None: the latest

    def show(self, numbers: report.Row) -> None:
        """Print a line of numbers, the first time under their names."""
        lines = report.table([numbers], list(numbers)).splitlines()
        tqdm.write("\n".join(lines[self.named :]))
        self.named = True

    def save(self, run: folder.Run) -> None:
        """Write checkpoint.pt, then metrics.jsonl, in the first process; all must call it."""
        sums = dict(zip(self.tally.sums, self.processes.totals(self.tally.read()).tolist(), strict=True))
        if self.processes.rank == 0:
            weights = self.policy.state_dict()
            folder.refuse_infinite(run.folder / "checkpoint.pt", weights)
            state = {"policy": weights, "best": self.best or weights, "step": self.step, "tally": sums}
            state |= {"measured": self.measured, "optimiser": self.optimiser.state_dict()}
            state["data"] = run.fingerprint
            lines = [json.dumps(line, allow_nan=False) + "\n" for line in self.measured]
            folder.save(run.folder / "checkpoint.pt", state)
            with atomic(run.folder / "metrics.jsonl") as file:
                file.write("".join(lines).encode())

    def load(self, run: folder.Run) -> None:
        """Go on where checkpoint.pt stands; InputError if that is another run, or past the end of this."""
        with run.loaded("checkpoint.pt") as state:
            self.policy.load_state_dict(state["policy"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step, self.measured, self.best = state["step"], state["measured"], state["best"]
            if self.step > self.steps:
                raise ValueError(f"it has done {self.step} steps, and the run has {self.steps}")
        self.last = self.step  # if a measurement was due, it came before the checkpoint
        if self.processes.rank == 0:  # what all processes had added up
            self.tally.sums = state["tally"]


def fit(training: Training, run: folder.Run) -> Policy:
    """Train to the last step; whenever a line of metrics is due, measure and write a checkpoint.

    Goes on from a checkpoint in the run folder, and writes one after Ctrl-C, when the step is done. Returns
    the policy in evaluation mode, in the first process with the weights that are kept.
    """
    if (run.folder / "checkpoint.pt").is_file():
        training.load(run)
        training.save(run)  # brings metrics.jsonl to the same point
    quiet = bool(training.processes.rank) or None  # one bar, and none where nobody looks
    place = {"total": training.steps, "initial": training.step, "disable": quiet}
    with tqdm(desc="train", unit=" steps", leave=False, **place) as bar, interruptions() as caught:
        while True:
            due = training.step % training.every == 0 or training.step == training.steps
            if due and training.step > training.last:
                training.measure()
                training.last = training.step
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
