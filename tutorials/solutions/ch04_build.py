"""Build: the best policy that a given KL can buy.

A reward in other units wants the same items, but the same beta is then another leash. What can be compared
between rewards is how far the policy may move. So: the policy of the largest expected reward among all
whose KL from the reference is at most a budget.
"""

import torch
from torch import Tensor

from minirec.measure import exact
from tutorials import fixed_points


def within(reference: Tensor, reward: Tensor, budget: float) -> Tensor:
    """Find for each context the policy that a reward wants, no further from the reference than a budget.

    The answer lies on the path of ``tutorials.fixed_points.kl_optimum``: the KL falls as beta grows. Each
    context has a beta of its own. Where the whole path stays within the budget, the answer is its end.

    Args:
        reference: (B, N) log-probabilities, in nats.
        reward: (B, N).
        budget: the largest KL(policy || reference) of each context, above 0, in nats.

    Returns:
        (B, N) float64 log-probabilities in nats; they sum to 1 over the N.
    """
    low, high = (reward.new_full((len(reward), 1), end, dtype=torch.float64) for end in (-60.0, 60.0))
    for _ in range(100):  # low and high: log beta; the answer lies between them
        middle = (low + high) / 2
        policy = fixed_points.kl_optimum(reference, reward.double() / middle.exp(), beta=1.0)
        over = exact.kl(policy, reference)[:, None] > budget
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    return fixed_points.kl_optimum(reference, reward.double() / high.exp(), beta=1.0)
