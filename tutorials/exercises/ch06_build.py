"""Build: how often would this gate open?

A gate decides on one group. Another group of the same context may decide otherwise. On a catalogue that can
be enumerated, the share of all groups that open the gate is a number, and needs no sampling.
"""

from torch import Tensor


def opens(logp: Tensor, reward: Tensor, target: Tensor, group: int, tau: float) -> Tensor:
    """The probability that the click is difficult for the policy and ranked high by the ranker.

    That is rank_policy > tau·G and rank_ranker <= tau·G in one and the same group of G independent rollouts;
    negatives are left out. A rollout can stand above the click by one score, the other, both, or none.

    Args:
        logp: (B, N) of the policy, in nats; the N items are all that it can say.
        reward: (B, N) of the ranker.
        target: (B,) int64, the click; it is not above itself.
        group: G.
        tau: threshold relative to G.

    Returns:
        (B,) float64 in [0, 1].
    """
    raise NotImplementedError
