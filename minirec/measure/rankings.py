"""How good rankings are: of closed sets, by need, with floors; and those of a ranker."""

import torch
from torch import Tensor

from minirec import rewards, rollout
from minirec.data.dataset import Dataset, Examples
from minirec.data.lists import HELD_OUT, NEEDS, ListSource
from minirec.data.world import World, true_score
from minirec.measure import baselines, evaluation
from minirec.models.ranker import Ranker
from minirec.noise import stream
from minirec.policy import Policy
from minirec.records import Batch
from minirec.settings import Config
from minirec.trie import Trie

CUT = 5  # of NDCG
METRIC = f"ndcg@{CUT}"
PRIOR = 5.0  # observations that the mean of all items weighs in the mean of one
SCORED = 512  # lists that are ranked at once
DESCRIBED, ORDERED = 2000, 200  # at most, contexts on which a ranker's hr@10 and order of pairs are measured

ByNeed = dict[str, Tensor]  # ndcg@5 of every set, (S,) float64


def evaluate_order(placed: Tensor, gains: Tensor) -> Tensor:
    """ndcg@5 of lists, by the true gains (..., K) in their order and those (..., C) of all candidates.

    Returns (...) float64, NaN where no candidate has a gain. Source: definition.
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


def hr10(ranker: Ranker, dataset: Dataset, examples: Examples, history: int) -> float:
    """Rank the full catalogue by the ranker alone, and measure HR@10 on contexts with targets, 0 to 1.

    On the world it is exact under the law; on real data items of the past are left out. Source: definition.
    """
    items = torch.arange(len(dataset.catalogue))
    cfg = Config(history=history, keep_seen=dataset.law is not None)
    result = evaluation.evaluate_scorer(lambda x: ranker(x, items.expand(len(x), -1)), dataset, examples, cfg)
    return result.values["hr@10"].mean().item()


def ordered(ranker: Ranker, world: World, batch: Batch) -> Tensor:
    """Measure how well a ranker orders the items of each context's own half of the world.

    Returns (B,) float64: the share of pairs of items, of A for a user of A and of B for one of B, that the
    ranker orders as the true score does; ½ is chance. Source: definition (AUC over pairs, as Kendall's tau).
    """
    share = []
    for row, tail in enumerate(world.tail_user[batch.user].tolist()):
        context = batch.select(torch.tensor([row]))
        items = (world.tail == tail).nonzero().T  # (1, C)
        true, score = true_score(world, context.user, items)[0], ranker(context, items)[0]  # (C,)
        agree = (score[:, None] - score).sign() * (true[:, None] - true).sign()  # (C, C)
        share.append(0.5 + 0.5 * agree.sum() / (len(true) * (len(true) - 1)))
    return torch.stack(share)


def describe_ranker(ranker: Ranker, dataset: Dataset, history: int, world: World | None = None) -> list[str]:
    """Say how good a ranker is on validation contexts, beside popularity; a line per group. Source: ours."""
    valid = dataset.valid
    groups = {"all": torch.ones(len(valid), dtype=torch.bool)}
    groups |= {"users left to RL": torch.isin(valid.user, dataset.fresh.user)} if dataset.fresh else {}
    if world is not None:
        groups |= {"users of A": ~world.tail_user[valid.user], "users of B": world.tail_user[valid.user]}
    popular = baselines.popularity(dataset.train, len(dataset.catalogue))
    # At random, as the order of users may mean something, and from a stream that nothing else draws from.
    order = torch.randperm(len(valid), generator=stream("judged contexts", 0))
    chosen = {name: order[inside[order]][:DESCRIBED] for name, inside in groups.items() if inside.any()}
    lines = []
    for name, rows in chosen.items():
        examples = valid.select(rows)
        judged = (ranker, lambda batch, items: popular(batch))
        value, floor = (hr10(each, dataset, examples, history) for each in judged)
        line = f"ranker, {name}: hr@10 {value:.4f}, popularity {floor:.4f}, "
        line += f"{len(examples):,} validation contexts"
        if world is not None:
            batch = examples.batch(torch.arange(min(len(examples), ORDERED)), history)
            line += f", pairs of the own half in true order {ordered(ranker, world, batch).mean():.3f}"
        lines.append(line)
    return lines
