"""Swap rewards for any reward of a list."""

from collections.abc import Callable

import torch
from torch import Tensor


def swap_rewards(items: Tensor, reward: Callable[[Tensor], Tensor]) -> Tensor:
    """Say how much the reward falls, on average, when the item at k changes places with a later one.

        r_k = mean over j > k of R(y) - R(y with k and j swapped),   r_K = 0

    Args:
        items: (n, K) int64, lists.
        reward: lists (m, K) -> rewards (m,), for any m. It is expensive and may be called only once; the
            lists as they are and all their swapped versions go into it together.

    Returns:
        (n, K) in the dtype of the rewards, which is floating.
    """
    count, size = items.shape
    one, two = torch.triu_indices(size, size, 1)  # all pairs k < j
    pairs = torch.arange(len(one))
    order = torch.arange(size).repeat(len(one), 1)  # (pairs, K)
    order[pairs, one], order[pairs, two] = two, one
    every = torch.cat([items[:, None], items[:, order]], 1)  # (n, 1 + pairs, K)
    value = reward(every.flatten(0, 1)).view(count, -1)  # (n, 1 + pairs)
    falls = value[:, :1] - value[:, 1:]
    total = torch.zeros(count, size, dtype=value.dtype).index_add(1, one, falls)
    return total / torch.arange(size - 1, -1, -1).clamp(min=1)
