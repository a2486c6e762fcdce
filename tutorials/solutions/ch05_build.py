"""Build: advantages with one scale for the whole batch. A solution."""

from torch import Tensor

from minirec.objectives import grpo


def advantages(reward: Tensor, eps: float = 1e-6) -> Tensor:
    """Center each reward on the mean of the others of its group, then divide all by their root mean square.

    Args:
        reward: (B, G) float32, G at least 2.
        eps: added to the root mean square, which is taken over all B·G centred rewards.

    Returns:
        (B, G) float32; exactly 0 in a group of equal rewards, also where all groups are.
    """
    centred = grpo.advantages(reward, std=False, leave_one_out=True)  # exactly 0 in silent groups
    return centred / (centred.square().mean().sqrt() + eps)  # one number: no context is louder than another
