"""Build: advantages with one scale for the whole batch.

Over the std of its own group, a context is the louder the less it is expected to hit, and with three or more
reward values the gradient of a context is turned. Without any std, the learning rate must know the scale of
the rewards. Between the two: centre every group by itself, and divide the whole batch by one number.
"""

from torch import Tensor


def advantages(reward: Tensor, eps: float = 1e-6) -> Tensor:
    """Center each reward on the mean of the others of its group, then divide all by their root mean square.

    Args:
        reward: (B, G) float32, G at least 2.
        eps: added to the root mean square, which is taken over all B·G centred rewards.

    Returns:
        (B, G) float32; exactly 0 in a group of equal rewards, also where all groups are.

    Hint: `minirec.objectives.grpo.advantages` knows how to centre.
    """
    raise NotImplementedError
