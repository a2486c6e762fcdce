"""Evaluation over the full catalogue: ranked lists against what came next, no sampled negatives.

A policy ranks by beam search under the trie, a floor by its scores. On a simulated world the metrics of a
list are exact, in expectation over the true law; on real data they are counted against the targets.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from tqdm import tqdm

from minirec import rollout
from minirec.data.dataset import Dataset, Examples
from minirec.errors import InputError
from minirec.measure import baselines, metrics
from minirec.noise import uniform
from minirec.policy import Policy
from minirec.records import Batch
from minirec.settings import Config
from minirec.trie import Trie

MOST_CONTEXTS, MOST_NUMBERS = 256, 2**24  # per batch; the second bounds the largest tensor to 64 MiB
VALID = 1000  # validation contexts that choose a setting of a floor

Answer = Callable[[Batch], dict[str, Tensor]]  # "top", and maybe "samples" and "free": (b, ·) items each
Cost = Callable[[int], int]  # as in ``batches``


@dataclass(frozen=True)
class Result:
    """One method on B contexts of one split, context by context, in the order of the split."""

    values: dict[str, Tensor]  # metric: (B,) float64
    items: Tensor  # (B, 50) best first, PAD-filled
    buckets: Tensor  # (B, 2, 3) by popularity, see by_bucket
    tied: Tensor  # (B,) bool
    catalogue: int  # N


def summary(result: Result) -> dict[str, float]:
    """Average a result over contexts, by the names of metrics.DEFINITIONS; what none has is left out."""
    row = {name: value.mean().item() for name, value in result.values.items()}
    searched = [k for k in metrics.KS if f"recall@{k}" in row]
    row |= {f"coverage@{k}": metrics.coverage(result.items, result.catalogue, k) for k in searched}
    buckets = zip(metrics.BUCKETS, *result.buckets.sum(0).tolist(), strict=True) if 10 in searched else ()
    row |= {f"{name} recall@10": found / mass for name, found, mass in buckets if mass > 0}
    if result.tied.any():
        tied = [m for m in ("recall@10", "ndcg@10") if m in row]
        row |= {f"tied {m}": result.values[m][result.tied].mean().item() for m in tied}
        row["tied share"] = result.tied.double().mean().item()
    return row | {"contexts": len(result.items)}


def batches(lengths: Tensor, cost: Cost) -> Iterator[Tensor]:
    """Batch contexts by their items of history (B,), longest first: rows (b,), b <= MOST_CONTEXTS.

    ``cost`` gives the numbers in the largest tensors of one context, by the length of the batch's longest
    history; no batch of two or more exceeds MOST_NUMBERS.
    """
    order = lengths.argsort(descending=True, stable=True)
    while len(order):
        most = MOST_NUMBERS // cost(int(lengths[order[0]]))
        rows, order = order.tensor_split([min(max(most, 1), MOST_CONTEXTS)])
        yield rows


def sample(examples: Examples, count: int, seed: int) -> Examples:
    """At most ``count`` contexts, at random, and the same for a seed; 0 takes all of them."""
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed))
    return examples.select(order[:count]) if 0 < count < len(examples) else examples


def _evaluate(answer: Answer, cost: Cost, dataset: Dataset, examples: Examples, cfg: Config) -> Result:
    """Loop over the contexts, in batches; at K beyond cfg.beam only a list of the whole catalogue counts."""
    if len(examples) == 0:
        raise InputError("this split has no contexts to evaluate; use a larger log or a smaller --core")
    catalogue = len(dataset.catalogue)
    most = cfg.beam if cfg.beam < catalogue else metrics.WIDTH
    bucket, parts = metrics.popularity_buckets(dataset.known, catalogue), []
    groups = list(batches(examples.lengths, lambda length: cost(length) + 2 * catalogue))
    for rows in tqdm(groups, "evaluate", unit=" batches", delay=2, leave=False, disable=None):
        batch = examples.batch(rows, cfg.history)
        lists = {name: items.cpu() for name, items in answer(batch).items()}
        if dataset.law is not None:
            law = dataset.law(batch)  # (b, N), the chance of each item to be a target
            judge = partial(metrics.expected_metrics, law=law)
        else:
            law = torch.zeros(len(batch), 1 + catalogue, dtype=torch.float64)
            law = law.scatter_(1, 1 + batch.targets, 1)[:, 1:]  # PAD, -1, writes to an extra column
            law /= law.sum(1, keepdim=True)  # uniform on the set: recall@K is its expected hit rate
            judge = partial(metrics.metrics, targets=batch.targets)
        part = judge(lists["top"], most=most)
        if "samples" in lists:
            # Pass@K is hr@K of what was drawn, in that order (OpenOneRec-RL, 2512.24762; not of beams: ours).
            drawn = judge(lists["samples"], most=cfg.samples)
            part |= {f"pass@{k}": drawn[f"hr@{k}"] for k in metrics.KS if f"hr@{k}" in drawn}
        if "free" in lists:
            part["hallucination"] = metrics.hallucination(lists["free"])
        part["buckets"] = metrics.by_bucket(lists["top"], law, bucket)
        parts.append(part | {"items": metrics.distinct(lists["top"], metrics.WIDTH)})
    place = torch.cat(groups).argsort()  # back to the order of the examples
    values = {name: torch.cat([part[name] for part in parts])[place] for name in parts[0]}
    items, buckets = values.pop("items"), values.pop("buckets")
    return Result(values, items, buckets, examples.tied, catalogue)


def evaluate_scorer(scorer: baselines.Scorer, dataset: Dataset, examples: Examples, cfg: Config) -> Result:
    """Evaluate a method by its scores for the whole catalogue. Raises InputError if there are no contexts."""

    def answer(batch: Batch) -> dict[str, Tensor]:
        return {"top": baselines.top_k(scorer(batch), None if cfg.keep_seen else batch.seen, metrics.WIDTH)}

    catalogue = len(dataset.catalogue)
    return _evaluate(answer, lambda length: 2 * catalogue, dataset, examples, replace(cfg, beam=catalogue))


def floors(dataset: Dataset, examples: Examples, cfg: Config, split: str = "test") -> dict[str, Result]:
    """Evaluate popularity, the first-order Markov chain and item-kNN, fitted on what came before the split.

    The recency of item-kNN is the best one by ndcg@10 on validation. On a simulated world "true law" is among
    them, the best ranking. Raises InputError without contexts.
    """
    items, some = len(dataset.catalogue), sample(dataset.valid, VALID, 0)

    def quality(recency: float) -> float:
        scorer = baselines.item_knn(dataset.known, items, recency)
        return evaluate_scorer(scorer, dataset, some, cfg).values["ndcg@10"].mean().item()

    known = baselines.before_test(dataset) if split == "test" else dataset.known
    scorers = {name: fit(known, items) for name, fit in baselines.FLOORS.items()}
    scorers["item-kNN"] = baselines.item_knn(known, items, max(baselines.RECENCY, key=quality))
    scorers |= {"true law": dataset.law} if dataset.law else {}
    return {name: evaluate_scorer(scorer, dataset, examples, cfg) for name, scorer in scorers.items()}


@torch.no_grad()
def evaluate_policy(
    policy: Policy, trie: Trie, dataset: Dataset, examples: Examples, cfg: Config, full: bool = True
) -> Result:
    """Evaluate a policy by beam search under the trie, on the device of the trie.

    The beam is cfg.beam wide, plus the batch's longest past where seen items are taken out. ``full`` adds
    Pass@K by cfg.samples rollouts, and hallucination. K is at most the beam, unless that holds the catalogue,
    or the samples. The policy comes out in evaluation mode. Raises InputError if there are no contexts.
    """
    generator, device = torch.Generator().manual_seed(cfg.seed), trie.codes.device
    samples = cfg.samples if full else 0

    def width(length: int) -> int:
        return min(cfg.beam + (0 if cfg.keep_seen else length), len(trie))

    def cost(length: int) -> int:
        prompt = 1 + min(length, cfg.history) * trie.levels
        beams = max(width(length) if trie.levels > 1 else 1, samples)  # one level ends with one step
        return beams * (trie.size + cfg.heads * trie.levels * prompt)

    def answer(batch: Batch) -> dict[str, Tensor]:
        batch = batch.to(device)
        prompt = policy.encode(batch.condition, trie.encode(batch.history))
        lists = {"top": rollout.best(policy, prompt, trie, width(batch.seen.shape[1]))[0]}
        if samples:
            noise = uniform(generator, len(batch), samples, trie.levels, device=device)
            lists["samples"] = rollout.sample(policy, prompt, trie, noise).items[..., 0]
        if not cfg.keep_seen:
            lists = {name: metrics.drop_seen(items, batch.seen) for name, items in lists.items()}
        if full:
            lists["free"] = rollout.beam(policy, prompt, trie, 50, constrained=False)[0]
        return lists

    policy.eval()
    return _evaluate(answer, cost, dataset, examples, cfg)
