"""Build: where does a policy leave the tree?

A policy without a mask says L codes. It can leave the tree at any of them: the first code that leads to no
item. Compute the probability of that, for each level and each context, exactly.

You need the trie (allowed, descend), one forward pass per level (policy.branch), and ``token_logprobs`` of
``minirec.policy``.
``exact.item_logprobs`` walks the tree in the same way; ``exact.every_tuple`` is a way to check yourself.
"""

import torch
from torch import Tensor

from minirec.policy import Policy, Prompt
from minirec.trie import Trie


@torch.no_grad()
def leaves(policy: Policy, prompt: Prompt, trie: Trie) -> Tensor:
    """Say at which code the policy leaves the tree.

    Args:
        policy: the policy.
        prompt: of B contexts.
        trie: the catalogue.

    Returns:
        (B, L): entry l is the probability that codes 1..l-1 are the prefix of an item and 1..l are not.
        A row sums to the probability of a hole.
    """
    raise NotImplementedError
