"""The second task of reinforcement learning: rank a closed set of candidates for a need.

``Rankings`` has the methods of ``tasks.NextItem``, so one loop drives both. One policy serves all needs; of
the four, the one that is novel and trend at once is held out of training.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import tqdm

from minirec import rewards, rollout
from minirec.data.contexts import step_rows
from minirec.data.lists import (
    CUT,
    HELD_OUT,
    NEEDS,
    Lists,
    ListSource,
    by_score,
    evaluate_order,
    needs_of_step,
)
from minirec.errors import InputError
from minirec.measure import exact
from minirec.models.critic import Critic, fill
from minirec.noise import stream
from minirec.objectives.flexrec import in_order
from minirec.policy import Policy
from minirec.records import NEXT, Experience, Signal
from minirec.run.machine import Processes
from minirec.score import score
from minirec.settings import Config
from minirec.trie import Trie

PROBE, PROBE_CANDIDATES = 32, 5  # contexts and candidates on which estimates stand beside exact values
PROBE_STEP = 2**20  # its needs are drawn as those of a step that no run reaches
SCORED = 512  # lists that are ranked at once
METRIC = f"ndcg@{CUT}"


class Rankings:
    """Rank the candidates of fresh contexts."""

    def __init__(
        self,
        cfg: Config,
        trie: Trie,
        train: ListSource,
        valid: ListSource,
        critic: Critic | None,
        processes: Processes,
    ) -> None:
        """Collect what a step needs.

        Args:
            cfg: the settings of the arm.
            trie: the catalogue.
            train, valid: the lists.
            critic: fills in missing feedback and says how far to trust it; None: 0 for what is missing.
            processes: this one and the others.

        Raises:
            InputError: fewer lists than a batch, or fewer in a batch than processes.
        """
        self.cfg, self.trie, self.train, self.valid = cfg, trie, train, valid
        self.critic, self.processes = critic, processes
        if not processes.count <= cfg.contexts <= len(train):
            raise InputError(
                f"--contexts: {cfg.contexts} per batch, {len(train):,} fresh lists, "
                f"{processes.count} processes; expected a number between the last and the second"
            )

    def act(self, policy: Policy, step: int, probe: bool = False) -> Experience:
        """Let the policy rank a step's candidates, without gradients.

        Args:
            policy: acts.
            step: from 0.
            probe: act on the probe instead: PROBE validation contexts with PROBE_CANDIDATES each, the same
                at every step, and with their true gains.

        Returns:
            The Experience of this process's contexts.
        """
        cfg, processes, device = self.cfg, self.processes, self.processes.device
        source, count, size = self.train, cfg.contexts, cfg.candidates
        if probe:
            source, count, size = self.valid, min(PROBE, len(self.valid)), min(size, PROBE_CANDIDATES)
        rows = torch.arange(count) if probe else step_rows(len(source), count, cfg.seed, step)  # (A,)
        need = needs_of_step(cfg.seed, PROBE_STEP if probe else step, count)
        mine = torch.arange(count)[processes.rank :: processes.count]  # (B,)
        lists = source.draw(rows[mine], need[mine], size)
        batch, candidates = lists.batch.to(device), lists.candidates.to(device)
        gains, variance = (lists.gains.to(device), None) if probe else self.feedback(lists)

        def noise(*shape: int, use: str = "negatives") -> Tensor:
            random = stream(use, cfg.seed, step)
            return torch.rand(count, *shape, generator=random, dtype=torch.float64).to(device)

        with torch.no_grad():
            prompt = policy.encode(batch.condition, self.trie.encode(batch.history))
            draws = noise(cfg.group, size, self.trie.levels, use="rollouts")[mine.to(device)]  # (B, G, K, L)
            group = rollout.rank(policy, prompt, self.trie, candidates, draws)
        ideal = rewards.ideal(gains, size)[:, None]  # (B, 1)
        return Experience(
            cfg=cfg,
            batch=batch,
            rollout=group,
            rewards=rewards.ndcg(in_order(candidates, gains, group.items), ideal),
            trie=self.trie,
            reward=lambda items: torch.zeros_like(items, dtype=torch.float32),  # an item alone is no list
            logp=lambda items: torch.zeros_like(items, dtype=torch.float32),
            mine=mine.to(device),
            gather=processes.gather,
            noise=noise,
            candidates=candidates,
            gains=gains,
            variance=variance,
        )

    @torch.no_grad()
    def feedback(self, lists: Lists) -> tuple[Tensor, Tensor | None]:
        """What training sees of the gains: observed, or the critic's mean, and its variance; (B, C) each."""
        device = self.processes.device
        gains, observed = lists.gains.to(device), lists.observed.to(device)
        if self.critic is None:
            return gains * observed, None
        mean, variance = self.critic(lists.batch.to(device), lists.candidates.to(device))
        return fill(gains, observed, mean), variance

    def allowed(self, x: Experience, signal: Signal) -> Tensor:
        """The masks under which a signal's lists were ranked, (R, G, K, L, V) bool."""
        codes = self.trie.codes[x.candidates[signal.rows]]
        return rollout.closed_masks(codes, signal.codes, self.trie.size)

    @torch.no_grad()
    def exact(self, x: Experience, policy: Policy, reference: Policy) -> dict[str, Tensor]:
        """By enumeration of all orders, what the lists of a batch estimate.

        Args:
            x: the batch, with at most ``exact.CANDIDATES`` candidates each.
            policy: acts.
            reference: the policy of the list start.

        Returns:
            exact_reward, exact_entropy and exact_kl, (B,) float64 each; nothing where there are too many.
        """
        if x.candidates.shape[1] > exact.CANDIDATES:
            return {}
        codes = self.trie.encode(x.batch.history)
        (orders, logp), (_, other) = (
            exact.list_logprobs(model, model.encode(x.batch.condition, codes), self.trie, x.candidates)
            for model in (policy, reference)
        )
        gains = x.gains[:, orders]  # (B, C!, C)
        value = rewards.ndcg(gains, rewards.ideal(x.gains, x.gains.shape[1])[:, None])
        return {
            "exact_reward": exact.expected_reward(logp, value),
            "exact_entropy": exact.entropy(logp),
            "exact_kl": exact.kl(logp, other),
        }

    def validate(self, policy: Policy) -> dict[str, float]:
        """ndcg@5 of the greedy ranking on validation lists, the mean over the trained needs."""
        rows = torch.arange(min(len(self.valid), SCORED))
        found = by_need(policy, self.trie, self.valid, rows, self.processes.device)
        own = [found[need][METRIC].nanmean().item() for need in NEEDS if need != HELD_OUT]
        return {METRIC: sum(own) / len(own)}


@torch.no_grad()
def by_need(
    policy: Policy, trie: Trie, source: ListSource, rows: Tensor, device: torch.device | str = "cpu"
) -> dict[str, dict[str, Tensor]]:
    """Rank greedily for every need, and measure by the true gains.

    Args:
        policy, trie: on the device.
        source: the lists.
        rows: (B,) int64, which of them.
        device: of the policy.

    Returns:
        By need, what ``lists.evaluate_order`` gives: (B,) float64 by metric.

    Source: definition.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for place, need in enumerate(NEEDS):
        parts = []
        for some in rows.split(SCORED):
            lists = source.draw(some, torch.full_like(some, place))
            batch, candidates = lists.batch.to(device), lists.candidates.to(device)
            prompt = policy.encode(batch.condition, trie.encode(batch.history))
            items = rollout.rank(policy, prompt, trie, candidates).items.cpu()  # (b, 1, C)
            parts.append(evaluate_order(in_order(lists.candidates, lists.gains, items)[:, 0], lists.gains))
        found[need] = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return found


@torch.no_grad()
def next_item_scores(policy: Policy, trie: Trie, lists: Lists, device: torch.device | str = "cpu") -> Tensor:
    """Log-probability of each candidate as the next item, under the catalogue's trie.

    Args:
        policy, trie: on the device.
        lists: B sets; their need is not looked at.
        device: of the policy.

    Returns:
        (B, C) float32, in nats.

    Source: ours.
    """
    batch = lists.batch.to(device)
    condition = batch.condition.clone()
    condition[:, 0], condition[:, 1:3] = NEXT, 0
    prompt = policy.encode(condition, trie.encode(batch.history))
    codes = trie.encode(lists.candidates.to(device))[:, :, None]  # (B, C, 1, L)
    return score(policy, prompt, codes, trie.masks(codes)).sum((2, 3))


def imitate(
    cfg: Config,
    start: Policy,
    trie: Trie,
    train: ListSource,
    scores: Callable[[Lists], Tensor],
    steps: int,
    device: torch.device | str = "cpu",
) -> Policy:
    """Supervised training on lists: NLL on rankings of the candidates by falling scores.

    Args:
        cfg: contexts (lists per step), list_rate, clip and seed are read.
        start: stays as it is.
        trie: the catalogue.
        train: the lists; needs are drawn as in reinforcement learning.
        scores: of B lists' candidates, (B, C).
        steps: updates by Adam.
        device: of the policy.

    Returns:
        The policy, in evaluation mode.

    Source: definition.
    """
    policy = copy.deepcopy(start).eval().requires_grad_(True)
    optimiser = torch.optim.Adam(policy.parameters(), cfg.list_rate, betas=(0.9, 0.98))
    for step in tqdm(range(steps), "lists", unit=" steps", delay=2, leave=False, disable=None):
        rows = step_rows(len(train), cfg.contexts, cfg.seed, step)
        lists = train.draw(rows, needs_of_step(cfg.seed, step, len(rows)))
        order = by_score(scores(lists).to(device), lists.candidates.to(device))  # (B, C) items
        codes = trie.encode(order)[:, None]  # (B, 1, C, L)
        allowed = rollout.closed_masks(codes[:, 0], codes, trie.size)
        batch = lists.batch.to(device)
        prompt = policy.encode(batch.condition, trie.encode(batch.history))
        (-score(policy, prompt, codes, allowed).mean()).backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), cfg.clip)
        optimiser.step()
        optimiser.zero_grad()
    return policy


def warm_start(
    cfg: Config, supervised: Policy, trie: Trie, train: ListSource, device: torch.device | str = "cpu"
) -> Policy:
    """Teach a policy to emit lists, and nothing about gains: the order is its own.

    The supervised policy has never seen list mode or a need. It imitates rankings by its own next-item
    probabilities, whatever the need. All arms start from what comes out.

    Args:
        cfg: warm (steps), and what ``imitate`` reads.
        supervised: stays as it is.
        trie: the catalogue.
        train: the lists.
        device: of the policy.

    Returns:
        The policy of the list start, in evaluation mode.

    Source: ours.
    """
    frozen = copy.deepcopy(supervised).eval()
    return imitate(
        cfg, supervised, trie, train, lambda x: next_item_scores(frozen, trie, x, device), cfg.warm, device
    )
