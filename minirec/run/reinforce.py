"""Reinforcement learning: one loop for every objective.

    x      = task.act(policy, step)          what the policy does with a batch, and what that is worth
    signal = objective(x)                    which sequences to learn from, and their advantages
    loss   = learner(x.batch, signal, ..)    one loss for all

The policy that acts is the policy that learns, without dropout, in float32. Contexts and noise of a step are
made from (seed, step), so there is no random state to save. The number of processes does not change the
gradient: each has its share of the contexts, and the loss is divided by those of all.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from minirec.measure.metrics import SUMMED
from minirec.objectives.loss import Learner
from minirec.policy import Policy
from minirec.rankings import Rankings
from minirec.records import Experience, Signal
from minirec.run import checkpoint
from minirec.run.machine import Processes
from minirec.settings import Config
from minirec.tasks import NextItem

Objective = Callable[[Experience], Signal]


def observed(x: Experience, signal: Signal) -> dict[str, tuple[float, float]]:
    """What a batch's rollouts show, as sums and what they are divided by.

    Args:
        x: the batch.
        signal: what the objective made of it.

    Returns:
        By the names of ``metrics.LOGGED``.
    """
    contexts, rollouts = len(x.batch), x.rewards.numel()
    silent = (x.rewards == x.rewards[:, :1]).all(1).sum().item()
    sums = {
        "reward": (x.rewards.double().sum().item(), rollouts),
        "silent": (silent, contexts),
        "entropy": (-x.rollout.logp.double().sum().item(), rollouts),
        "holes": ((x.rollout.items < 0).sum().item(), x.rollout.items.numel()),
        "admitted": (len(signal.rows), contexts),
    }
    if x.cfg.rollouts == "beam":
        del sums["entropy"]  # beams are no samples
    return sums | {name: (value, contexts) for name, value in signal.facts.items()}


def means(lines: list[dict[str, float]], names: Iterable[str]) -> dict[str, float]:
    """The mean of each number over the lines that have it.

    Args:
        lines: of metrics.
        names: of ``metrics.LOGGED``.

    Returns:
        By name, without those that no line has.

    >>> means([{"step": 1, "silent": 0.5}, {"step": 2, "silent": 1.0}], ["silent", "mixed"])
    {'silent': 0.75}
    """
    found = {name: [line[name] for line in lines if name in line] for name in names}
    return {name: sum(values) / len(values) for name, values in found.items() if values}


class Reinforcement:
    """A policy while an objective teaches it; ``fit.fit`` drives it as it drives supervised training."""

    def __init__(
        self,
        cfg: Config,
        start: Policy,
        task: NextItem | Rankings,
        objective: Objective,
        processes: Processes,
    ) -> None:
        """Begin at a supervised policy.

        Args:
            cfg: the settings of the objective.
            start: is copied, and stays the reference of the KL.
            task: what is asked.
            objective: makes the signal.
            processes: this one and the others.
        """
        self.cfg, self.task, self.objective, self.processes = cfg, task, objective, processes
        self.reference = copy.deepcopy(start).eval().requires_grad_(False)
        self.policy = copy.deepcopy(start).eval().requires_grad_(True)  # eval: RL has no dropout
        self.learner = Learner(self.policy, task.trie, cfg)
        self.model = processes.wrap(self.learner)
        rate, betas = cfg.rl_rate, (0.9, 0.98)
        self.optimiser = torch.optim.Adam(self.policy.parameters(), rate, betas=betas, fused=True)
        self.step, self.steps = 0, cfg.rl_steps
        self.measured: list[dict] = []  # a line per batch of rollouts, and one before the first

    @property
    def best(self) -> dict[str, Tensor]:
        """The weights that are kept: the last ones, so that no arm gains from being looked at often."""
        return self.policy.state_dict()

    def save(self, run: Path) -> None:
        """Write ``checkpoint.pt`` and ``metrics.jsonl``."""
        if self.processes.rank == 0:
            state = {"policy": self.best, "best": self.best, "optimiser": self.optimiser.state_dict()}
            checkpoint.save_progress(run, state | {"step": self.step}, self.measured)

    def load(self, run: Path) -> None:
        """Go on where ``checkpoint.pt`` stands."""
        state = checkpoint.load(run / "checkpoint.pt")
        self.policy.load_state_dict(state["policy"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.measured = state["step"], state["measured"]

    def update(self) -> None:
        """One batch of rollouts, ``cfg.updates`` steps of Adam on it, and a line of what was seen."""
        cfg, count = self.cfg, self.processes.count
        x = self.task.act(self.policy, self.step)
        signal = self.objective(x)
        allowed = self.task.allowed(x, signal)
        with torch.no_grad():
            reference = self.learner.logp(x.batch, signal, allowed, self.reference)
            old = self.learner.logp(x.batch, signal, allowed) if cfg.updates > 1 else None
        sums = torch.zeros(len(SUMMED), 2, dtype=torch.float64)  # sum, count

        def count_in(seen: dict[str, tuple[float, float]]) -> None:
            for name, pair in seen.items():
                if name in SUMMED:
                    sums[SUMMED.index(name)] += torch.tensor(pair, dtype=torch.float64)

        count_in(observed(x, signal))
        for _ in range(cfg.updates):
            loss, facts = self.model(x.batch, signal, allowed, old, reference, cfg.contexts)
            (loss * count).backward()  # the wrapper averages over processes
            norm = nn.utils.clip_grad_norm_(self.policy.parameters(), cfg.clip)
            self.optimiser.step()
            self.optimiser.zero_grad()
            whole = {"gradient_norm": (norm.item() / count, 1 / count), "loss": (loss.item(), 1 / count)}
            count_in(facts | whole)
        self.step += 1
        seen = zip(SUMMED, self.processes.totals(sums), strict=True)
        self.measured.append({"step": self.step} | {name: (a / b).item() for name, (a, b) in seen if b > 0})

    def due(self) -> bool:
        """Whether exact values and validation are still to come at this step."""
        done = bool(self.measured) and "estimate" in self.measured[-1]
        return not done and (self.step % self.cfg.measure == 0 or self.step == self.steps)

    def measure(self) -> None:
        """Complete the last line: this moment's exact values beside estimates, and validation."""
        if not self.measured:
            self.measured.append({"step": self.step})
        line = self.measured[-1]
        x = self.task.act(self.policy, self.step, probe=True)
        group = x.rewards.double()  # (B, G)
        spread = group.var(1) if group.shape[1] > 1 else torch.full_like(group[:, 0], torch.nan)
        own = {"estimate": group.mean(1), "estimate_error": spread / group.shape[1]}
        own |= self.task.exact(x, self.policy, self.reference)  # (B,) each
        parts = torch.stack([torch.ones_like(group[:, 0]), *own.values()]).sum(1)
        size, *parts = self.processes.totals(parts).tolist()
        line |= {name: part / size for name, part in zip(own, parts, strict=True)}
        line["estimate_error"] = (line["estimate_error"] / size) ** 0.5
        if self.processes.rank:
            return
        line |= self.task.validate(self.policy)
        before = [i for i, other in enumerate(self.measured[:-1]) if "estimate" in other]
        since = self.measured[before[-1] + 1 :] if before else [line]
        said = (f"{name} {value:.4f}" for name, value in means(since, SAID).items())
        tqdm.write(f"step {self.step:4}  {'  '.join(said)}")


SAID = (
    "reward",
    "estimate",
    "exact_reward",
    "exact_kl",
    "silent",
    "admitted",
    "ndcg@10",
    "ndcg@5",
    "hallucination",
)
