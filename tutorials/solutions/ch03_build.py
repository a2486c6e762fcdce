"""Build: where does a policy leave the tree?

A policy without a mask says L codes. It can leave the tree at any of them: the first code that leads to no
item. Compute the probability of that, for each level and each context, exactly.

All prefixes of one depth that are on the tree are held side by side, with their log-probabilities.
What the policy gives to codes that are not allowed is lost at this level; the rest goes on.
"""

import torch
from torch import Tensor

from minirec.policy import Policy, Prompt, token_logprobs
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
    node = torch.zeros(1, dtype=torch.int64)  # all prefixes of this depth that are on the tree: the root
    codes = torch.empty(1, 0, dtype=torch.int64)  # (nodes, level) what they are
    reach = prompt.last.new_zeros(len(prompt.last), 1)  # (B, nodes) log-probability to come there
    hidden, lost = prompt.last[:, None], []
    for level in range(trie.levels):
        if level:
            hidden = policy.branch(prompt, codes.expand(len(reach), -1, -1))[0][:, :, -1]
        logp = token_logprobs(policy.level_logits(hidden, level))  # (B, nodes, V), no mask
        allowed = trie.allowed(level, node)  # (nodes, V)
        chance = (reach[..., None] + logp).exp()  # (B, nodes, V)
        lost.append((chance * ~allowed).sum((1, 2)))
        parent, code = allowed.nonzero(as_tuple=True)
        reach = reach[:, parent] + logp[:, parent, code]
        node = trie.descend(level, node[parent], code)
        codes = torch.cat([codes[parent], code[:, None]], 1)
    return torch.stack(lost, 1)
