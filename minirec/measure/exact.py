"""Exact quantities by enumeration: what every estimate is held against.

``item_logprobs`` and ``list_logprobs`` give the probability of every answer that a policy could give. The
rest are sums over these, in float64. Log-probabilities are in nats and finite: a masked item has about -1e9,
and its share of every sum is exactly 0. Without a mask, the probabilities of holes are missing from a sum.
Last comes the probe: estimates from rollouts beside the exact values of the same contexts.
"""

from itertools import permutations

import torch
from torch import Tensor

from minirec import rewards
from minirec.loop import Tally
from minirec.noise import wide
from minirec.policy import Policy, Prompt, score, token_logprobs
from minirec.records import Experience
from minirec.rollout import closed_masks
from minirec.tasks import NextItem, Rankings
from minirec.trie import Trie

ITEMS = 4_096  # the largest catalogue of items
TUPLES = 65_536  # the largest V^L, where every tuple is an item
CANDIDATES = 6  # the largest closed set: 720 orders
CONTEXTS, LISTS = 64, (32, 5)  # of the probe: next items; lists, and the items of each
PROBED = {
    "estimate": "mean reward of rollouts on the probe, a few validation contexts, always the same; 0 to 1",
    "estimate_error": "its standard error over rollouts, the contexts held fixed; 0 and up",
    "exact_reward": "expected reward on the same contexts, by enumeration; 0 to 1",
    "exact_entropy": "on the same contexts, by enumeration; nats per item or list, 0 and up",
    "exact_kl": "KL(π‖start) on the same contexts, by enumeration; nats per item or list, 0 and up",
}


def every_tuple(levels: int, size: int, device: torch.device | str = "cpu") -> Trie:
    """Make the catalogue of all V^L tuples, item i in base V: what a policy without a mask can say.

    Raises ValueError if there are more than 65,536 tuples. Source: ours.
    """
    if size**levels > TUPLES:
        raise ValueError(f"size, levels: {size}^{levels} tuples; at most {TUPLES:,} can be enumerated")
    return Trie(torch.cartesian_prod(*[torch.arange(size, device=device)] * levels).view(-1, levels), size)


def item_logprobs(policy: Policy, prompt: Prompt, trie: Trie, constrained: bool = True) -> Tensor:
    """Log-probability of every item of the catalogue, by walking all nodes of the trie.

    Returns (B, N) in the policy's dtype; gradients flow. Each depth is held at once, (B, nodes, V). Raises
    ValueError for more than 4,096 items, or 65,536 where every tuple is an item. Source: definition.
    """
    most = TUPLES if len(trie) == trie.size**trie.levels else ITEMS
    if len(trie) > most:
        raise ValueError(f"trie: {len(trie):,} items; at most {most:,} can be enumerated")
    hidden = prompt.last[:, None]  # (B, nodes, d), the root first
    total = hidden.new_zeros(len(hidden), 1)  # (B, nodes)
    prefix = trie.codes.new_empty(1, 0)  # (nodes, level)
    for level in range(trie.levels):
        if level:
            hidden = policy.branch(prompt, prefix.expand(len(total), -1, -1))[0][:, :, -1]
        node = torch.arange(len(prefix), device=prefix.device)
        allowed = trie.allowed(level, node) if constrained else None  # (nodes, V)
        logp = token_logprobs(policy.level_logits(hidden, level), allowed)  # (B, nodes, V)
        parent = node.repeat_interleave(trie.first[level].diff())  # (children,)
        code = trie.key[level] % trie.size
        total = total[:, parent] + logp[:, parent, code]
        prefix = torch.cat([prefix[parent], code[:, None]], 1)  # (children, level + 1)
    return torch.empty_like(total).index_copy(1, trie.item, total)


def list_logprobs(policy: Policy, prompt: Prompt, trie: Trie, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of every order of a closed candidate set (B, C) int64, distinct in a row, no padding.

    Returns the orders (C!, C), indexes into the candidates, and their log-probabilities (B, C!); gradients
    flow. Raises ValueError for more than 6. Source: definition; masks as in ``rollout.rank``.
    """
    size = candidates.shape[1]
    if size > CANDIDATES:
        raise ValueError(f"candidates: the orders of {size}; at most those of {CANDIDATES} can be enumerated")
    orders = torch.tensor(list(permutations(range(size))), device=candidates.device)  # (C!, C)
    codes = trie.codes[candidates[:, orders]]  # (B, C!, C, L)
    masks = closed_masks(trie.codes[candidates], codes, trie.size)
    return orders, score(policy, prompt, codes, masks).sum((2, 3))


def expected_reward(logp: Tensor, reward: Tensor) -> Tensor:
    """The mean reward of a policy's answers: logp and reward (B, N) to (B,) float64. Source: definition."""
    return (wide(logp).exp() * reward).sum(1)


def entropy(logp: Tensor) -> Tensor:
    """The entropy -Σ p log p of logp (B, N): (B,) float64, without the part of holes. Source: definition."""
    return (wide(logp).exp() * -wide(logp)).sum(1)


def kl(logp: Tensor, other: Tensor) -> Tensor:
    """The divergence KL(π‖other) = Σ p (log p - log other), with log p = logp: (B, N) each to (B,) float64.

    Both must sum to 1: the sum is no divergence where one policy alone has holes. Where ``other`` masks an
    item that π can give, the value is about 1e9 times its probability, not infinity. Source: definition.
    """
    return (wide(logp).exp() * (wide(logp) - other)).sum(1)


def policy_gradient(policy: Policy, logp: Tensor, reward: Tensor) -> dict[str, Tensor]:
    """The gradient that every policy-gradient estimate estimates: of the mean over contexts of E[r].

    The policy has dropout off and gave logp; logp and reward (B, N), where a hole has reward 0. Returns the
    gradients by name of parameter. Source: definition, by differentiation of the sum over all items.
    """
    names, parameters = zip(*policy.named_parameters(), strict=True)
    gradients = torch.autograd.grad(expected_reward(logp, reward).mean(), parameters, materialize_grads=True)
    return dict(zip(names, gradients, strict=True))


@torch.no_grad()
def exact_values(x: Experience, policy: Policy, reference: Policy) -> dict[str, Tensor]:
    """Enumerate what a batch's rollouts estimate, (B,) float64 each; empty where that is too much."""
    trie, history = x.trie, x.trie.encode(x.batch.history)
    prompts = [(model, model.encode(x.batch.condition, history)) for model in (policy, reference)]
    if x.lists:
        gains, candidates = x.lists.gains, x.lists.candidates
        if candidates.shape[1] > CANDIDATES:
            return {}
        (orders, logp), (_, other) = (list_logprobs(*prompt, trie, candidates) for prompt in prompts)
        values = rewards.ndcg(gains[:, orders], rewards.ideal(gains, gains.shape[1])[:, None])  # (B, C!)
    else:
        constrained = x.cfg.mask == "trie"
        if len(trie) > ITEMS or (not constrained and trie.size**trie.levels > TUPLES):
            return {}
        every = trie if constrained else every_tuple(trie.levels, trie.size, x.part.device)
        logp, other = (item_logprobs(*prompt, every) for prompt in prompts)
        values = x.reward(trie.lookup(every.codes).expand(len(x.batch), -1))  # (B, N or V^L), 0 for holes
    reward, spread = expected_reward(logp, values), entropy(logp)
    return {"exact_reward": reward, "exact_entropy": spread, "exact_kl": kl(logp, other)}


def probe(task: NextItem | Rankings, policy: Policy, reference: Policy, step: int) -> dict[str, float]:
    """What the policy's rollouts on the probe estimate, and the exact values, by the names of PROBED."""
    tally, x = Tally(PROBED), task.act(policy, step, probe=True)
    group = wide(x.rewards)  # (B, G)
    values = {"estimate": group.mean(1)} | exact_values(x, policy, reference)  # (B,) each
    if group.shape[1] > 1:  # a single rollout has no spread
        values["estimate_error"] = group.var(1) / group.shape[1]
    for name, value in values.items():
        tally.add(name, value.sum(), len(value))
    contexts = task.processes.totals(torch.tensor(len(group))).item()
    means = tally.means(task.processes)
    return means | {name: (means[name] / contexts) ** 0.5 for name in means if name == "estimate_error"}
