"""Where a reward and a KL balance: the Gibbs form, and where GRPO settles with k3 in its loss."""

import math

import torch
from torch import Tensor

from minirec.noise import wide
from minirec.policy import MASKED
from minirec.trie import Trie


def kl_optimum(reference: Tensor, reward: Tensor, beta: float) -> Tensor:
    """The policy that maximises E_π[r] - β KL(π‖ref): the Gibbs form, ref · exp(r/β), normalised.

    Policy gradients climb to it where the KL is a part of the reward; GRPO has k3 in the loss and settles
    elsewhere. reference (B, N) log-probabilities, reward (B, N), beta above 0. Returns (B, N) float64
    log-probabilities that sum to 1. Source: definition (the Gibbs variational principle).
    """
    return torch.log_softmax(wide(reference) + wide(reward) / beta, 1)


def k3_fixed_point(reference: Tensor, reward: Tensor, beta: float) -> Tensor:
    """Where GRPO settles with k3 in its loss: the policy that maximises E_π[r] - β KL(ref‖π).

    On samples of π, k3 has the value of KL(π‖ref) in the mean, but the gradient of KL(ref‖π). So GRPO comes
    to rest at π = β · ref / (λ - r), with the one λ above every r at which it sums to 1. Its tails fall as
    1/(λ - r), those of ``kl_optimum`` exponentially. This holds for a leave-one-out baseline; dividing
    by the std, or taking the mean of the whole group as baseline, rescales r against β. Arguments and result
    as in ``kl_optimum``, here (..., N). Source: ours; it follows from GRPO's loss (2402.03300) where an
    item is one token.
    """
    weight, reward = wide(reference) + math.log(beta), wide(reward)  # log(β · ref)
    best, which = reward.masked_fill(weight.exp() == 0, -math.inf).max(-1, keepdim=True)
    gap = (best - reward).clamp(min=0)  # (..., N); a masked item may lie above the best and stays masked
    # m = log(λ - best): the best item alone has probability 1 at the low end, all have at most 1 at the high
    low, high = weight.gather(-1, which), torch.full_like(best, math.log(beta))
    for _ in range(64):  # the ends lie at most 745 apart, so they meet to the last bit
        m = (low + high) / 2
        over = (weight - (m.exp() + gap).log()).exp().sum(-1, keepdim=True) > 1
        low, high = torch.where(over, m, low), torch.where(over, high, m)
    return weight - (m.exp() + gap).log()


def k3_fixed_point_by_code(reference: Tensor, reward: Tensor, beta: float, trie: Trie) -> Tensor:
    """``k3_fixed_point`` where an item is L tokens, each with a k3 of its own, as the loss has it.

    The k3 of a later code gives no credit to the codes before it. So every node of the trie settles by
    itself, from the last level up to the root, with the mean reward below each child as its r. Source: ours.
    """
    mass, value = wide(reference[:, trie.item]), wide(reward[:, trie.item])  # (B, leaves)
    steps = []
    for level in reversed(range(trie.levels)):
        first = trie.first[level]
        owner = torch.repeat_interleave(first.diff())  # (children,) the parent of each child
        slot = torch.arange(len(owner), device=owner.device) - first[owner]  # its place among its siblings
        table = mass.new_full((len(mass), len(first) - 1, trie.fan[level]), MASKED)  # (B, parents, fan)
        worth = torch.zeros_like(table)
        table[:, owner, slot], worth[:, owner, slot] = mass, value
        mass = table.logsumexp(2)  # (B, parents)
        settled = k3_fixed_point(table - mass[..., None], worth, beta)
        value = (settled.exp() * worth).sum(2)
        steps.append((owner, settled[:, owner, slot]))
    total = torch.zeros_like(mass)  # (B, 1), the root
    for owner, step in reversed(steps):
        total = total[:, owner] + step
    return torch.empty_like(total).index_copy(1, trie.item, total)
