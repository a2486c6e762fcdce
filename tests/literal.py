"""The formulas over plain Python numbers, one case at a time: what the tests hold minirec against.

Written from the papers' formulas and the written rules, not from the code: no tensors, nothing shared with
minirec. ``tests/vectors`` is checked with it as well, so it is also the shortest program that uses them.
"""

import itertools
import math
from fractions import Fraction


def mean(values):
    """Exact, so that equal rewards lie at exactly 0 from their mean."""
    return sum(Fraction(v) for v in values) / len(values)


def advantages(rewards, ddof=1, eps=1e-6, std=True, leave_one_out=False):
    """A_i = (r_i - baseline) / (std r + ε) of one group."""
    out = []
    for i, reward in enumerate(rewards):
        others = [r for j, r in enumerate(rewards) if j != i]
        baseline = mean(others) if leave_one_out and others else mean(rewards)
        above = float(Fraction(reward) - baseline)
        squares = sum((Fraction(r) - mean(rewards)) ** 2 for r in rewards)
        spread = math.sqrt(squares / max(len(rewards) - ddof, 1))
        out.append(above / (spread + eps) if std else above)
    return out


def dcg(gains, cut=None):
    """Σ_k g_k / log2(k + 1) over the first ``cut`` ranks."""
    counted = gains if cut is None else gains[:cut]
    return sum(max(g, 0.0) / math.log2(k + 1) for k, g in enumerate(counted, start=1))


def ideal(candidates, length, cut=None):
    """The DCG of the best list."""
    return dcg(sorted(candidates, reverse=True)[:length], cut)


def ndcg(gains, best, cut=None):
    """DCG/IDCG; 0 where nothing can be gained."""
    return dcg(gains, cut) / best if best > 0 else 0.0


def swap(gains, best, form="causal", cut=None):
    """How much NDCG falls when k really changes places with j, over the j that the form allows."""
    out = []
    for k in range(len(gains)):
        falls = []
        for j in range(k + 1, len(gains)) if form == "causal" else range(len(gains)):
            if j != k:
                swapped = list(gains)
                swapped[k], swapped[j] = gains[j], gains[k]
                falls.append(ndcg(gains, best, cut) - ndcg(swapped, best, cut))
        out.append(sum(falls) / len(falls) if falls else 0.0)
    return out


def credit(gains, best, form, cut=None):
    """The reward of each position of a list."""
    if form == "list":
        return [ndcg(gains, best, cut)] * len(gains)
    if form == "independent":
        alone = ([g if j == k else 0.0 for j in range(len(gains))] for k, g in enumerate(gains))
        return [ndcg(one, best, cut) for one in alone]
    return swap(gains, best, form, cut)


def list_variance(variances, best):
    """u = Σ_k d_k² Var_k / IDCG²."""
    return sum(v / math.log2(k + 1) ** 2 for k, v in enumerate(variances, start=1)) / best**2


def trust(us):
    """c = 1/(u + ε), ε = 0.1 × mean u, with mean 1."""
    if max(us) == 0:
        return [1.0] * len(us)
    eps = 0.1 * sum(us) / len(us)
    weights = [1 / (u + eps) for u in us]
    return [w * len(us) / sum(weights) for w in weights]


def rank(scores, items, score, item):
    """1 + #{i : score_i > score}; what is the item itself is never above it."""
    return 1 + sum(s > score and i != item for s, i in zip(scores, items, strict=True))


def negatives(groups, own, targets, noise, count):
    """Items said for other contexts, neither said for this one nor its targets, by rising noise."""
    said = {item for row, group in enumerate(groups) if row != own for item in group}
    legal = said - set(groups[own]) - set(targets) - {-1}
    pool = sorted({item for group in groups for item in group} - {-1})
    return sorted(legal, key=lambda item: noise[pool.index(item)])[:count]


def gate(rank_policy, rank_target, rank_negatives, group, tau, rho):
    """D, Q and α = D · Q."""
    difficult = rank_policy > tau * group
    separated = rank_target <= tau * group and all(r > rho * group for r in rank_negatives)
    return difficult, separated, difficult and separated


def prefix_score(code, targets):
    """u: the best φ over the targets."""
    best = 0.0
    for target in targets:
        common = 0
        while common < len(code) and code[common] == target[common]:
            common += 1
        best = max(best, 10.0 ** (common - len(code)) if common else 0.0)
    return best


def repair(codes, targets, likelihood):
    """The rollout that gives way to the target: the lowest u, the least likely, the first. None: a hit."""
    if any(code in targets for code in codes):
        return None
    return min(range(len(codes)), key=lambda i: (prefix_score(codes[i], targets), likelihood[i], i))


def contrast(codes, targets, likelihood):
    """i+ and i-: the likeliest hit and the likeliest nearest miss, then the first. None: one is missing."""
    hits = [i for i, code in enumerate(codes) if code in targets]
    misses = [i for i, code in enumerate(codes) if code not in targets]
    if not hits or not misses:
        return None
    plus = min(hits, key=lambda i: (-likelihood[i], i))
    return plus, min(misses, key=lambda i: (-prefix_score(codes[i], targets), -likelihood[i], i))


def softmax(logits):
    """Probabilities of a table of logits."""
    weights = [math.exp(x - max(logits)) for x in logits]
    return [w / sum(weights) for w in weights]


def policy_gradient(logits, rewards):
    """∂/∂logit_k of Σ_y π(y) r(y)."""
    p = softmax(logits)
    value = sum(a * r for a, r in zip(p, rewards, strict=True))
    return [a * (r - value) for a, r in zip(p, rewards, strict=True)]


def expected_group_gradient(logits, rewards, group, **convention):
    """E[1/G Σ_i A_i ∇ log π(y_i)] over every group that can be drawn."""
    p, total = softmax(logits), [0.0] * len(logits)
    for drawn in itertools.product(range(len(logits)), repeat=group):
        chance = math.prod(p[y] for y in drawn)
        for y, a in zip(drawn, advantages([rewards[y] for y in drawn], **convention), strict=True):
            for k in range(len(logits)):
                total[k] += chance * a * ((y == k) - p[k]) / group
    return total
