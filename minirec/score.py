"""Log-probabilities of code tokens: one function for the sampler and for the loss.

A policy that is sampled under one mask or temperature and scored under another optimises something
that was never sampled. So both sides call ``token_logprobs``, and nothing else makes probabilities.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from minirec.policy import Policy, Prompt

MASKED = -1e9  # a masked logit; finite, so that p * log p is 0 and not NaN


def token_logprobs(logits: Tensor, allowed: Tensor | None = None, temperature: float = 1.0) -> Tensor:
    """Log-softmax over the codes of one level, masked before it is normalised.

    Args:
        logits: (..., V) float.
        allowed: (..., V) bool, the codes that may follow, or None for all of them.
        temperature: divides the logits, before the mask.

    Returns:
        (..., V) log-probabilities in nats, in the dtype of the logits (float32 under autocast). Where any
        code is allowed, one that is not has probability exactly 0.

    Source: definition.

    >>> token_logprobs(torch.zeros(4), torch.tensor([True, True, False, False])).exp()
    tensor([0.5000, 0.5000, 0.0000, 0.0000])
    """
    logits = logits / temperature if temperature != 1.0 else logits
    if allowed is not None:
        logits = logits.masked_fill(~allowed, MASKED)
    return torch.log_softmax(logits, dim=-1)


def score(
    policy: Policy,
    prompt: Prompt,
    codes: Tensor,
    allowed: Tensor | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """Score given rollouts by teacher forcing, as G branches on one prompt; gradients flow into both.

    Args:
        policy: the policy, in the mode (training or evaluation) that it is in.
        prompt: of the B contexts, from ``policy.encode``.
        codes: (B, G, P, L) int64.
        allowed: (B, G, P, L, V) bool, the masks under which the rollouts were drawn, or None.
        temperature: as it was in sampling.

    Returns:
        (B, G, P, L) log-probability of every code given all before it, in nats.

    Source: definition (chain rule over code tokens).
    """
    tokens = codes.flatten(2)  # (B, G, P*L)
    first = prompt.last[:, None, None].expand(-1, codes.shape[1], 1, -1)  # (B, G, 1, d)
    rest, _ = policy.branch(prompt, tokens[..., :-1])  # (B, G, P*L - 1, d)
    hidden = torch.cat([first, rest], 2).unflatten(2, codes.shape[2:])  # (B, G, P, L, d)
    logp = token_logprobs(policy.logits(hidden), allowed, temperature)  # (B, G, P, L, V)
    return logp.gather(-1, codes[..., None])[..., 0]
