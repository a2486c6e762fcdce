"""What the policy is asked in reinforcement learning: the next item, or a ranking of a closed set.

A task picks a batch, lets the policy act on it, and says what the rollouts are worth. All randomness comes
from (seed, step), is made for the contexts of all processes together, and is sliced; so arms share their
noise, and the number of processes changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from minirec import rewards, rollout
from minirec.errors import InputError
from minirec.noise import sent, stream, uniform
from minirec.policy import Policy, score
from minirec.records import Batch, Experience, Lists, Signal
from minirec.settings import Config
from minirec.trie import Trie

if TYPE_CHECKING:
    from minirec.data.dataset import Examples
    from minirec.data.lists import ListSource

    Source = Examples | ListSource

Reward = Callable[[Batch, Tensor], Tensor]  # a batch and items (B, C) -> rewards (B, C) float32
PROBE_STEP = 2**20  # lists of the probe are always for the needs that are drawn for this step


class Processes:
    """This process, number ``rank`` of those that ``torchrun`` started, or alone."""

    def __init__(self, device: torch.device | str = "cpu", count: int = 1, rank: int = 0) -> None:
        self.device, self.count, self.rank = torch.device(device), count, rank

    def share(self, rows: Tensor) -> tuple[Tensor, float]:
        """Give this process its rows of a batch (b,), and their weight, as processes average their gradients.

        A process without rows repeats one with weight 0, as it must still run backward.
        """
        part = rows[self.rank :: self.count]
        return (part, float(self.count)) if len(part) else (rows[:1], 0.0)

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model; with several processes, a wrapper that averages its gradients."""
        return DistributedDataParallel(model) if self.count > 1 else model

    def gather(self, rows: Tensor) -> Tensor:
        """Bring the rows (b, ...) of all processes together, in the order in which they were dealt out."""
        if self.count == 1:
            return rows
        parts: list[Tensor] = [rows] * self.count
        dist.all_gather_object(parts, rows.cpu())
        order = torch.cat([torch.arange(len(part)) * self.count + i for i, part in enumerate(parts)])
        return torch.cat(parts)[order.argsort()].to(rows.device)

    def totals(self, values: Tensor) -> Tensor:
        """Sum a tensor over the processes, in float64, on the CPU; all must call it."""
        if self.count == 1:
            return values.cpu().double()
        values = values.to(self.device, torch.float64, copy=True)  # all_reduce writes into it
        dist.all_reduce(values)
        return values.cpu()

    def any(self, happened: bool) -> bool:
        """Whether it happened in any process; all must call it."""
        return self.totals(torch.tensor(float(happened))).item() > 0

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.any(False)


ONE = Processes()


def hit(batch: Batch, items: Tensor) -> Tensor:
    """``rewards.hit`` as a Reward."""
    return rewards.hit(items, batch.targets)


def step_rows(count: int, size: int, seed: int, step: int) -> Tensor:
    """Pick the contexts of a step: every context once, in random order, before any comes again.

    Returns (B,) int64, ``size`` of ``count`` contexts; the last ones of a pass, fewer than B, are left out.
    """
    epoch, place = divmod(step, count // size)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
    return order[place * size : (place + 1) * size]


@dataclass
class Task:
    """What both tasks share. Raises InputError for fewer contexts than a batch, or than processes in one."""

    cfg: Config
    trie: Trie
    contexts: Source  # from which the policy learns
    _: KW_ONLY
    probe: Source | None = None  # a few others, on which estimates are held against exact values
    processes: Processes | None = None  # by default one, on the device of the trie

    def __post_init__(self) -> None:
        self.processes = self.processes or Processes(self.trie.codes.device)
        size, least, most = self.cfg.contexts, self.processes.count, len(self.contexts)
        if not least <= size <= most:
            bounds = f"{least}, the processes, to {most:,}, the contexts of users that are left to RL"
            raise InputError(f"--contexts: {size} is not valid; choose from {bounds}")

    def begin(self, step: int, probe: bool) -> tuple[Source, Tensor, Tensor, Callable[..., Tensor]]:
        """Where a step's contexts come from, or the probe's, which they are, and their noise.

        The rows (A,) of the source are for all processes together; (B,) of those are this process's.
        """
        source, cfg, processes = self.probe if probe else self.contexts, self.cfg, self.processes
        rows = torch.arange(len(source)) if probe else step_rows(len(source), cfg.contexts, cfg.seed, step)

        def noise(use: str, *shape: int) -> Tensor:
            random = stream(use, cfg.seed, step)  # for (A, *shape) numbers
            return uniform(random, len(rows), *shape, device=processes.device)

        return source, rows, torch.arange(len(rows))[processes.rank :: processes.count], noise


@dataclass
class NextItem(Task):
    """Say the next item, which ``reward`` values. Raises InputError as Task does, or for too many beams."""

    reward: Reward = hit

    def __post_init__(self) -> None:
        super().__post_init__()
        cfg, trie = self.cfg, self.trie
        most = len(trie) if cfg.mask == "trie" else trie.size**trie.levels
        if cfg.rollouts == "beam" and cfg.group > most:
            raise InputError(f"--group: a beam search has {most} different items to give, not {cfg.group}")

    @torch.no_grad()
    def act(self, policy: Policy, step: int, probe: bool = False) -> Experience:
        """Roll out the policy on a step's contexts, or the probe's: by samples, as beams estimate no mean."""
        cfg, trie, processes, constrained = self.cfg, self.trie, self.processes, self.cfg.mask == "trie"
        source, rows, part, noise = self.begin(step, probe)
        batch, part = source.batch(rows[part], cfg.history).to(processes.device), sent(part, processes.device)
        prompt = policy.encode(batch.condition, trie.encode(batch.history))
        if cfg.rollouts == "beam" and not probe:
            group = rollout.beam_group(policy, prompt, trie, cfg.group, constrained)
        else:
            draws = noise("rollouts", cfg.group, trie.levels)[part]  # (B, G, L)
            group = rollout.sample(policy, prompt, trie, draws, constrained)

        def masks(signal: Signal) -> Tensor | None:
            return trie.masks(signal.codes) if constrained else None

        @torch.no_grad()
        def logp(items: Tensor) -> Tensor:
            codes = trie.encode(items)[:, :, None]  # (B, n, 1, L)
            return score(policy, prompt, codes, trie.masks(codes) if constrained else None).sum((2, 3))

        reward, noise = partial(self.reward, batch), partial(noise, "objective")
        worth = reward(group.items[..., 0])  # (B, G)
        return Experience(
            cfg, trie, batch, group, worth, masks, part, processes.gather, noise, reward=reward, logp=logp
        )


@dataclass
class Rankings(Task):
    """Rank the candidates of closed sets. What training sees of their gains is what ``feedback`` returns."""

    feedback: Callable[[Lists], Lists]

    @torch.no_grad()
    def act(self, policy: Policy, step: int, probe: bool = False) -> Experience:
        """Let the policy rank a step's sets, G times each, or those of the probe, with their true gains."""
        cfg, trie, processes = self.cfg, self.trie, self.processes
        source, rows, part, noise = self.begin(step, probe)
        lists = source.of_step(rows, part, cfg.seed, PROBE_STEP if probe else step).to(processes.device)
        lists = lists if probe else self.feedback(lists)
        batch, part = lists.batch, sent(part, processes.device)
        prompt = policy.encode(batch.condition, trie.encode(batch.history))
        shape = cfg.group, lists.candidates.shape[1], trie.levels
        group = rollout.rank(policy, prompt, trie, lists.candidates, noise("rollouts", *shape)[part])
        gains = rewards.in_order(lists.candidates, lists.gains, group.items)  # (B, G, K)
        codes = trie.codes[lists.candidates]  # (B, C, L)
        ndcg = rewards.ndcg(gains, rewards.ideal(lists.gains, gains.shape[2])[:, None])  # (B, G)

        def masks(signal: Signal) -> Tensor:
            return rollout.closed_masks(codes[signal.rows], signal.codes, trie.size)

        noise = partial(noise, "objective")
        return Experience(cfg, trie, batch, group, ndcg, masks, part, processes.gather, noise, lists=lists)
