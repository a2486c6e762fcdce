"""A sampler that drew the right codes, and recorded the wrong probabilities.

``torch.multinomial`` scales what it is given to sum to 1; nobody scaled what was recorded. So the draws are
right, and every log-probability is too small by log Z, the share of the codes that are allowed. The ratio of
chapter 5 would not be 1 at the first update. One could have seen it: the probabilities of the codes that can
come out must sum to 1. The cure is to mask the logits, before the softmax, and in one place for both.
"""

import torch
from torch import Tensor

from minirec.policy import token_logprobs


def sample_code(logits: Tensor, allowed: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw one code per row, under a mask.

    Args:
        logits: (B, V).
        allowed: (B, V) bool, at least one per row.
        generator: of the noise.

    Returns:
        The codes (B,) int64 and the log-probabilities (B,) with which they were drawn.
    """
    logp = token_logprobs(logits, allowed)
    code = torch.multinomial(logp.exp(), 1, generator=generator)
    return code[:, 0], logp.gather(1, code)[:, 0]
