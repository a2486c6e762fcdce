"""Drive reinforcement learning: lines of metrics, and the probe where exact values stand beside estimates."""

from collections.abc import Callable, Iterable
from dataclasses import replace

from minirec.loop import Learner, reinforce
from minirec.measure import report
from minirec.measure.probe import probe
from minirec.objectives import OBJECTIVES
from minirec.policy import Policy
from minirec.records import Objective
from minirec.run.folder import Run
from minirec.run.training import Training, fit
from minirec.tasks import Task

SEEN = ("reward", "silent", "admitted")  # on every line but that of the start
PRINTED = *SEEN, *"estimate exact_reward exact_kl ndcg@10 ndcg@5 hallucination".split()

Validate = Callable[[Policy], dict[str, float]]  # metrics on validation contexts


def means(lines: list[dict[str, float]], names: Iterable[str]) -> dict[str, float]:
    """The mean of each number over the lines of metrics that have it.

    >>> means([{"step": 1, "silent": 0.5}, {"step": 2, "silent": 1.0}], ["silent", "mixed"])
    {'silent': 0.75}
    """
    values = {name: [line[name] for line in lines if name in line] for name in names}
    return {name: sum(numbers) / len(numbers) for name, numbers in values.items() if numbers}


class Reinforcement(Training):
    """A policy while an objective teaches it. The last weights are kept, whatever validation says."""

    last = -1  # so that the start is measured too

    def __init__(self, start: Policy, task: Task, objective: Objective, validate: Validate) -> None:
        self.task, self.objective, self.validate, cfg = task, objective, validate, task.cfg
        self.learner = learner = Learner(cfg, start, task.trie, task.processes)
        super().__init__(learner.policy, learner.optimiser, task.processes, cfg.rl_steps, cfg.measure)

    def update(self) -> None:
        """One step of ``loop.reinforce``, and a line of what was seen."""
        tally = reinforce(self.learner, self.task, self.objective, self.step)
        self.step, self.best = self.step + 1, None  # the latest weights are kept
        self.measured.append({"step": self.step} | tally.means(self.processes))

    def measure(self) -> None:
        """Complete the last line: this moment's exact values beside estimates, and validation."""
        self.measured = self.measured or [{"step": self.step}]
        line = self.measured[-1]
        if self.task.probe is not None:
            line |= probe(self.task, self.policy, self.learner.reference, self.step)
        if self.processes.rank:
            return
        line |= self.validate(self.policy)
        shown = [place for place, other in enumerate(self.measured[:-1], 1) if "estimate" in other]
        lines = self.measured[max(shown, default=0) :]
        names = [name for name in PRINTED if name in SEEN or name in self.measured[0]]
        self.show({"step": self.step} | dict.fromkeys(names, "") | means(lines, names))


def train_arm(run: Run, start: Policy, task: Task, validate: Validate, heading: str, *notes: str) -> None:
    """Run one arm to its end, from its checkpoint where there is one; the policy of the last step is kept."""
    cfg = task.cfg
    if task.processes.rank == 0:
        size = f"{cfg.rl_steps} batches of {cfg.contexts} x {cfg.group} rollouts"
        report.say("", f"{heading}: {size}", *notes)
    fit(Reinforcement(start, task, OBJECTIVES[cfg.objective], validate), replace(run, cfg=cfg))
