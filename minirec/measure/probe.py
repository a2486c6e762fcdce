"""Estimates from rollouts beside the exact values of the same contexts: what the oracle is for."""

import torch
from torch import Tensor

from minirec import rewards
from minirec.loop import Tally
from minirec.measure import exact
from minirec.noise import wide
from minirec.policy import Policy
from minirec.records import Experience
from minirec.tasks import NextItem, Rankings

CONTEXTS, LISTS, CANDIDATES = 64, 32, 5  # of the probe: next items; lists, and the items of each

PROBED = {
    "estimate": "mean reward of rollouts on the probe, a few validation contexts, always the same; 0 to 1",
    "estimate_error": "its standard error over rollouts, the contexts held fixed; 0 and up",
    "exact_reward": "expected reward on the same contexts, by enumeration; 0 to 1",
    "exact_entropy": "on the same contexts, by enumeration; nats per item or list, 0 and up",
    "exact_kl": "KL(π‖start) on the same contexts, by enumeration; nats per item or list, 0 and up",
}


@torch.no_grad()
def exact_values(x: Experience, policy: Policy, reference: Policy) -> dict[str, Tensor]:
    """Enumerate what a batch's rollouts estimate, (B,) float64 each; empty where that is too much."""
    trie, history = x.trie, x.trie.encode(x.batch.history)
    prompts = [(model, model.encode(x.batch.condition, history)) for model in (policy, reference)]
    if x.lists:
        gains, candidates = x.lists.gains, x.lists.candidates
        if candidates.shape[1] > exact.CANDIDATES:
            return {}
        (orders, logp), (_, other) = (exact.list_logprobs(*prompt, trie, candidates) for prompt in prompts)
        values = rewards.ndcg(gains[:, orders], rewards.ideal(gains, gains.shape[1])[:, None])  # (B, C!)
    else:
        constrained = x.cfg.mask == "trie"
        if len(trie) > exact.ITEMS or (not constrained and trie.size**trie.levels > exact.TUPLES):
            return {}
        every = trie if constrained else exact.every_tuple(trie.levels, trie.size).to(x.part.device)
        logp, other = (exact.item_logprobs(*prompt, every) for prompt in prompts)
        values = x.reward(trie.lookup(every.codes).expand(len(x.batch), -1))  # (B, N or V^L), 0 for holes
    reward, entropy, kl = exact.expected_reward(logp, values), exact.entropy(logp), exact.kl(logp, other)
    return {"exact_reward": reward, "exact_entropy": entropy, "exact_kl": kl}


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
