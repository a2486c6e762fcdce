"""Reinforcement learning: one step, the same for every objective.

The policy that acts is the policy that learns, without dropout, in float32. The number of processes does not
change the gradient: each has its share of the contexts, and the loss is divided by those of all.
"""

import copy
import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR
from tqdm import tqdm

from minirec.errors import InputError
from minirec.noise import wide
from minirec.objectives.loss import Loss, logprobs
from minirec.policy import Policy
from minirec.records import Experience, Objective, Signal
from minirec.settings import Config
from minirec.tasks import ONE, Processes, Task
from minirec.trie import Trie

LOGGED = {
    "loss": "mean over the updates; any number, and without NLL near 0, as advantages sum to 0",
    "gradient_norm": "norm of the gradient before clipping, mean over updates; 0 and up",
    "nll": "supervised: with dropout, nats per item; with an objective: of the targets, per token; 0 and up",
    "kl": "k3 estimate of KL(π‖start) on the signal's tokens, nats per token; 0 and up",
    "clipped": "share of the signal's tokens whose ratio is clipped; 0 to 1, 0 in a batch's first update",
    "reward": "mean over the rollouts; hit: 0 or 1, ranker: 0 to 1, lists: NDCG, 0 to 1",
    "silent": "share of groups in which all rewards are equal; 0 to 1",
    "admitted": "share of contexts that the signal keeps; 0 to 1",
    "entropy": "estimate from sampled rollouts: mean of -log π, nats per item or list; 0 and up",
    "holes": "share of generated tuples that are no item; 0 to 1, 0 under the trie",
}  # what a step of training writes to metrics.jsonl; an objective adds its own facts


class Tally:
    """The mean of logged numbers over steps and processes; a sum stays on its device until it is read."""

    def __init__(self, names: Iterable[str]) -> None:
        self.sums: dict[str, list] = {name: [0.0, 0.0] for name in names}  # sum, count

    def add(self, name: str, total: Tensor | float, count: float = 1) -> None:
        """Add a sum and its divisor; a name without a definition is a ValueError."""
        if name not in self.sums:
            raise ValueError(f"'{name}' is logged and not defined; add it to the objective's facts")
        before, number = self.sums[name]
        total = wide(total.detach()) if isinstance(total, Tensor) else total
        self.sums[name] = [before + total, number + count]

    def read(self) -> Tensor:
        """Sums and counts (names, 2) float64, on the CPU."""
        waiting = [total for total, _ in self.sums.values() if isinstance(total, Tensor)]
        numbers = iter(torch.stack(waiting).tolist() if waiting else ())
        pairs = [[next(numbers) if isinstance(a, Tensor) else a, b] for a, b in self.sums.values()]
        return torch.tensor(pairs, dtype=torch.float64)

    def means(self, processes: Processes = ONE) -> dict[str, float]:
        """The mean over all processes of every number that was added; all processes must call it."""
        sums = processes.totals(self.read())  # (names, 2)
        pairs = zip(self.sums, sums.tolist(), strict=True)
        return {name: total / count for name, (total, count) in pairs if count > 0}


def observe(tally: Tally, x: Experience, signal: Signal) -> None:
    """Count what a batch's rollouts show, and what the objective made of them."""
    contexts, rollouts = len(x.batch), x.rewards.numel()
    tally.add("reward", wide(x.rewards).sum(), rollouts)
    tally.add("silent", (x.rewards == x.rewards[:, :1]).all(1).sum(), contexts)
    tally.add("holes", (x.rollout.items < 0).sum(), x.rollout.items.numel())
    tally.add("admitted", len(signal.rows), contexts)
    if x.rollout.sampled:
        tally.add("entropy", -wide(x.rollout.logp).sum(), rollouts)
    for name, total in signal.facts.items():
        tally.add(name, total, contexts)


class Learner:
    """A policy that learns, a frozen copy of its start as the reference of the KL, and the optimiser."""

    def __init__(self, cfg: Config, start: Policy, trie: Trie, processes: Processes = ONE) -> None:
        self.reference = copy.deepcopy(start).eval().requires_grad_(False)
        self.policy = copy.deepcopy(start).eval().requires_grad_(True)  # eval: RL has no dropout
        self.loss = processes.wrap(Loss(self.policy, trie, cfg))
        parameters = self.policy.parameters()
        self.optimiser = torch.optim.Adam(parameters, cfg.rl_rate, betas=(0.9, 0.98), fused=True)


def update(loss: Tensor, optimiser: Optimizer, step: int, clip: float = math.inf) -> float:
    """One step of any training, with the gradient cut to the norm ``clip``; returns its norm before.

    Raises InputError, and leaves the parameters alone, where the loss or the gradient is not finite.
    """
    loss.backward()
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, clip)
    value, norm = torch.stack([loss.detach(), norm]).tolist()  # one wait for both
    if not math.isfinite(value + norm):
        optimiser.zero_grad()
        bad = "the gradient" if math.isfinite(value) else "the loss"
        raise InputError(f"step {step}: {bad} is not finite; start again with a lower rate and another --out")
    optimiser.step()
    optimiser.zero_grad()
    return norm


def minimise(
    optimiser: Optimizer, loss: Callable, steps: int, name: str, final: float = 1.0, clip: float = math.inf
) -> None:
    """Minimise ``loss(step)``, step 0 to ``steps`` - 1; the rate moves linearly to ``final`` times itself."""
    schedule = LinearLR(optimiser, 1.0, final, steps)
    for step in tqdm(range(steps), name, unit=" steps", delay=2, leave=False, disable=None):
        update(loss(step), optimiser, step, clip)
        schedule.step()


def reinforce(learner: Learner, task: Task, objective: Objective, step: int) -> Tally:
    """Act, make a signal, update: one batch of rollouts, and ``cfg.updates`` steps of Adam on it."""
    cfg, trie, policy, count = task.cfg, task.trie, learner.policy, task.processes.count
    tally = Tally((*LOGGED, *objective.facts))

    x = task.act(policy, step)  # what the policy does with B contexts, and what that is worth
    signal = objective.signal(x)  # which sequences teach, and how much
    observe(tally, x, signal)

    allowed = x.masks(signal)  # the masks under which they were drawn
    with torch.no_grad():
        reference = logprobs(learner.reference, trie, x.batch, signal, allowed)  # (R, S, P, L)
        old = logprobs(policy, trie, x.batch, signal, allowed) if cfg.updates > 1 else None
    for _ in range(cfg.updates):
        loss, facts = learner.loss(x.batch, signal, allowed, old, reference, cfg.contexts)
        norm = update(loss * count, learner.optimiser, step, cfg.clip)  # processes average gradients
        tally.add("loss", loss, 1 / count)  # each process has its part of the loss ..
        tally.add("gradient_norm", norm / count, 1 / count)  # .. and all have the same gradient
        for name, (total, divisor) in facts.items():
            tally.add(name, total, divisor)
    return tally
