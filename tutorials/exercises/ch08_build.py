"""Build: swap rewards for any reward of a list.

The closed form needs a gain for each item. A page may be worth more or less than the sum of its items: five
films of one series are not five times one. Then swaps have to be carried out.
"""

from collections.abc import Callable

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
    raise NotImplementedError
