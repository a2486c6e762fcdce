"""Build: how often would this gate open?

Count in two directions at once. A table holds the probability of i rollouts above by the policy and j above
by the ranker; each rollout moves it by (0, 0), (1, 0), (0, 1) or (1, 1). After G rollouts, the answer is a
sum over a corner of the table.
"""

import torch
from torch import Tensor


def opens(logp: Tensor, reward: Tensor, target: Tensor, group: int, tau: float) -> Tensor:
    """The probability that the click is difficult for the policy and ranked high by the ranker.

    Args:
        logp: (B, N) of the policy, in nats; the N items are all that it can say.
        reward: (B, N) of the ranker.
        target: (B,) int64, the click; it is not above itself.
        group: G.
        tau: threshold relative to G.

    Returns:
        (B,) float64 in [0, 1].
    """
    own, p = target[:, None], logp.double().exp()
    by_policy, by_ranker = logp > logp.gather(1, own), reward > reward.gather(1, own)  # (B, N), not itself
    step = {
        (i, j): (p * ((by_policy == i) & (by_ranker == j))).sum(1)[:, None, None]
        for i in (False, True)
        for j in (False, True)
    }
    table = p.new_zeros(len(p), group + 1, group + 1)
    table[:, 0, 0] = 1
    for _ in range(group):
        moved = step[False, False] * table
        moved[:, 1:] += step[True, False] * table[:, :-1]
        moved[:, :, 1:] += step[False, True] * table[:, :, :-1]
        moved[:, 1:, 1:] += step[True, True] * table[:, :-1, :-1]
        table = moved
    rank = 1 + torch.arange(group + 1)
    return table[:, rank > tau * group][:, :, rank <= tau * group].sum((1, 2))
