"""What the kernels are compared with in ``bench.kernels``, as people write it elsewhere."""

from __future__ import annotations

import importlib.util
import math
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor

from minirec.ops import reference


def literal_swaps(gains: Tensor, idcg: Tensor) -> Tensor:
    """Swap rewards by their definition in plain Python, list by list: exchange two items, compute DCG again.

    Args:
        gains: (n, K).
        idcg: (n,).

    Returns:
        (n, K) float32.
    """
    d = reference.discounts(gains.shape[1]).tolist()
    rewards = []
    for items, ideal in zip(gains.tolist(), idcg.tolist(), strict=True):
        before, row = sum(map(float.__mul__, items, d)), []
        for k in range(len(items)):
            falls = []
            for j in range(k + 1, len(items)):
                items[k], items[j] = items[j], items[k]
                falls.append(before - sum(map(float.__mul__, items, d)))
                items[k], items[j] = items[j], items[k]
            row.append(math.fsum(falls) / len(falls) / ideal if falls else 0.0)
        rewards.append(row)
    return torch.tensor(rewards)


def pairs(gains: Tensor, idcg: Tensor, chunk: int = 64) -> Tensor:
    """Swap rewards over tables of pairs, so many lists at a time that the tables stay in the cache.

    Args:
        gains: (n, K).
        idcg: (n,).
        chunk: lists at a time.

    Returns:
        (n, K).
    """
    valid = torch.ones_like(gains[:chunk], dtype=torch.bool)
    parts = zip(gains.split(chunk), idcg.split(chunk), strict=True)
    return torch.cat([reference.swap_pairs(*p, valid[: len(p[0])], gains.shape[1], True) for p in parts])


def dictionary(rewards: Tensor, prompts: list[str], eps: float = 1e-6) -> Tensor:
    """Group advantages with a dictionary from prompt to rewards, one reward after the other.

    Args:
        rewards: (n,).
        prompts: n names; equal ones are a group.
        eps: added to the std.

    Returns:
        (n,).
    """
    groups, mean, std = defaultdict(list), {}, {}
    for prompt, reward in zip(prompts, rewards, strict=True):
        groups[prompt].append(reward)
    for prompt, members in groups.items():
        group = torch.stack(members)
        mean[prompt], std[prompt] = group.mean(), group.std()
    found = torch.empty_like(rewards)
    for i, prompt in enumerate(prompts):
        found[i] = (rewards[i] - mean[prompt]) / (std[prompt] + eps)
    return found


def broadcast(rewards: Tensor, size: int, eps: float = 1e-6) -> Tensor:
    """Group advantages of a flat batch in which every ``size`` rewards are a group.

    Args:
        rewards: (n,).
        size: G.
        eps: added to the std.

    Returns:
        (n,).
    """
    groups = rewards.view(-1, size)
    mean = groups.mean(dim=1).repeat_interleave(size)
    std = groups.std(dim=1).repeat_interleave(size)
    return (rewards - mean) / (std + eps)


def along(rewards: Tensor, dim: int, eps: float = 1e-6) -> Tensor:
    """The same in two lines, along any dimension.

    Args:
        rewards: any shape.
        dim: of the group.
        eps: added to the std.

    Returns:
        The shape of the rewards.
    """
    std, mean = torch.std_mean(rewards, dim, keepdim=True)
    return (rewards - mean) / (std + eps)


def public_ndcg() -> dict[str, Callable[[Tensor], Tensor]]:
    """NDCG of lists as they lie, by public packages: those installed, by name with version."""
    found: dict[str, Callable[[Tensor], Tensor]] = {}
    if importlib.util.find_spec("sklearn"):
        import sklearn
        from sklearn.metrics import ndcg_score

        def mean_of_lists(gains: Tensor) -> Tensor:
            scores = -torch.arange(gains.shape[1], dtype=torch.float32).expand_as(gains)
            return torch.tensor(ndcg_score(gains.numpy(), scores.numpy(), ignore_ties=True))

        found[f"scikit-learn {sklearn.__version__} ndcg_score"] = mean_of_lists
    if importlib.util.find_spec("torchmetrics"):
        import torchmetrics
        from torchmetrics.functional.retrieval import retrieval_normalized_dcg

        def list_by_list(gains: Tensor) -> Tensor:
            scores = -torch.arange(gains.shape[1], dtype=torch.float32)
            return torch.stack([retrieval_normalized_dcg(scores, row) for row in gains]).mean()

        found[f"torchmetrics {torchmetrics.__version__} retrieval_normalized_dcg"] = list_by_list
    return found
