"""What is measured: pure functions of ranked lists of items, each metric defined in one place.

Most have one value per context, (B,) float64, so methods can be compared context by context. On real data a
context has a set of targets; on a simulated world a metric is the expectation over one target of the law.
"""

import torch
from torch import Tensor, nn

from minirec.data import dataset, vectors
from minirec.records import HOLE, PAD

KS = (1, 5, 10, 20, 50)
WIDTH = max(KS)
BUCKETS = ("head", "mid", "tail")

DEFINITIONS = {
    "hr@K": "hit rate: 1 if any of the first K items is a target, mean over contexts; 0 to 1",
    "recall@K": "targets among the first K items / all targets of the context, mean over contexts; 0 to 1",
    "ndcg@K": "sum of 1/log2(rank + 1) over the targets among the first K items, divided by the best "
    "possible sum, that of min(K, targets) hits at the top; mean over contexts; 0 to 1",
    "mrr@K": "1/rank of the first target among the first K items, else 0; mean over contexts; 0 to 1",
    "pass@K": "1 if any of the first K distinct items among the policy's samples, drawn under the trie, is a "
    "target; 0 to 1",
    "hallucination": "share of code tuples that are no item among the top 10 of a beam of width 50 without "
    "the trie, mean over contexts; 0 to 1",
    "coverage@K": "share of the catalogue that is among the first K items of at least one context; 0 to 1",
    "head recall@10": "recall@10 over the targets whose item is in the most popular third: items by falling "
    "number of training events, cut into three parts with a third of the events each; 0 to 1",
    "mid recall@10": "the same for the middle third",
    "tail recall@10": "the same for the least popular third",
    "tied recall@10": "recall@10 over the contexts whose target has the time stamp of the event before it",
    "tied ndcg@10": "ndcg@10 over the same contexts",
    "tied share": "their share of all contexts",
    "contexts": "number of contexts evaluated",
}  # every column of a report


def _compact(items: Tensor, keep: Tensor, width: int) -> Tensor:
    """Move the kept entries of each row to the front, in order; cut or PAD the row to ``width``."""
    order = (~keep).int().argsort(dim=1, stable=True)
    moved = items.masked_fill(~keep, PAD).gather(1, order)
    return nn.functional.pad(moved, (0, width - items.shape[1]), value=PAD)


def distinct(items: Tensor, width: int) -> Tensor:
    """Drop repeated items, but not PAD and HOLE, in rows (B, W); cut or fill with PAD to (B, width)."""
    again = (items[:, :, None] == items[:, None, :]).tril(-1).any(2) & (items != PAD)
    return _compact(items, ~again, width)


def drop_seen(items: Tensor, seen: Tensor) -> Tensor:
    """Take past items (B, S) out of ranked lists (B, W), keep the order, fill with PAD."""
    past = (items[:, :, None] == seen[:, None, :]).any(2) & (items != PAD)
    return _compact(items, ~past, items.shape[1])


def _at_every_k(most: int, **curves: Tensor) -> dict[str, Tensor]:
    """The values at KS up to ``most`` of curves over K, (B, 50) each, by names such as ``hr@10``."""
    return {f"{name}@{k}": curve[:, k - 1] for name, curve in curves.items() for k in KS if k <= most}


def metrics(items: Tensor, targets: Tensor, most: int = WIDTH) -> dict[str, Tensor]:
    """Compare ranked lists with target sets. An item repeated in a list counts once, at its first rank.

    items (B, W), best first, where PAD and HOLE match nothing; targets (B, n), PAD-filled. Returns hr,
    recall, ndcg and mrr at KS up to ``most``. Raises ValueError without a target. Source: definition.

    >>> values = metrics(torch.tensor([[3, 1, 2]]), torch.tensor([[1, 5]]))  # one of two, at rank 2
    >>> {name: round(values[name].item(), 4) for name in ("hr@1", "hr@5", "recall@5", "ndcg@5", "mrr@5")}
    {'hr@1': 0.0, 'hr@5': 1.0, 'recall@5': 0.5, 'ndcg@5': 0.3869, 'mrr@5': 0.5}
    """
    items, targets = distinct(items, WIDTH), distinct(targets, targets.shape[1])
    size = (targets != PAD).sum(1)
    if (size == 0).any():
        raise ValueError(f"targets: context {int((size == 0).int().argmax())} of the batch has none")
    hit = ((items[:, :, None] == targets[:, None, :]).any(2) & (items != PAD)).double()  # (B, 50)
    rank = torch.arange(1, WIDTH + 1, dtype=torch.float64, device=items.device)
    discount = 1 / torch.log2(rank + 1)
    # Hits of the ideal list among the first K, (B, 50); of graded gains: rewards.ideal
    places = torch.minimum(size[:, None], rank.long())
    recall, ndcg = hit.cumsum(1) / size[:, None], (hit * discount).cumsum(1) / discount.cumsum(0)[places - 1]
    first = (hit / rank).cummax(1).values
    return _at_every_k(most, hr=hit.cummax(1).values, recall=recall, ndcg=ndcg, mrr=first)


def expected_metrics(items: Tensor, law: Tensor, most: int = WIDTH) -> dict[str, Tensor]:
    """The same metrics in expectation over one target, drawn from a known law (B, N) float64.

    With one target, hr and recall are the sum of the law over the list; ndcg weighs it with
    1/log2(rank + 1), mrr with 1/rank. Source: definition.

    >>> law = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64)
    >>> values = expected_metrics(torch.tensor([[1, 0]]), law)
    >>> {name: round(values[name].item(), 4) for name in ("hr@1", "hr@5", "ndcg@5", "mrr@5")}
    {'hr@1': 0.3, 'hr@5': 0.8, 'ndcg@5': 0.6155, 'mrr@5': 0.55}
    """
    items = distinct(items, WIDTH)
    chance = law.gather(1, items.clamp(min=0)) * (items != PAD)  # (B, 50)
    rank = torch.arange(1, WIDTH + 1, dtype=torch.float64, device=items.device)
    hits = chance.cumsum(1)
    ndcg = (chance / torch.log2(rank + 1)).cumsum(1)
    return _at_every_k(most, hr=hits, recall=hits, ndcg=ndcg, mrr=(chance / rank).cumsum(1))


def hallucination(items: Tensor) -> Tensor:
    """Share of holes in the top 10 of an unconstrained beam (B, 50), best first: (B,). Source: ours."""
    return (items[:, :10] == HOLE).double().mean(1)  # the formula of AdaGRPO (2606.08480) is not known


def coverage(items: Tensor, catalogue: int, k: int) -> float:
    """Share of N items that is among the first k of at least one list (B, W). Source: definition."""
    top = items[:, :k].flatten()
    return len(top[top != PAD].unique()) / catalogue


def popularity_buckets(train: dataset.Examples, catalogue: int) -> Tensor:
    """Cut the N items, most popular first, into head, mid and tail with a third of the training events each.

    Returns (N,) int64, 0 head, 1 mid, 2 tail. Equal counts are ordered by the item's index. Source: ours.
    """
    _, item = vectors.training_events(train)
    count, order = torch.bincount(item, minlength=catalogue).sort(descending=True, stable=True)
    before = count.cumsum(0) - count  # events of the items ahead
    third = (3 * before // count.sum().clamp(min=1)).clamp(max=2)
    return torch.empty_like(third).scatter(0, order, third)


def by_bucket(items: Tensor, law: Tensor, bucket: Tensor) -> Tensor:
    """Split recall@10 of lists (B, W) by the popularity of the target, bucket (N,) int64 of 0, 1, 2.

    law (B, N) is the chance of each item to be a target. Returns found and mass, (B, 2, 3): the chance of
    each bucket in the top 10, and in all. recall@10 of a bucket is Σ found / Σ mass. Source: definition.
    """
    member = nn.functional.one_hot(bucket, len(BUCKETS)).double()  # (N, 3)
    top = distinct(items, 10)
    chance = law.gather(1, top.clamp(min=0)) * (top != PAD)  # (B, 10)
    return torch.stack([(chance[..., None] * member[top.clamp(min=0)]).sum(1), law @ member], 1)


def paired_bootstrap(a: Tensor, b: Tensor, seed: int, draws: int = 2000) -> tuple[float, float, float]:
    """Mean difference over contexts (B,), and its 95 % interval. Source: Efron's percentile bootstrap."""
    random = torch.Generator().manual_seed(seed)
    difference = (a - b).double()
    resamples = (torch.randint(len(a), (len(a),), generator=random) for _ in range(draws))
    means = torch.stack([difference[rows].mean() for rows in resamples])
    return difference.mean().item(), *means.quantile(means.new_tensor([0.025, 0.975])).tolist()
