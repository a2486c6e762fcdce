"""AdaGRPO: let the reward teach only where the policy is unsure and the ranker is sure (2606.08480).

The reward is a ranker trained on exposure-biased logs, right for some contexts and wrong for others. NLL is
always kept, and a binary gate admits the GRPO term context by context:

    L(x) = NLL(g | x) + λ · α(x) · GRPO(x),   α(x) = D(x) · Q(x) ∈ {0, 1}                 [paper]
    D(x) = 1[ rank_π(g) > τ·G ]               the policy finds the target difficult       [paper]
    Q(x) = 1[ rank_R(g) ≤ τ·G ] · Π_m 1[ rank_R(n_m) > ρ·G ]
                                              the ranker tells it from negatives          [paper; ρ is ours]
    rank_π(g) = 1 + #{i : log π(y_i|x) > log π(g|x)}                                      [ours]
    rank_R(g) = 1 + #{i : R(x,y_i) > R(x,g)}, and so for each n_m                         [ours]

n_1..n_M, M = 5 [paper]: items generated for other contexts of the batch, scored under this one; all must
pass [paper]. Both diagnostics reuse the rollouts and their scores; thresholds are on ranks [paper].

Ours: τ = 1/8, ρ = 1/4 and λ = 1 (the paper's are not known; about 12 % of its contexts are admitted). The
source's wording of the condition on negatives is ambiguous: read here as "each ranks beyond the first ρ of
the group", not "within it"; ρ = 0 leaves it out. Rollouts are unconstrained, a hole has reward 0. g is scored
by teacher forcing. Items tie by identity, not by float. Q is 0 for a group of holes, and with fewer than M
negatives, which is counted. Controls beside the paper's gate: ``difficulty`` and ``discriminability`` alone,
``random`` at the same rate, ``open`` (a fixed mixture), ``shut`` (NLL). Left out: the production ranker, for
which ``models/ranker.py`` stands in.
"""

import torch
from torch import Tensor

from minirec.objectives import grpo
from minirec.objectives.grpo import advantages, convention
from minirec.records import HOLE, PAD, Experience, Objective, Signal


def rank(scores: Tensor, items: Tensor, score: Tensor, placed: Tensor) -> Tensor:
    """The place that an item would take in its context's group: 1 + how many rollouts score above it.

    Rollouts' scores and items (B, G); scores and ids of the items to place (B, n). A rollout that is the item
    itself is not above it. Returns (B, n) int64 in 1..G+1.
    Source: AdaGRPO (2606.08480), rank_π and rank_R as we read them; ties by identity are ours.
    """
    above = (scores[:, :, None] > score[:, None]) & (items[:, :, None] != placed[:, None])  # (B, G, n)
    return 1 + above.sum(1)


def cross_sample_negatives(items: Tensor, part: Tensor, targets: Tensor, noise: Tensor, size: int) -> Tensor:
    """Draw, for each context, ``size`` M distinct items that the policy generated for other contexts only.

    Rollouts of the whole batch (A, G); the rows ``part`` (B,) of it and their targets (B, n), which are not
    drawn; noise (A, AG), whose lowest numbers draw. Returns (B, M), padded where others had fewer items.
    Source: AdaGRPO (2606.08480); how they are drawn is ours.
    """
    pool = items[items != HOLE].unique()  # (P,), P <= AG
    taken = torch.cat([items[part], targets], 1)  # (B, G + n)
    legal = (pool[:, None] != taken[:, None]).all(-1)  # (B, P)
    keys, drawn = noise[part, : len(pool)].masked_fill(~legal, 2.0).topk(min(size, len(pool)), largest=False)
    negatives = pool[drawn].masked_fill(keys > 1, PAD)  # (B, M or P)
    return torch.nn.functional.pad(negatives, (0, size - negatives.shape[1]), value=PAD)


def diagnose(
    rank_policy: Tensor, rank_target: Tensor, rank_negatives: Tensor, group: int, tau: float, rho: float
) -> tuple[Tensor, Tensor]:
    """The two halves of the gate, D and Q: (B,) bool each.

    Ranks of the target by the policy and by the ranker (B,), of the negatives by the ranker (B, M). Raises
    ValueError where τ·G < 1, as no target could rank high enough. Source: AdaGRPO (2606.08480); the condition
    on negatives as we read it.
    """
    if tau * group < 1:
        raise ValueError(f"tau: {tau} of a group of {group} is less than one place; no gate can open")
    passed = (rank_negatives > rho * group).all(1)  # (B,)
    return rank_policy > tau * group, (rank_target <= tau * group) & passed


def ranks(x: Experience) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Place the target and the cross-sample negatives in every group.

    Returns rank_π(g) and rank_R(g) (B,), rank_R(n_m) (B, M), and whether the gate must stay shut (B,) bool.
    """
    target, items = x.batch.targets[:, :1], x.rollout.items[..., 0]  # (B, 1), (B, G)
    every = x.gather(items)  # (A, G), A contexts of all processes
    noise = x.noise(1 + every.numel())[:, 1:]  # (A, AG); the first column is the random gate's
    negatives = cross_sample_negatives(every, x.part, x.batch.targets, noise, x.cfg.negatives)
    short = (negatives == PAD).any(1) | (items == HOLE).all(1)
    by_policy = rank(x.rollout.logp.sum((2, 3)), items, x.logp(target), target)[:, 0]
    by_ranker = rank(x.rewards, items, x.reward(target), target)[:, 0]
    return by_policy, by_ranker, rank(x.rewards, items, x.reward(negatives), negatives), short


def signal(x: Experience) -> Signal:
    """NLL for all, and GRPO (S = G) for the R contexts that the gate admits. Source: AdaGRPO (2606.08480)."""
    cfg, group = x.cfg, x.rewards.shape[1]
    *places, short = ranks(x)
    difficult, separated = diagnose(*places, group, cfg.tau, cfg.rho)
    separated &= ~short
    both = difficult & separated
    gates = {"both": both, "difficulty": difficult, "discriminability": separated}
    gates |= {"open": torch.ones_like(both), "shut": torch.zeros_like(both)}
    if cfg.gate == "random":  # as many contexts, but any
        every = x.gather(both)  # (A,)
        gates["random"] = every[x.noise(1 + group * len(every))[:, 0].argsort()][x.part]
    rows = gates[cfg.gate].nonzero()[:, 0]
    advantage = advantages(x.rewards, **convention(cfg))[rows, :, None]
    facts = {"difficult": difficult, "discriminable": separated, "short_of_negatives": short}
    facts = {name: which.sum() for name, which in facts.items()}
    codes, more = x.rollout.codes[rows], {"weight": cfg.rl_weight, "facts": facts}
    return Signal(rows, codes, advantage, group, nll=True, **more)


FACTS = {
    "difficult": "AdaGRPO: share of contexts with D = 1; 0 to 1",
    "discriminable": "AdaGRPO: share of contexts with Q = 1; 0 to 1",
    "short_of_negatives": "AdaGRPO: share with fewer than M negatives, or holes alone; 0 to 1",
}
DEFAULTS = {"mask": "none", "reward": "ranker"}
READS = ("gate", "tau", "rho", "negatives", "rl_weight", *grpo.READS)
OBJECTIVE = Objective(signal, "AdaGRPO", defaults=DEFAULTS, reads=READS, facts=FACTS)
