"""Build: the log-probability of every code of a sequence, from hidden states."""

import torch
from torch import Tensor

from minirec.policy import Policy


def log_probabilities(policy: Policy, condition: Tensor, codes: Tensor) -> Tensor:
    """Score whole sequences by teacher forcing, with one call of ``policy.trunk``.

    Args:
        policy: in evaluation mode.
        condition: (B, 4) int64.
        codes: (B, H, L) int64, padded with -1 on the right.

    Returns:
        (B, H, L) log-probability of every code given all before it, without a mask, in nats; 0 at padding.
    """
    tokens = codes.flatten(1)  # (B, H*L)
    hidden, _ = policy.trunk(condition, tokens[:, :-1])  # nothing comes after the last: it is not read
    hidden = hidden.unflatten(1, codes.shape[1:])  # (B, H, L, d), state p predicts code p
    parts = []
    for level in range(policy.levels):
        table = policy.code.weight[level * policy.size : (level + 1) * policy.size]  # (V, d), tied
        logp = (hidden[:, :, level] @ table.T).log_softmax(-1)  # (B, H, V)
        code = codes[:, :, level]
        parts.append(logp.gather(-1, code.clamp(min=0)[..., None])[..., 0].masked_fill(code < 0, 0))
    return torch.stack(parts, -1)
