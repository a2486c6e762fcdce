"""Find the bug: a sampler that draws the right codes.

It draws one code under a mask. Frequencies are right: only allowed codes come out, and each as often as it
should. Its log-probabilities are finite, negative, and of the right shape. The loss would take them for what
they are not.
"""

import torch
from torch import Tensor


def sample_code(logits: Tensor, allowed: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw one code per row, under a mask.

    Args:
        logits: (B, V).
        allowed: (B, V) bool, at least one per row.
        generator: of the noise.

    Returns:
        The codes (B,) int64 and the log-probabilities (B,) with which they were drawn.
    """
    chances = logits.softmax(-1) * allowed
    code = torch.multinomial(chances, 1, generator=generator)
    return code[:, 0], chances.gather(1, code)[:, 0].log()
