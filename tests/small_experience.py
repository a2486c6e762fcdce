"""Small Experiences, and the slow way to their loss: one sequence at a time, one code at a time."""

import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import torch

from minirec.objectives.loss import Loss, logprobs
from minirec.records import PAD, Batch, Experience, Lists, Rollout
from minirec.rollout import closed_masks, rank, sample
from tests.small import make

CONDITION = torch.tensor([[0, 0, 0, 1], [0, 0, 0, 2], [0, 2, 1, 0], [0, 1, 1, 3]])
HISTORY = torch.tensor([[1, 2, 3, 4], [5, 6, PAD, PAD], [PAD] * 4, [7, PAD, PAD, PAD]])
TARGETS = torch.tensor([[0, 9], [4, PAD], [11, PAD], [15, 3]])
CANDIDATES = torch.tensor([[3, 17, 9, 8], [0, 1, 2, 3], [19, 5, 10, 11], [6, 4, 13, 2]])
GAINS = torch.tensor([[0, 1, 0.5, 0], [0.25, 0.75, 0.5, 1], [0, 0, -1, 0], [-0.5, 1, 0.25, 0]])


def uniform(*shape, seed=0):
    """Noise, float64."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch_of(targets=TARGETS):
    """Four contexts of unequal length, the third without a history."""
    return Batch(torch.arange(4), HISTORY, CONDITION, targets, HISTORY)


def experience(cfg, trie, batch, rollout, worth, logp, lists=None, constrained=True):
    """An Experience of one process. ``worth`` (B, N) is the reward of each item; a hole has 0."""

    def reward(items):
        return torch.where(items >= 0, worth.gather(1, items.clamp(min=0)), 0.0)

    own = reward(rollout.items[..., 0]).double()  # advantages are then those of float64, rounded once
    mine = torch.arange(len(batch))

    def noise(count):
        return uniform(len(batch), count, seed=cfg.seed)

    def masks(signal):
        if lists is not None:
            return closed_masks(trie.codes[lists.candidates[signal.rows]], signal.codes, trie.size)
        return trie.masks(signal.codes) if constrained else None

    return Experience(
        cfg, trie, batch, rollout, own, masks, mine, lambda x: x, noise, reward, logp, lists=lists
    )


def next_item(cfg, constrained=True, seed=0):
    """The policy, and what it says in four contexts; rewards are multiples of 1/8."""
    policy, trie, _ = make(items=20, size=4, seed=seed)
    batch = batch_of()
    prompt = policy.encode(batch.condition, trie.encode(batch.history))
    rollout = sample(policy, prompt, trie, uniform(4, cfg.group, 3, seed=seed), constrained)
    acting = copy.deepcopy(policy)  # the caller may change the other
    worth = (uniform(4, 20, seed=seed + 1) * 8).round().float() / 8

    @torch.no_grad()
    def logp(items):
        prior = [
            [sum(map(sum, tokens(acting, batch, trie, b, [trie.codes[i].tolist()], legal))) for i in row]
            for b, row in enumerate(items.tolist())
        ]
        return torch.tensor(prior)

    legal = catalogue(trie) if constrained else anything(trie)
    return policy, experience(cfg, trie, batch, rollout, worth, logp, constrained=constrained)


def by_hand(cfg, items, likelihood, worth, targets):
    """An Experience without a policy: who said what, and log π and reward of each item from tables (B, N).

    The last column of ``likelihood`` is a hole's. A second scoring differs by 1e-6, as two passes do.
    """
    size, trie = len(items), make(items=worth.shape[1], size=4)[1]
    codes = trie.encode(items).clamp(min=0)[:, :, None]  # (B, G, 1, L)
    logp = torch.zeros(codes.shape)
    logp[..., 0, 0] = likelihood.gather(1, items % likelihood.shape[1])
    none = torch.zeros(size, 0, dtype=torch.int64)
    batch = Batch(torch.arange(size), none, torch.zeros(size, 4, dtype=torch.int64), targets, none)
    rollout = Rollout(items[..., None], codes, logp)
    return experience(cfg, trie, batch, rollout, worth, lambda which: likelihood.gather(1, which) - 1e-6)


def lists(cfg, candidates=CANDIDATES, gains=GAINS, seed=0):
    """The policy, and how it ranks closed sets in four contexts, of which the third has nothing to gain."""
    policy, trie, _ = make(items=20, size=4, seed=seed)
    batch, (_, total) = batch_of(), candidates.shape
    prompt = policy.encode(batch.condition, trie.encode(batch.history))
    rollout = rank(policy, prompt, trie, candidates, uniform(4, cfg.group, total, 3, seed=seed))
    variance = uniform(4, total, seed=seed + 1).float()
    known = Lists(batch, candidates, gains.float(), torch.ones_like(candidates).bool(), variance)
    return policy, experience(cfg, trie, batch, rollout, torch.zeros(4, 20), lambda items: None, known)


LISTS = ("candidates", "gains", "observed", "variance")


# What may be said after a prefix, as Python sets


def anything(trie):
    """Every code."""
    return lambda b, said, prefix: set(range(trie.size))


def catalogue(trie):
    """Codes that lead to an item."""
    every = trie.codes.tolist()
    return lambda b, said, prefix: {c[len(prefix)] for c in every if c[: len(prefix)] == prefix}


def closed(trie, candidates):
    """Codes that lead to a candidate that was not said."""
    every = trie.codes[candidates].tolist()

    def legal(b, said, prefix):
        return {c[len(prefix)] for c in every[b] if c not in said and c[: len(prefix)] == prefix}

    return legal


def tokens(policy, batch, trie, b, codes, legal):
    """log π of every code of one sequence [P][L], by one pass over prompt and sequence as one text."""
    past = [code for item in batch.history[b].tolist() if item != PAD for code in trie.codes[item].tolist()]
    text = past + [code for item in codes for code in item]
    hidden = policy.trunk(batch.condition[b : b + 1], torch.tensor([text]))[0][0]  # (1 + S, d)
    out, place = [], len(past)
    for p, item in enumerate(codes):
        out.append([])
        for level, code in enumerate(item):
            logits = policy.code.weight[level * trie.size : (level + 1) * trie.size] @ hidden[place]
            may = sorted(legal(b, codes[:p], item[:level]))
            out[-1].append(logits[code] - logits[may].logsumexp(0))
            place += 1
    return out


def literal_loss(cfg, trie, batch, sequences, width, legal, now, old, reference, nll=False, weight=1.0):
    """The shared loss. ``sequences`` holds (context, codes [P][L], advantages [P]); ``old`` None: ρ = 1."""
    loss, size = 0.0, len(batch)
    for b, codes, advantages in sequences:
        mine = tokens(now, batch, trie, b, codes, legal)
        before = mine if old is None else tokens(old, batch, trie, b, codes, legal)
        anchor = tokens(reference, batch, trie, b, codes, legal)
        terms = []
        for p, a in enumerate(advantages):
            for logp, was, ref in zip(mine[p], before[p], anchor[p], strict=True):
                ratio, d = (logp - was.detach()).exp(), ref.detach() - logp
                free, clipped = ratio * a, ratio.clamp(1 - cfg.clip_low, 1 + cfg.clip_high) * a
                terms.append(-(free if free <= clipped else clipped) + cfg.kl * (d.exp() - d - 1))
        loss = loss + weight * sum(terms) / len(terms) / (size * width)
    for b in range(size) if nll else []:
        targets = [trie.codes[item].tolist() for item in batch.targets[b].tolist() if item != PAD]
        every = [t for code in targets for t in tokens(now, batch, trie, b, [code], anything(trie))[0]]
        loss = loss - sum(every) / len(every) / size
    return loss


def moved(policy, by, seed):
    """A copy in float64 with noise in every weight."""
    other, random = copy.deepcopy(policy).double(), torch.Generator().manual_seed(seed)
    for parameter in other.parameters():
        noise = torch.randn(parameter.shape, generator=random, dtype=torch.float64)
        parameter.data += by * noise
    return other


def learned(x, signal, now, old, reference):
    """The code under test: the loss and its facts, float64."""
    allowed = x.masks(signal)
    with torch.no_grad():
        ref = logprobs(reference, x.trie, x.batch, signal, allowed)
        was = None if old is None else logprobs(old, x.trie, x.batch, signal, allowed)
    return Loss(now, x.trie, x.cfg)(x.batch, signal, allowed, was, ref, len(x.batch))


def gradient(loss, policy):
    """All parameters' gradients as one vector."""
    parts = torch.autograd.grad(loss, list(policy.parameters()), materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])


def part(signal, mine):
    """What of a signal falls to some of the contexts, (b,), in their numbering."""
    place = {row: i for i, row in enumerate(signal.rows.tolist())}
    own = [(i, place[b]) for i, b in enumerate(mine.tolist()) if b in place]
    rows, which = torch.tensor(own, dtype=torch.int64).view(-1, 2).T
    return replace(signal, rows=rows, codes=signal.codes[which], advantages=signal.advantages[which])


def processes(x, objective, shares):
    """The signals of several processes, each with its share of the contexts (b,), in threads."""
    barrier, given = Barrier(len(shares)), {}

    def one(mine):
        def gather(value):
            whole = given.setdefault(calls[0], value.new_zeros(len(x.batch), *value.shape[1:]))
            calls[0] += 1
            whole[mine] = value
            barrier.wait(10)
            return whole.clone()

        def reward(items):
            whole = items.new_full((len(x.batch), items.shape[1]), PAD)
            whole[mine] = items
            return x.reward(whole)[mine]

        def logp(items):
            whole = items.new_zeros(len(x.batch), items.shape[1])
            whole[mine] = items
            return x.logp(whole)[mine]

        calls, r = [0], x.rollout
        rollout, batch = Rollout(r.items[mine], r.codes[mine], r.logp[mine]), x.batch.select(mine)
        own = {"batch": batch, "rollout": rollout, "rewards": x.rewards[mine], "part": mine}
        if x.lists is not None:
            own["lists"] = Lists(batch, **{name: getattr(x.lists, name)[mine] for name in LISTS})
        return objective(replace(x, gather=gather, reward=reward, logp=logp, **own))

    with ThreadPoolExecutor(len(shares)) as pool:
        return list(pool.map(one, shares))
