"""What the policy is asked in reinforcement learning: the next item, or a ranking of a closed set.

A task makes a batch, lets the policy act on it, and says what the rollouts are worth. It also knows their
exact counterparts: the expected reward, the entropy and the KL of the same batch, by enumeration. All
randomness comes from (seed, step), is made for the contexts of all processes together, and is sliced; so
arms share their noise, and the number of processes changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from minirec import rewards, rollout
from minirec.data.contexts import contexts, step_rows
from minirec.errors import InputError
from minirec.measure import evaluation, exact
from minirec.noise import stream
from minirec.policy import Policy
from minirec.records import Batch, Dataset, Experience, Signal
from minirec.run.machine import Processes
from minirec.score import score
from minirec.settings import Config
from minirec.trie import Trie

VALID = 1000  # contexts of a line's validation ..
PROBE = 64  # .. and those of them on which estimates stand beside exact values

Reward = Callable[[Batch, Tensor], Tensor]  # a batch and items (B, C) -> rewards (B, C) float32


def hit(batch: Batch, items: Tensor) -> Tensor:
    """The binary reward of items, ``rewards.hit``.

    Args:
        batch: B contexts with targets.
        items: (B, C) int64.

    Returns:
        (B, C) float32.
    """
    return rewards.hit(items, batch.targets)


class NextItem:
    """Say the next item of fresh contexts."""

    def __init__(
        self, cfg: Config, dataset: Dataset, trie: Trie, reward: Reward, processes: Processes
    ) -> None:
        """Collect the contexts.

        Args:
            cfg: the settings of the objective.
            dataset: ``fresh`` gives the contexts, ``valid`` those of validation.
            trie: the catalogue.
            reward: of an item.
            processes: this one and the others.

        Raises:
            ValueError: settings with a mask of ``auto``, which ``arms.settings`` decides.
            InputError: fewer fresh contexts than a batch, fewer in a batch than processes, or more beams than
                there are items.
        """
        if cfg.mask == "auto":
            raise ValueError(
                "mask: 'auto' is no mask yet; take the settings of an arm, arms.settings(cfg, name)"
            )
        self.cfg, self.dataset, self.trie, self.reward, self.processes = cfg, dataset, trie, reward, processes
        self.contexts = contexts(dataset.fresh)
        if not processes.count <= cfg.contexts <= len(self.contexts):
            raise InputError(
                f"--contexts: {cfg.contexts} per batch, {len(self.contexts):,} fresh contexts, "
                f"{processes.count} processes; expected a number between the last and the second"
            )
        self.constrained = cfg.mask == "trie"
        most = len(trie) if self.constrained else trie.size**trie.levels
        if cfg.rollouts == "beam" and cfg.group > most:
            raise InputError(f"--group: a beam search has {most} different items to give, not {cfg.group}")
        order = torch.randperm(len(dataset.valid), generator=torch.Generator().manual_seed(cfg.seed))
        self.valid = dataset.valid.select(order[:VALID])

    def act(self, policy: Policy, step: int, probe: bool = False) -> Experience:
        """Roll out the policy on a step's contexts, without gradients.

        Args:
            policy: acts.
            step: from 0.
            probe: act on the probe instead, the same PROBE validation contexts at every step.

        Returns:
            The Experience of this process's contexts.
        """
        cfg, processes, device = self.cfg, self.processes, self.processes.device
        examples, rows = self.contexts, step_rows(len(self.contexts), cfg.contexts, cfg.seed, step)  # (A,)
        if probe:
            examples, rows = self.valid, torch.arange(min(PROBE, len(self.valid)))
        mine = torch.arange(len(rows))[processes.rank :: processes.count]  # (B,)
        batch = examples.batch(rows[mine], cfg.history).to(device)

        def noise(*shape: int, use: str = "negatives") -> Tensor:
            random = stream(use, cfg.seed, step)
            return torch.rand(len(rows), *shape, generator=random, dtype=torch.float64).to(device)

        with torch.no_grad():
            prompt = policy.encode(batch.condition, self.trie.encode(batch.history))
            if cfg.rollouts == "beam" and not probe:  # beams estimate no expectation
                group = rollout.beam_group(policy, prompt, self.trie, cfg.group, self.constrained)
            else:
                draws = noise(cfg.group, self.trie.levels, use="rollouts")[mine.to(device)]  # (B, G, L)
                group = rollout.sample(policy, prompt, self.trie, draws, self.constrained)

        @torch.no_grad()
        def logp(items: Tensor) -> Tensor:
            codes = self.trie.encode(items)[:, :, None]  # (B, n, 1, L)
            allowed = self.trie.masks(codes) if self.constrained else None
            return score(policy, prompt, codes, allowed).sum((2, 3))

        return Experience(
            cfg=cfg,
            batch=batch,
            rollout=group,
            rewards=self.reward(batch, group.items[..., 0]),
            trie=self.trie,
            reward=lambda items: self.reward(batch, items),
            logp=logp,
            mine=mine.to(device),
            gather=processes.gather,
            noise=noise,
        )

    def allowed(self, x: Experience, signal: Signal) -> Tensor | None:
        """The masks under which a signal's sequences were drawn, (R, S, 1, L, V) bool; None: no mask."""
        return self.trie.masks(signal.codes) if self.constrained else None

    @torch.no_grad()
    def exact(self, x: Experience, policy: Policy, reference: Policy) -> dict[str, Tensor]:
        """By enumeration, what the rollouts of a batch estimate.

        Args:
            x: the batch.
            policy: acts.
            reference: the supervised policy.

        Returns:
            exact_reward, exact_entropy and exact_kl, (B,) float64 each; nothing where the catalogue is too
            large to enumerate.
        """
        trie = self.trie
        if len(trie) > exact.ITEMS or (not self.constrained and trie.size**trie.levels > exact.TUPLES):
            return {}
        every = trie if self.constrained else exact.every_tuple(trie.levels, trie.size).to(x.mine.device)
        items = trie.lookup(every.codes).expand(len(x.batch), -1)  # (B, N or V^L), holes among them
        codes = trie.encode(x.batch.history)
        logp, other = (
            exact.item_logprobs(model, model.encode(x.batch.condition, codes), every)
            for model in (policy, reference)
        )
        return {
            "exact_reward": exact.expected_reward(logp, x.reward(items)),
            "exact_entropy": exact.entropy(logp),
            "exact_kl": exact.kl(logp, other),
        }

    def validate(self, policy: Policy) -> dict[str, float]:
        """ndcg@10 and hallucination on validation contexts, by the names of ``metrics.LOGGED``."""
        cfg = replace(self.cfg, beam=20, samples=0)
        device = self.processes.device
        result = evaluation.evaluate_policy(policy, self.trie, self.dataset, self.valid, cfg, device)
        return {name: result.values[name].mean().item() for name in ("ndcg@10", "hallucination")}
