"""Drive reinforcement learning: lines of metrics, and the probe where exact values stand beside estimates."""

from collections.abc import Callable, Iterable

from tqdm import tqdm

from minirec.loop import Learner, reinforce
from minirec.measure.probe import probe
from minirec.policy import Policy
from minirec.records import Objective
from minirec.run.training import Training
from minirec.tasks import NextItem, Rankings

PRINTED = ("reward", "estimate", "exact_reward", "exact_kl", "silent", "admitted")
PRINTED += ("ndcg@10", "ndcg@5", "hallucination")

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

    def __init__(
        self, start: Policy, task: NextItem | Rankings, objective: Objective, validate: Validate | None = None
    ) -> None:
        self.task, self.objective, self.validate = task, objective, validate
        self.learner = Learner(task.cfg, start, task.trie, task.processes)
        super().__init__(self.learner.policy, self.learner.optimiser, task.cfg.rl_steps, task.processes)

    def update(self) -> None:
        """One step of ``loop.reinforce``, and a line of what was seen."""
        tally = reinforce(self.learner, self.task, self.objective, self.step)
        self.step += 1
        self.measured.append({"step": self.step} | tally.means(self.processes))

    def due(self) -> bool:
        """Whether exact values and validation are still to come at this step."""
        done = bool(self.measured) and "estimate" in self.measured[-1]
        return not done and (self.step % self.task.cfg.measure == 0 or self.step == self.steps)

    def measure(self) -> None:
        """Complete the last line: this moment's exact values beside estimates, and validation."""
        if not self.measured:
            self.measured.append({"step": self.step})
        line = self.measured[-1]
        before = [i for i, other in enumerate(self.measured[:-1]) if "estimate" in other]
        if self.task.probe is not None:
            line |= probe(self.task, self.policy, self.learner.reference, self.step)
        if self.processes.rank:
            return
        line |= self.validate(self.policy) if self.validate else {}
        lines = self.measured[before[-1] + 1 :] if before else [line]
        numbers = (f"{name} {value:.4f}" for name, value in means(lines, PRINTED).items())
        tqdm.write(f"step {self.step:4}  {'  '.join(numbers)}")
