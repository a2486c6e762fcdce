"""Exact quantities by enumeration: what every estimate is held against."""

from __future__ import annotations

import torch
from torch import Tensor

from minirec.policy import Policy, Prompt
from minirec.score import token_logprobs
from minirec.trie import Trie


def item_logprobs(policy: Policy, prompt: Prompt, trie: Trie, constrained: bool = True) -> Tensor:
    """Log-probability of every item of the catalogue, by walking all nodes of the trie.

    Args:
        policy: the policy.
        prompt: of B contexts.
        trie: the catalogue; meant for N up to some thousands, as every depth is held at once, (B, nodes, V).
        constrained: under the trie's mask the probabilities sum to 1; without it they sum to 1 minus the
            probability of a hole.

    Returns:
        (B, N) float32, in nats; gradients flow.

    Source: definition.
    """
    size = len(prompt.last)
    nodes = trie.path(trie.codes)  # (N, L + 1)
    total = prompt.last.new_zeros(size, 1)  # (B, nodes of this depth), the root first
    hidden = prompt.last[:, None]
    for level in range(trie.levels):
        parent, first = torch.unique(nodes[:, level], return_inverse=False), trie.first[level]
        if level:  # one item below each node, for the codes of its prefix
            some = torch.empty_like(parent).scatter_(0, nodes[:, level], torch.arange(len(trie)).to(parent))
            prefix = trie.codes[some, :level].expand(size, -1, -1)  # (B, nodes, level)
            hidden = policy.branch(prompt, prefix)[0][:, :, -1]
        allowed = trie.allowed(level, parent) if constrained else None  # (nodes, V)
        logp = token_logprobs(policy.level_logits(hidden, level), allowed)  # (B, nodes, V)
        owner = torch.repeat_interleave(parent, first.diff())  # (children,) the parent of each child
        total = total[:, owner] + logp[:, owner, trie.code[level].long()]
    return torch.empty_like(total).index_copy(1, trie.item, total)
