"""GRPO: a rollout is as good as its reward is above the mean of its group (DeepSeekMath, 2402.03300).

    A_i = (r_i - mean r) / (std r + ε)                                                        [paper]

The loss is in ``loss.py``, for all objectives alike. The settings are those of OpenOneRec-RL (2512.24762),
the baseline of ReCast: reward 1 for a target and 0 otherwise, the unbiased std, ε = 1e-6, clip 0.2 / 0.28,
k3 KL with β = 0.001, mean over tokens, and as a group the 32 beams of one beam search (``--rollouts beam
--group 32``).

Public code calls many things GRPO, so every choice is an argument: ``ddof`` (0 in some code), ``eps`` (1e-4
in some), ``std`` (dropped by Dr. GRPO, 2503.20783), ``leave_one_out`` (RLOO, 2402.14740, together with
``--no-std``; with the std it only scales by G/(G-1)).

Ours: G = 16, and samples under the trie by default. A silent group, all rewards equal, has advantage exactly
0; it stays in the batch, where only the KL reaches it, and counts in the divisor. Left out: the paper's
process supervision, which has no counterpart here.
"""

import torch
from torch import Tensor

from minirec import ops
from minirec.records import Experience, Objective, Signal
from minirec.settings import Config

CONVENTION = ("ddof", "eps", "std", "leave_one_out")
WEIGHED = (*CONVENTION, "clip_low", "clip_high", "kl")  # what the loss of rollouts with advantages reads


def convention(cfg: Config) -> dict[str, bool | int | float]:
    """The settings that say how rewards are compared."""
    return {name: getattr(cfg, name) for name in CONVENTION}


def advantages(
    reward: Tensor, ddof: int = 1, eps: float = 1e-6, std: bool = True, leave_one_out: bool = False
) -> Tensor:
    """Compare each reward with its group: the one place where rewards become advantages.

    Rewards (B, G, ...) are normalised over dimension 1; further dimensions are positions of a list. The
    variance of a group is its sum of squares over G - ddof; ``eps`` is added to the std; without ``std`` they
    are only centred; ``leave_one_out`` centres on the mean of the G - 1 others. Returns the shape of the
    rewards, float32; exactly 0 where a group's rewards are equal, and where G = 1.
    Source: GRPO (2402.03300); ddof and eps as in OpenOneRec-RL (2512.24762), ``std=False`` as in Dr. GRPO
    (2503.20783), ``leave_one_out`` as in RLOO (2402.14740).

    >>> advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.7, 0.7, 0.7, 0.7]]))
    tensor([[ 1.5000, -0.5000, -0.5000, -0.5000],
            [ 0.0000,  0.0000,  0.0000,  0.0000]])
    """
    how = {"ddof": ddof, "eps": eps, "scale": "std" if std else "none", "leave_one_out": leave_one_out}
    return ops.group_normalize(reward, dim=1, **how).float()


def signal(x: Experience) -> Signal:
    """Every rollout of every context, with the advantage of its reward: R = B, S = G."""
    rows = torch.arange(len(x.rewards), device=x.rewards.device)
    advantage = advantages(x.rewards, **convention(x.cfg))[..., None]  # (B, G, 1)
    return Signal(rows, x.rollout.codes, advantage, width=x.rewards.shape[1])


READS = ("rollouts", "mask", "reward", "ranker", *WEIGHED)
OBJECTIVE = Objective(signal, "GRPO", reads=READS)
