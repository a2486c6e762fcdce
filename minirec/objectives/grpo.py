"""GRPO: a rollout is as good as it is better than the others of its group (2402.03300).

For a context, G rollouts with rewards r_i:

    A_i = (r_i - mean r) / (std r + ε)                                                [paper]
    loss = -1/G Σ_i 1/|y_i| Σ_t min(ρ_it A_i, clip(ρ_it, 1-ε_lo, 1+ε_hi) A_i) + β·KL  [paper]

The loss is in ``loss.py``, for all objectives alike. The settings are those of OpenOneRec-RL (2512.24762),
the baseline of ReCast: reward 1 for a target and 0 otherwise, the unbiased std, ε = 1e-6, clip 0.2 / 0.28,
k3 KL with β = 0.001, mean over tokens, and as a group the 32 beams of one beam search (``--rollouts beam
--group 32``).

Public code calls many things GRPO, so every choice is an argument: ``ddof`` (0 in some code), ``eps`` (1e-4
in some), ``std`` (dropped by Dr. GRPO, 2503.20783), ``leave_one_out`` (RLOO, 2402.14740, together with
``--no-std``; with the std it only scales by G/(G-1)).

Ours: G = 16, and samples under the trie by default. A silent group, all rewards equal, has advantage exactly
0; it stays in the batch, where only the KL reaches it, and counts in the divisor.

Left out: nothing of the objective; the paper's process supervision has no counterpart here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minirec import ops
from minirec.records import Experience, Signal


def advantages(
    reward: Tensor, ddof: int = 1, eps: float = 1e-6, std: bool = True, leave_one_out: bool = False
) -> Tensor:
    """Compare each reward with its group: the one place where rewards become advantages.

    Args:
        reward: (B, G, ...), normalised over dimension 1; further dimensions are positions of a list.
        ddof: 0 or 1; the variance of a group is its sum of squares over G - ddof.
        eps: added to the std.
        std: divide by the std; otherwise only centre.
        leave_one_out: centre on the mean of the G - 1 others instead of the mean of all.

    Returns:
        The shape of the rewards, float32; computed in float64. Exactly 0 where a group's rewards are equal,
        and where G = 1.

    Source: GRPO (2402.03300); ddof and eps as in OpenOneRec-RL (2512.24762), ``std=False`` as in Dr. GRPO
    (2503.20783), ``leave_one_out`` as in RLOO (2402.14740).

    >>> advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.7, 0.7, 0.7, 0.7]]))
    tensor([[ 1.5000, -0.5000, -0.5000, -0.5000],
            [ 0.0000,  0.0000,  0.0000,  0.0000]])
    """
    scale = "std" if std else "none"
    compared = ops.group_normalize(
        reward.double(), dim=1, ddof=ddof, eps=eps, scale=scale, leave_one_out=leave_one_out
    )
    return compared.float()


def signal(x: Experience) -> Signal:
    """Every rollout of every context, with the advantage of its reward.

    Args:
        x: a batch and its rollout.

    Returns:
        R = B contexts, S = G.

    Source: GRPO (2402.03300).
    """
    advantage = advantages(x.rewards, x.cfg.ddof, x.cfg.eps, x.cfg.std, x.cfg.leave_one_out)
    return Signal(
        rows=torch.arange(len(x.rewards), device=x.rewards.device),
        codes=x.rollout.codes,  # (B, G, 1, L)
        advantages=advantage[..., None],  # (B, G, 1)
        width=x.rewards.shape[1],
    )
