"""The arms that rank closed sets: their sets, critic and start, the supervised control, and the table."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from minirec import rollout
from minirec.data.lists import ListSource
from minirec.data.vectors import item_vectors
from minirec.loop import minimise
from minirec.measure import exact, metrics, rankings
from minirec.models.critic import Critic, fill_lists, train_critic
from minirec.objectives import OBJECTIVES
from minirec.policy import Policy, score
from minirec.records import NEXT, Lists
from minirec.run.folder import Run
from minirec.settings import Config
from minirec.tasks import Rankings, step_rows
from minirec.trie import Trie

WARM = 40  # steps of the list start
CRITIC_STEPS = 300  # of the critic
RATE = 5e-4  # of the list start
VALID = 512  # lists of a line's validation

Scores = Callable[[Lists], Tensor]  # of the candidates, (B, C)


@torch.no_grad()
def next_item_scores(policy: Policy, trie: Trie, lists: Lists) -> Tensor:
    """Log-probability (B, C) of each candidate as the next item, under the trie, without a need (ours)."""
    condition = lists.batch.condition.clone()
    condition[:, 0], condition[:, 1:3] = NEXT, 0
    prompt = policy.encode(condition, trie.encode(lists.batch.history))
    codes = trie.encode(lists.candidates)[:, :, None]  # (B, C, 1, L)
    return score(policy, prompt, codes, trie.masks(codes)).sum((2, 3))


def imitate(cfg: Config, start: Policy, trie: Trie, source: ListSource, scores: Scores) -> Policy:
    """Supervised training on lists: NLL on rankings of the candidates by falling scores.

    It has the draws, steps and rate of reinforcement learning. Returns a new policy in evaluation mode.
    """
    policy = copy.deepcopy(start).eval().requires_grad_(True)
    optimiser = torch.optim.Adam(policy.parameters(), cfg.rl_rate, betas=(0.9, 0.98))

    def loss(step: int) -> Tensor:
        rows = step_rows(len(source), cfg.contexts, cfg.seed, step)
        lists = source.of_step(rows, torch.arange(len(rows)), cfg.seed, step).to(trie.codes.device)
        codes = trie.encode(rankings.by_score(scores(lists), lists.candidates))[:, None]  # (B, 1, C, L)
        allowed = rollout.closed_masks(codes[:, 0], codes, trie.size)
        prompt = policy.encode(lists.batch.condition, trie.encode(lists.batch.history))
        return -score(policy, prompt, codes, allowed).mean()

    minimise(optimiser, loss, cfg.rl_steps, "lists", clip=cfg.clip)
    return policy


def warm_start(cfg: Config, supervised: Policy, trie: Trie, source: ListSource) -> Policy:
    """Teach a policy to emit lists, in the order of its next-item probabilities, whatever the need (ours)."""
    cfg = replace(cfg, rl_steps=WARM, rl_rate=RATE)
    return imitate(cfg, supervised, trie, source, partial(next_item_scores, supervised, trie))


class ListArms:
    """What the arms that rank closed sets share: their sets by part, the critic, and the list start."""

    def __init__(self, run: Run, supervised: Policy, sources: dict[str, ListSource]) -> None:
        self.run, self.sources, cfg, train = run, sources, run.cfg, sources["train"]
        Rankings(cfg, run.trie, train, feedback=None, processes=run.processes)  # refuses too large a batch
        critic = Critic(item_vectors(run.dataset, cfg.seed), run.dataset.periods, cfg.seed)
        make = partial(train_critic, critic, train, cfg.seed, CRITIC_STEPS)
        critic = run.kept("critic.pt", "seed candidates feedback", make, critic)
        self.feedback = partial(fill_lists, critic.requires_grad_(False).eval())
        make = partial(warm_start, cfg, supervised, run.trie, train)
        self.start = run.kept("lists.pt", "seed candidates contexts clip", make, copy.deepcopy(supervised))

    def task(self, cfg: Config) -> Rankings:
        """The task of one arm."""
        seen = self.sources["valid"].first(*exact.LISTS)
        run, train = self.run, self.sources["train"]
        return Rankings(cfg, run.trie, train, self.feedback, probe=seen, processes=run.processes)

    def validate(self, policy: Policy) -> dict[str, float]:
        """ndcg@5 of the greedy ranking on validation lists, the mean over the trained needs."""
        lists = self.sources["valid"].first(VALID, self.run.cfg.candidates)
        results = rankings.rank_for_needs(policy, self.run.trie, lists)
        mean = rankings.trained_needs(results).nanmean(1).mean().item()
        return {} if math.isnan(mean) else {rankings.METRIC: mean}  # NaN: no list has anything to gain

    def control(self, arm: Config) -> Policy:
        """List-wise supervised: an arm's steps and rate, on rankings by the gains that training sees."""
        how = self.run.trie, self.sources["train"], lambda lists: self.feedback(lists).gains
        make = partial(imitate, arm, self.start, *how)
        reads = "seed candidates contexts clip feedback rl_steps rl_rate"
        run = replace(self.run, cfg=replace(arm, out=self.run.cfg.out))
        return run.kept("supervised_lists.pt", reads, make, copy.deepcopy(self.start))

    def compare(self, trained: dict[str, Policy], arm: Config, split: str) -> tuple[list[dict], list[str]]:
        """ndcg@5 on the lists of a split by need, floors first, and lines about them."""
        run, cfg, test = self.run, self.run.cfg, self.sources[split]
        policies = {"list start": self.start, "list-wise supervised": self.control(arm)} | trained
        results = rankings.list_floors(self.sources["known"], test, len(run.trie), cfg.seed)
        results |= {name: rankings.rank_for_needs(each, run.trie, test) for name, each in policies.items()}
        rows = []
        for name, needs in results.items():
            scores = {need: values.nanmean().item() for need, values in needs.items()}
            rows.append({"method": name} | {n: x for n, x in scores.items() if not math.isnan(x)})
        share = f"{cfg.feedback:.0%} of the gains are seen in training, the critic's mean stands for the rest"
        notes = [f"lists: {len(test):,} {split} sets of {cfg.candidates}; {share}"]
        means = {title: rankings.trained_needs(results[title]).mean(0) for title in trained}  # (S,) each
        baseline = OBJECTIVES["list"].title
        base = means.pop(baseline)
        for title, mean in means.items():
            both = ~(mean - base).isnan()
            if not both.any():  # no list has something to gain for every need
                continue
            by = metrics.paired_bootstrap(mean[both], base[both], cfg.seed)
            what = "mean of the trained needs: {:+.4f} (95 % interval {:+.4f} to {:+.4f})".format(*by)
            notes.append(f"{title} minus {baseline}, ndcg@5, {what}")
        return rows, notes
