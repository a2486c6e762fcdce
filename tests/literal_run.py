"""Training written out: one context, one sequence and one code at a time, float64, with an Adam of its own.

Who comes in a step, and the noise, are those of ``step_rows``, ``needs_of_step`` and ``stream``.
"""

import copy
import math

import pytest
import torch

from minirec.data.lists import NEEDS, needs_of_step
from minirec.noise import stream
from minirec.records import LIST, PAD, Batch
from minirec.tasks import step_rows
from tests import literal
from tests.small_experience import anything, catalogue, closed, literal_loss, tokens


def exact(policy, learns=False):
    """Copy a policy in float64."""
    return copy.deepcopy(policy).eval().double().requires_grad_(learns)


def uniform(use, cfg, step, *shape):
    """Draw the noise of a step."""
    return torch.rand(shape, generator=stream(use, cfg.seed, step), dtype=torch.float64).tolist()


class Adam:
    """Adam with bias correction on a gradient that is cut to a norm; with ``decay`` it is AdamW."""

    def __init__(self, policy, clip, decay=0.0):
        self.parameters, self.clip, self.decay, self.count = list(policy.parameters()), clip, decay, 0
        self.first, self.second = ([torch.zeros_like(p) for p in self.parameters] for _ in range(2))
        self.norms = []  # of the gradients before they are cut

    def step(self, loss, rate):
        slopes = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
        norm = math.sqrt(sum((slope**2).sum().item() for slope in slopes))
        self.norms.append(norm)
        self.count += 1
        for p, slope, first, second in zip(self.parameters, slopes, self.first, self.second, strict=True):
            slope = slope * min(1.0, self.clip / norm)
            first.copy_(0.9 * first + 0.1 * slope)
            second.copy_(0.98 * second + 0.02 * slope**2)
            spread = (second / (1 - 0.98**self.count)).sqrt() + 1e-8
            p.data -= rate * (first / (1 - 0.9**self.count) / spread + self.decay * p.data)


def contexts_of(examples, rows, history, conditions=None):
    """Make a Batch of some contexts, with every history cut out by hand."""
    past = [
        examples.events[max(a, b - history) : b].tolist()
        for a, b in zip(examples.start[rows].tolist(), examples.stop[rows].tolist(), strict=True)
    ]
    width = max(map(len, past), default=0)
    padded = torch.tensor([items + [PAD] * (width - len(items)) for items in past])
    condition = examples.condition[rows] if conditions is None else torch.tensor(conditions)
    return Batch(examples.user[rows], padded, condition, examples.targets[rows], padded)


def say(policy, batch, trie, b, noise, legal):
    """Say a sequence [P][L]: the first code whose share of the cumulative sum is above the noise [P][L].

    In place of a number None takes the likeliest code.
    """
    past = [code for item in batch.history[b].tolist() if item != PAD for code in trie.codes[item].tolist()]
    said = []
    for place in noise:
        code = []
        for level, u in enumerate(place):
            text = torch.tensor([past + [c for item in said for c in item] + code], dtype=torch.int64)
            hidden = policy.trunk(batch.condition[b : b + 1], text)[0][0, -1]
            may = sorted(legal(b, said, code))
            p = (policy.code.weight[[level * trie.size + c for c in may]] @ hidden).softmax(0)
            code.append(may[p.argmax() if u is None else (p.cumsum(0) <= u).sum()])
        said.append(code)
    return said


def likelihood(policy, batch, trie, b, said, legal):
    """Give log π of a sequence, in nats."""
    return sum(t.item() for item in tokens(policy, batch, trie, b, said, legal) for t in item)


def next_items(cfg, start, trie, examples, learn):
    """Train by GRPO on hits under the trie, or without ``learn`` by NLL; return the policy and its lines."""
    now, anchor, lines = exact(start, learns=True), exact(start), []
    adam, items, legal = Adam(now, cfg.clip), trie.codes.tolist(), catalogue(trie)
    for step in range(cfg.rl_steps):
        rows = step_rows(len(examples), cfg.contexts, cfg.seed, step)
        batch, sequences, rewards, entropy = contexts_of(examples, rows, cfg.history), [], [], []
        noise = uniform("rollouts", cfg, step, len(rows), cfg.group, trie.levels)
        for b in range(len(rows)):
            group = [say(now, batch, trie, b, [u], legal) for u in noise[b]]
            rewards.append([float(items.index(said[0]) == batch.targets[b, 0]) for said in group])
            entropy += [-likelihood(now, batch, trie, b, said, legal) for said in group]
            worth = literal.advantages(rewards[b])
            sequences += [(b, said, [a]) for said, a in zip(group, worth, strict=True)]
        of = (cfg, trie, batch, sequences if learn else [], cfg.group, legal, now, None, anchor)
        loss = literal_loss(*of, nll=not learn)
        adam.step(loss, cfg.rl_rate)
        lines.append(line(loss, adam, rewards, entropy))
    return now, lines


def line(loss, adam, rewards, entropy):
    """Make the line that a step logs."""
    return {
        "loss": loss.item(),
        "gradient_norm": adam.norms[-1],
        "reward": sum(map(sum, rewards)) / len(entropy),
        "silent": sum(len(set(group)) == 1 for group in rewards) / len(rewards),
        "entropy": sum(entropy) / len(entropy),
    }


def sets_of(cfg, source, rows, needs):
    """Gather the contexts of closed sets, their candidates, and the gains for their needs, [B][C]."""
    told = [[LIST, *list(NEEDS.values())[n], 0] for n in needs]  # a log has no periods
    batch = contexts_of(source.contexts, rows, cfg.history, told)
    return batch, source.candidates[rows].tolist(), source.gains[needs, rows].tolist()


def known(critic, batch, candidates, gains, seen):
    """Fill what was not seen with the critic's mean, from 0 to 1; return gains and variance, [B][C]."""
    mean, variance = (x.tolist() for x in critic(batch, torch.tensor(candidates)))
    filled = [
        [g if s else min(1.0, max(0.0, m)) for g, s, m in zip(*of, strict=True)]
        for of in zip(gains, seen, mean, strict=True)
    ]
    return filled, variance


def rankings(cfg, start, trie, source, critic, form, trusting):
    """Train by FlexRec with a form of credit, "list" is the baseline; return the policy and its lines."""
    now, anchor, lines = exact(start, learns=True), exact(start), []
    adam, items = Adam(now, cfg.clip), trie.codes.tolist()
    for step in range(cfg.rl_steps):
        rows = step_rows(len(source), cfg.contexts, cfg.seed, step)
        batch, sets, gains = sets_of(cfg, source, rows, needs_of_step(cfg.seed, step, len(rows)).tolist())
        gains, variance = known(critic, batch, sets, gains, source.observed[rows].tolist())
        legal, sequences, rewards, entropy, us = closed(trie, torch.tensor(sets)), [], [], [], {}
        noise = uniform("rollouts", cfg, step, len(rows), cfg.group, len(sets[0]), trie.levels)
        for b, candidates in enumerate(sets):
            group = [say(now, batch, trie, b, u, legal) for u in noise[b]]
            entropy += [-likelihood(now, batch, trie, b, said, legal) for said in group]
            best, places = literal.ideal(gains[b], len(candidates)), []
            for said in group:
                places.append([candidates.index(items.index(code)) for code in said])
            ordered = [[gains[b][k] for k in place] for place in places]
            rewards.append([literal.ndcg(order, best) for order in ordered])
            if best == 0:
                continue
            spread = [[variance[b][k] for k in place] for place in places]
            us[b] = sum(literal.list_variance(v, best) for v in spread) / len(spread)
            credits = [literal.credit(order, best, form) for order in ordered]
            columns = [literal.advantages(column) for column in zip(*credits, strict=True)]
            sequences += [(b, said, a) for said, a in zip(group, zip(*columns, strict=True), strict=True)]
        weight = dict(zip(us, literal.trust(list(us.values())), strict=True)) if trusting else {}
        sequences = [(b, said, [weight.get(b, 1.0) * x for x in a]) for b, said, a in sequences]
        loss = literal_loss(cfg, trie, batch, sequences, cfg.group, legal, now, None, anchor)
        adam.step(loss, cfg.rl_rate)
        lines.append(line(loss, adam, rewards, entropy) | {"admitted": len(us) / len(rows)})
    return now, lines


def next_item_scores(policy, trie, batch, sets):
    """Give log π of every candidate as the next item, under the trie, without list mode and need."""
    condition = batch.condition.clone()
    condition[:, :3] = 0
    plain = Batch(batch.user, batch.history, condition, batch.targets, batch.seen)
    legal, codes = catalogue(trie), trie.codes.tolist()
    return [[likelihood(policy, plain, trie, b, [codes[i]], legal) for i in s] for b, s in enumerate(sets)]


def imitate(cfg, start, trie, source, steps, rate, scores):
    """Train by NLL on rankings by falling scores, made by ``scores`` from (rows, batch, sets, gains).

    Returns the policy, and the norms of the gradients.
    """
    now, codes = exact(start, learns=True), trie.codes.tolist()
    adam = Adam(now, cfg.clip)
    for step in range(steps):
        rows = step_rows(len(source), cfg.contexts, cfg.seed, step)
        batch, sets, gains = sets_of(cfg, source, rows, needs_of_step(cfg.seed, step, len(rows)).tolist())
        value, legal, every = scores(rows, batch, sets, gains), closed(trie, torch.tensor(sets)), []
        for b, candidates in enumerate(sets):
            order = sorted(range(len(candidates)), key=lambda k: -value[b][k])  # equal ones as they stand
            said = [codes[candidates[k]] for k in order]
            every += [t for item in tokens(now, batch, trie, b, said, legal) for t in item]
        adam.step(-sum(every) / len(every), rate)
    return now, adam.norms


def nll(policy, batch, trie, b):
    """Sum −log π of the items of a history, each after those before it, in nats."""
    said = [trie.codes[item].tolist() for item in batch.history[b].tolist() if item != PAD]
    nothing = Batch(batch.user, batch.history[:, :0], batch.condition, batch.targets, batch.seen)
    return -sum(t for item in tokens(policy, nothing, trie, b, said, anything(trie)) for t in item)


def assert_moved_alike(policy, by_hand, start):
    """Compare how weights moved.

    One is float32, and Adam divides small gradients by their own size: up to 1e-5 was measured.
    """
    parts = zip(policy.parameters(), by_hand.parameters(), start.parameters(), strict=True)
    pairs = [((one.double() - old).flatten(), (two - old).flatten()) for one, two, old in parts]
    one, two = (torch.cat(side) for side in zip(*pairs, strict=True))
    assert (one - two).norm() < 1e-4 * two.norm()


def assert_lines(found, expected):
    """Compare the numbers of lines; those of the written-out run are a subset."""
    for line, want in zip(found, expected, strict=True):
        # float32; the loss itself is a sum of advantages that cancel
        assert {name: line[name] for name in want} == pytest.approx(want, rel=1e-3, abs=1e-6)


def estimates(rewards):
    """Estimate the mean of rewards (B, G), and its standard error: rollouts are independent."""
    size, group = rewards.shape
    error = sum((row - row.mean()).square().sum() / (group - 1) / group for row in rewards)
    return {"estimate": rewards.mean(1), "estimate_error": error.sqrt() / size}
