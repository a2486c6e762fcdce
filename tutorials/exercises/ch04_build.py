"""Build: the best policy that a given KL can buy.

A reward in other units wants the same items, but the same beta is then another leash. What can be compared
between rewards is how far the policy may move. So: the policy of the largest expected reward among all
whose KL from the reference is at most a budget.
"""

from torch import Tensor


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
    raise NotImplementedError
