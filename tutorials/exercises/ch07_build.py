"""Build: a contrast whose miss is drawn at random.

ReCast takes the nearest miss, and so pushes down what the user might have clicked as well. Take any miss of
the group instead, all rollouts that miss being equally likely. Everything else stays: which groups are
learnable, which hit is lifted, the tie rule of the hit.

When the tests pass: which items pay for the target's lift now? (Compare with ``payers`` in the chapter.)
"""

from torch import Tensor


def contrast(hits: Tensor, likelihood: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Pick the pair that a group learns from.

    Args:
        hits: (B, G) of 0 and 1.
        likelihood: (B, G) log-probability of each rollout, in nats.
        noise: (B,) float64 uniform in [0, 1), one number per group. The same noise gives the same miss.

    Returns:
        The learnable rows (R,) int64, and their hit and their random miss (R, 2) int64.
    """
    raise NotImplementedError
