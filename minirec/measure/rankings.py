"""How good rankings of closed sets are, by need, and the floors beside them."""

import torch
from torch import Tensor

from minirec import rewards, rollout
from minirec.data.lists import HELD_OUT, NEEDS, ListSource
from minirec.noise import stream
from minirec.policy import Policy
from minirec.trie import Trie

CUT = 5  # of NDCG
METRIC = f"ndcg@{CUT}"
PRIOR = 5.0  # observations that the mean of all items weighs in the mean of one
SCORED = 512  # lists that are ranked at once

ByNeed = dict[str, Tensor]  # ndcg@5 of every set, (S,) float64


def evaluate_order(placed: Tensor, gains: Tensor) -> Tensor:
    """ndcg@5 of lists, by the true gains (..., K) in their order and those (..., C) of all candidates.

    Returns (...) float64, NaN where no candidate has a gain. Source: definition.

    >>> gains = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    >>> evaluate_order(gains, gains)
    tensor([0.6309,    nan], dtype=torch.float64)
    """
    best = rewards.ideal(gains.double(), placed.shape[-1], CUT)
    return rewards.ndcg(placed.double(), best, CUT).masked_fill(best == 0, torch.nan)


def by_score(scores: Tensor, values: Tensor) -> Tensor:
    """Put values (..., C) in the order of falling scores (..., C); equal scores keep that of candidates."""
    return values.gather(-1, scores.argsort(dim=-1, descending=True, stable=True))


def _by_need(placed: Tensor, source: ListSource) -> ByNeed:
    """Measure lists by the true gains (needs, S, C) in their order, one of every set for every need."""
    return dict(zip(NEEDS, evaluate_order(placed, source.gains), strict=True))


def item_mean(known: ListSource, items: int) -> Tensor:
    """Mean seen gains of N items by need, drawn to the mean of all: (needs, N). Source: ours."""
    seen = known.observed.double().flatten()  # (S*C,)
    gains = known.gains.double().flatten(1) * seen  # (needs, S*C)
    item = known.candidates.flatten()
    count = torch.zeros(items, dtype=torch.float64).index_add_(0, item, seen)
    total = torch.zeros(len(NEEDS), items, dtype=torch.float64).index_add_(1, item, gains)
    mean = gains.sum(1, keepdim=True) / seen.sum().clamp(min=1)  # (needs, 1)
    return (total + PRIOR * mean) / (count + PRIOR)


def list_floors(known: ListSource, source: ListSource, items: int, seed: int) -> dict[str, ByNeed]:
    """Rank closed sets at random, by recent popularity, and by mean gains in the lists ``known``."""
    noise = torch.rand(source.candidates.shape, generator=stream("random order", seed), dtype=torch.float64)
    means = item_mean(known, items)[:, source.candidates]  # (needs, S, C)
    scores = {"random": noise, "popularity": source.popular, "item mean": means}
    placed = {name: by_score(each.expand_as(source.gains), source.gains) for name, each in scores.items()}
    return {name: _by_need(each, source) for name, each in placed.items()}


@torch.no_grad()
def rank_for_needs(policy: Policy, trie: Trie, source: ListSource) -> ByNeed:
    """Rank greedily for every need, on the device of the trie; measure as ``evaluate_order`` does."""
    placed = []
    for need in range(len(NEEDS)):
        for rows in torch.arange(len(source)).split(SCORED):
            lists = source.draw(rows, torch.full_like(rows, need)).to(trie.codes.device)
            prompt = policy.encode(lists.batch.condition, trie.encode(lists.batch.history))
            items = rollout.rank(policy, prompt, trie, lists.candidates).items  # (b, 1, C)
            placed.append(rewards.in_order(lists.candidates, lists.gains, items)[:, 0].cpu())
    return _by_need(torch.cat(placed).view_as(source.gains), source)


def trained_needs(results: ByNeed) -> Tensor:
    """ndcg@5 for the needs that are trained: (needs, S)."""
    return torch.stack([results[need] for need in NEEDS if need != HELD_OUT])
