"""What the kernels are compared with in ``bench.kernels``, as people write it elsewhere."""

import importlib.util
import math
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor

from minirec.ops import reference


def literal_swaps(gains: Tensor, idcg: Tensor) -> Tensor:
    """Swap rewards by their definition in plain Python, list by list: exchange two items, compute DCG again.

    gains (n, K), idcg (n,); returns (n, K) float32.
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
    """Swap rewards over tables of pairs, of so many lists at a time that the tables stay in the cache.

    gains (n, K), idcg (n,); returns (n, K).
    """
    valid = torch.ones_like(gains[:chunk], dtype=torch.bool)
    parts = zip(gains.split(chunk), idcg.split(chunk), strict=True)
    return torch.cat([reference.swap_pairs(*p, valid[: len(p[0])], gains.shape[1], True) for p in parts])


def dictionary(rewards: Tensor, prompts: list[str], eps: float = 1e-6) -> Tensor:
    """Group advantages (n,) of rewards (n,) with a dictionary from prompt to rewards, one after the other.

    The rewards of equal prompts are a group.
    """
    groups, mean, std = defaultdict(list), {}, {}
    for prompt, reward in zip(prompts, rewards, strict=True):
        groups[prompt].append(reward)
    for prompt, members in groups.items():
        group = torch.stack(members)
        mean[prompt], std[prompt] = group.mean(), group.std()
    advantages = torch.empty_like(rewards)
    for i, prompt in enumerate(prompts):
        advantages[i] = (rewards[i] - mean[prompt]) / (std[prompt] + eps)
    return advantages


def broadcast(rewards: Tensor, size: int, eps: float = 1e-6) -> Tensor:
    """Group advantages (n,) of a flat batch of rewards (n,) in which every ``size`` of them are a group."""
    groups = rewards.view(-1, size)
    mean = groups.mean(dim=1).repeat_interleave(size)
    std = groups.std(dim=1).repeat_interleave(size)
    return (rewards - mean) / (std + eps)


def along(rewards: Tensor, dim: int, eps: float = 1e-6) -> Tensor:
    """Group advantages in two lines, along any dimension of rewards of any shape."""
    std, mean = torch.std_mean(rewards, dim, keepdim=True)
    return (rewards - mean) / (std + eps)


def public_ndcg() -> dict[str, Callable[[Tensor], Tensor]]:
    """NDCG of lists as they lie, by public packages: those installed, by name with version."""
    packages: dict[str, Callable[[Tensor], Tensor]] = {}
    if importlib.util.find_spec("sklearn"):
        import sklearn
        from sklearn.metrics import ndcg_score

        def mean_of_lists(gains: Tensor) -> Tensor:
            scores = -torch.arange(gains.shape[1], dtype=torch.float32).expand_as(gains)
            return torch.tensor(ndcg_score(gains.float().numpy(), scores.numpy(), ignore_ties=True))

        packages[f"scikit-learn {sklearn.__version__} ndcg_score"] = mean_of_lists
    if importlib.util.find_spec("torchmetrics"):
        import torchmetrics
        from torchmetrics.functional.retrieval import retrieval_normalized_dcg

        def list_by_list(gains: Tensor) -> Tensor:
            scores = -torch.arange(gains.shape[1], dtype=torch.float32)
            return torch.stack([retrieval_normalized_dcg(scores, row) for row in gains]).mean()

        packages[f"torchmetrics {torchmetrics.__version__} retrieval_normalized_dcg"] = list_by_list
    return packages
