"""FlexRec: credit for every position of a list, and trust by the critic's variance (2603.11901).

The policy ranks a closed candidate set for a need, y = (a_1..a_K), gains g_k, discounts d_k = 1/log2(k+1):

    R = DCG/IDCG,   r_k = E_{j ~ Uniform{k+1..K}} [ R(y) - R(y with k and j swapped) ],   r_K = 0
                                                                            [paper; the sign is ours]
    A_{i,k} = r_{i,k} normalised over the group, per position k             [ours, as Rank-GRPO does]
    c_i = 1/(u_i + ε),   A_i <- c_i · A_i,   u_i = variance of rollout i's reward     [paper]
    u = Σ_k d_k² Var_k / IDCG²,   ε = 0.1 × mean u of the batch,   c with mean 1      [ours]

A swap advantage goes to the code tokens of its own item [paper]. Missing feedback is filled by the critic's
mean [paper]. Ablations: ``noncausal`` swaps with every other position, ``independent`` is g_k d_k / IDCG
[paper]; ``list`` is the baseline, GRPO on NDCG with one advantage for the whole list.

Ours: one c per context (the mean of its rollouts' u), as a c that depends on the rollout breaks the group's
baseline; ``--uncertainty rollout`` is the paper's. Contexts with IDCG = 0 are left out; negative gains
count 0. A need is two flags, novel and trend; both together are held out of training. The mask of alive
candidates takes the place of candidates in the prompt. The swap reward is no unbiased policy-gradient
weight: at a uniform policy it is (n+1)/n times the true advantage, n = K - k, elsewhere slightly biased
(tested). The paper ranks C = K = 30 candidates; 10, and groups of 8, are ours.

Left out: tokens outside items, of which the policy has none; the switch that gives observed items variance 0.
"""

import torch
from torch import Tensor

from minirec import ops, rewards
from minirec.objectives.grpo import WEIGHED, advantages, convention
from minirec.records import Experience, Objective, Signal
from minirec.settings import Config

SWAPS = {"causal": "later", "noncausal": "all"}  # form: with which positions


def credit(gains: Tensor, ideal: Tensor, form: str) -> Tensor:
    """Split a list's NDCG over its positions: gains (B, G, K) in order and IDCG (B,) to rewards (B, G, K).

    With the form "list" all positions have the list's NDCG. Source: FlexRec (2603.11901).
    """
    ideal = ideal[:, None]  # (B, 1)
    if form == "list":
        return rewards.ndcg(gains, ideal)[..., None].expand_as(gains)
    if form == "independent":
        return rewards.independent(gains, ideal)
    return ops.swap_ndcg(gains.clamp(min=0), ideal, pool=SWAPS[form])


def position_advantages(gains: Tensor, ideal: Tensor, form: str, cfg: Config) -> Tensor:
    """Compare each position's credit with that of the group's other lists: (B, G, K); swaps in one pass."""
    if form not in SWAPS:
        return advantages(credit(gains, ideal, form), **convention(cfg))
    how = convention(cfg)
    how["scale"] = "std" if how.pop("std") else "none"
    return ops.swap_advantages(gains.clamp(min=0), ideal[:, None], pool=SWAPS[form], **how).float()


def list_variance(variance: Tensor, ideal: Tensor) -> Tensor:
    """Variance (B, G) of a list's NDCG when its gains are independent: u.

    The variance (B, G, K) of each gain in the order of the lists, and IDCG (B,), above 0.
    Source: FlexRec (2603.11901) says accumulated over the list; the weights d_k² / IDCG² are ours.
    """
    weight = rewards.discounts(variance.shape[-1]).to(variance)
    return (variance * weight.square()).sum(-1) / ideal[:, None].square()


def trust(u: Tensor) -> Tensor:
    """Turn variances into weights with mean 1: c = 1/(u + ε), ε a tenth of the mean u; all 0 gives all 1.

    Source: FlexRec (2603.11901), c; ε and the rescaling are ours.

    >>> trust(torch.tensor([0.0, 1.0]))
    tensor([1.9091, 0.0909])
    """
    if not u.any():
        return torch.ones_like(u)
    c = 1 / (u + 0.1 * u.mean())
    return c / c.mean()


def certainty(x: Experience, ideal: Tensor, uncertainty: str) -> Tensor:
    """The weight c of each context (B, 1), or with "rollout" of each of its lists (B, G); IDCG (B,)."""
    variance = rewards.in_order(x.lists.candidates, x.lists.variance, x.rollout.items)  # (B, G, K)
    u = list_variance(variance, ideal.clamp(min=1e-9))  # (B, G)
    u = x.gather(u if uncertainty == "rollout" else u.mean(1, keepdim=True))  # (A, G or 1)
    weight, known = torch.zeros_like(u), x.gather(ideal) > 0  # the mean is over what is learned from
    weight[known] = trust(u[known])
    return weight[x.part].float()


def list_signal(x: Experience, form: str, uncertainty: str) -> Signal:
    """Every list (S = G) of the R contexts with IDCG > 0, with an advantage for each of P = K positions."""
    items = x.rollout.items  # (B, G, K)
    ideal = rewards.ideal(x.lists.gains, items.shape[2])  # (B,)
    rows = (ideal > 0).nonzero()[:, 0]
    gains = rewards.in_order(x.lists.candidates, x.lists.gains, items)  # (B, G, K)
    advantage = position_advantages(gains, ideal, form, x.cfg)
    if uncertainty != "none":
        advantage = advantage * certainty(x, ideal, uncertainty)[..., None]
    return Signal(rows, x.rollout.codes[rows], advantage[rows], width=items.shape[1])


def signal(x: Experience) -> Signal:
    """Credit for every position of a list, trusted by the critic's variance. Source: FlexRec (2603.11901)."""
    return list_signal(x, x.cfg.credit, x.cfg.uncertainty)


SHARED = {"lists": True, "defaults": {"rl_steps": 60, "rl_rate": 5e-4, "group": 8}}
READS = ("candidates", "feedback", *WEIGHED)
OBJECTIVE = Objective(signal, "FlexRec", reads=("credit", "uncertainty", *READS), **SHARED)
BASELINE = Objective(lambda x: list_signal(x, "list", "none"), "list-level GRPO", reads=READS, **SHARED)
