"""Build: the log-probability of every code of a sequence, from hidden states.

A transformer returns hidden states and knows nothing of items. What makes a policy of it is the last step:
which state predicts which code, over which codes the softmax runs, and what stands at padding.
"""

from torch import Tensor

from minirec.policy import Policy


def log_probabilities(policy: Policy, condition: Tensor, codes: Tensor) -> Tensor:
    """Score whole sequences by teacher forcing, with one call of ``policy.trunk``.

    Args:
        policy: in evaluation mode. Use ``policy.trunk``, ``policy.code.weight``, ``policy.levels`` and
            ``policy.size``, and nothing else of it.
        condition: (B, 4) int64.
        codes: (B, H, L) int64, padded with -1 on the right.

    Returns:
        (B, H, L) log-probability of every code given all before it, without a mask, in nats; 0 at padding.

    Hint: ``trunk`` adds the condition in front of the tokens that it is given, so it returns one state more.
    """
    raise NotImplementedError
