"""ReCast: repair groups without a hit, then learn from one pair (2604.22169).

With sparse hits most groups hold no positive, and group normalisation learns nothing from them.

    φ(p, t) = 1 if p = t; 0.1 if only the first two codes match; 0.01 if only the first; else 0    [paper]
    u_i = max over targets t of φ(y_i, t), the paper's mean over a list of one item                [paper]
    repair   (only if Σ r_i = 0): put the target in the place of argmin_i u_i; recompute r, u      [paper]
    contrast (learnable groups):  i+ = argmax_i r_i,  i- = argmax_{i: r_i = 0} u_i,
                                  the longest prefix match; no such miss: skip the group           [paper]
                                  A_{i+} = +w, A_{i-} = -w, others 0;  w = 1                       [paper]

then the shared clipped loss with KL, on those two sequences only [paper]. u chooses inside the group and
never becomes a reward [paper]. The other G - 2 rollouts are not in the signal, so neither the old nor the
reference nor the actor's pass computes them [paper]: the search is G wide, the update 2.

Ours: ties. Repair replaces the least likely among equals; i+ and i- take the likeliest; then the lowest
index. Of several targets the first one repairs. The inserted target was not sampled: its old log-probability
is the current policy's, so its ratio starts at 1. The divisor is B × 2, however many groups are learnable.
``--no-contrast`` is GRPO on the repaired groups. Left out: u over lists of several items (ours have one).
"""

from dataclasses import replace

import torch
from torch import Tensor

from minirec import rewards
from minirec.noise import sent
from minirec.objectives import grpo
from minirec.records import Experience, Objective, Signal


def choose(first: Tensor, then: Tensor) -> Tensor:
    """Pick per row of (B, G) the largest ``first``, among equals the largest ``then``, then the lowest index.

    -inf in ``first`` is never picked where anything else is. Returns (B,) int64. Source: ours (the tie rule).
    """
    return then.masked_fill(first < first.amax(1, keepdim=True), float("-inf")).argmax(1)


def repair(hits: Tensor, score: Tensor, likelihood: Tensor) -> tuple[Tensor, Tensor]:
    """Say which groups get the target, (R,) rows without a hit, and in whose place, (R,) rollouts.

    Hits of 0 and 1, u, and log-probabilities in nats, (B, G) each.
    Source: ReCast (2604.22169), repair; the tie rule is ours.
    """
    rows = (hits.sum(1) == 0).nonzero()[:, 0]
    return rows, choose(-score[rows], -likelihood[rows])


def contrast(hits: Tensor, score: Tensor, likelihood: Tensor) -> tuple[Tensor, Tensor]:
    """Pick the pair that a group learns from: the learnable rows (R,), and their i+ and i- (R, 2).

    The arguments are those of ``repair``; a learnable row has a hit and a miss.
    Source: ReCast (2604.22169), contrast; the tie rule is ours.
    """
    rows = ((hits > 0).any(1) & (hits == 0).any(1)).nonzero()[:, 0]
    hits, score, likelihood = hits[rows], score[rows], likelihood[rows]
    near = score.masked_fill(hits > 0, float("-inf"))
    return rows, torch.stack([choose(hits, likelihood), choose(near, likelihood)], 1)


def outcomes(hits: Tensor, name: str = "") -> dict[str, Tensor]:
    """Count the groups (B, G) without a hit, with hits and misses, and with hits only."""
    hit, miss = (hits > 0).any(1), (hits == 0).any(1)
    counts = {"all_zero": ~hit, "mixed": hit & miss, "all_hit": ~miss}
    return {f"{name}{outcome}": which.sum() for outcome, which in counts.items()}


def signal(x: Experience) -> Signal:
    """One hit and one near miss (S = 2) of the R groups that have both; all rollouts without contrast."""
    cfg = x.cfg
    items, codes = x.rollout.items[..., 0].clone(), x.rollout.codes.clone()  # (B, G), (B, G, 1, L)
    targets = x.trie.encode(x.batch.targets)  # (B, n, L)
    likelihood = x.rollout.logp.sum((2, 3))  # (B, G)
    hits, score = rewards.hit(items, x.batch.targets), rewards.prefix_score(codes[:, :, 0], targets)
    facts = outcomes(hits)
    if cfg.repair:
        rows, place = repair(hits, score, likelihood)
        items[rows, place], codes[rows, place, 0] = x.batch.targets[rows, 0], targets[rows, 0]
        hits, score = rewards.hit(items, x.batch.targets), rewards.prefix_score(codes[:, :, 0], targets)
        facts |= outcomes(hits, "repaired_")
    if not cfg.contrast:
        rollout = replace(x.rollout, items=items[..., None], codes=codes)
        whole = replace(x, rollout=rollout, rewards=hits.to(x.rewards))
        return replace(grpo.signal(whole), facts=facts)
    rows, pair = contrast(hits, score, likelihood)
    advantage = sent(torch.tensor([[1.0], [-1.0]]), items.device).expand(len(rows), 2, 1)
    return Signal(rows, codes[rows[:, None], pair], advantage, width=2, facts=facts)


SHARES = {"all_zero": "without a hit", "mixed": "with hits and misses", "all_hit": "without a miss"}
FACTS = {name: f"ReCast: share of groups {which}, before repair; 0 to 1" for name, which in SHARES.items()}
FACTS |= {f"repaired_{name}": "the same after repair" for name in SHARES}
READS = ("repair", "contrast", "rollouts", "mask", *grpo.WEIGHED)
OBJECTIVE = Objective(signal, "ReCast", reads=READS, facts=FACTS)
