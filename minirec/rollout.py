"""Rollouts: sampling, beam search, and the ranking of a closed candidate set.

All of them branch on a prompt that was encoded once, and all take their probabilities from
``policy.token_logprobs``. With a trie as mask only items can be said; without it, any code tuple. None has
gradients, and none changes the policy's mode: dropout is off only if the caller has set ``eval()``.
"""

import torch
from torch import Tensor

from minirec.errors import InputError
from minirec.noise import draw, wide
from minirec.policy import MASKED, Policy, Prompt, score, token_logprobs
from minirec.records import HOLE, PAD, Rollout
from minirec.trie import Trie


def refuse_nan(logp: Tensor) -> Tensor:
    """Raise InputError where a policy has nothing to say, because its training has diverged."""
    if logp.isnan().any():  # asked once, behind the last code: a GPU waits for the answer
        raise InputError("the policy's log-probabilities are not finite; start again with a lower rate")
    return logp


def pick(logp: Tensor, allowed: Tensor | None, noise: Tensor) -> Tensor:
    """Draw by log-probabilities (..., V), with noise (..., n): (..., n); where NaN, from what is allowed."""
    return draw(wide(logp).exp().where(~logp.isnan(), 1.0 if allowed is None else wide(allowed)), noise)


@torch.no_grad()
def sample(
    policy: Policy,
    prompt: Prompt,
    trie: Trie,
    noise: Tensor,
    constrained: bool = True,
) -> Rollout:
    """Sample G next items for each of B contexts: a Rollout with P = 1.

    The noise (B, G, L) is float64 uniform in [0, 1), one number per code. ``constrained`` masks with the
    trie; otherwise tuples that are no item (HOLE) can come out. Source: definition.
    """
    node = torch.zeros(1, 1, dtype=torch.int64, device=noise.device)  # the root, for all
    codes, logps, past = [], [], None
    for level in range(trie.levels):
        hidden, past = policy.follow(prompt, codes, past)
        allowed = trie.allowed(level, node) if constrained else None
        logp = token_logprobs(policy.level_logits(hidden, level), allowed)  # (B, 1 or G, V)
        numbers = noise[..., level].unflatten(1, (logp.shape[1], -1))  # (B, 1, G) or (B, G, 1)
        code = pick(logp, allowed, numbers).flatten(1)  # (B, G)
        node = trie.descend(level, node, code)  # (B, G)
        codes.append(code)
        logps.append(logp.expand(*code.shape, -1).gather(-1, code[..., None])[..., 0])
    items = torch.where(node >= 0, trie.item[node.clamp(min=0)], HOLE)
    codes, logps = (torch.stack(part, -1)[:, :, None] for part in (codes, logps))  # (B, G, 1, L)
    return Rollout(items[..., None], codes, refuse_nan(logps))


@torch.no_grad()
def beam(
    policy: Policy, prompt: Prompt, trie: Trie, width: int, constrained: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Beam search; width 1 is greedy decoding, and width N under the trie a ranking of all items.

    ``width`` W beams are kept at every level, fewer where fewer tuples exist. Returns items (B, W) best
    first, their log-probabilities (B, W) float32 and their codes (B, W, L). A beam without an item to say is
    PAD with log-probability -inf. Equal beams are ordered as torch.topk does. Source: definition.
    """
    rows = torch.arange(len(prompt.last), device=prompt.last.device)[:, None]  # (B, 1)
    node, total = torch.zeros_like(rows), torch.zeros(rows.shape, device=rows.device)
    codes, past = rows.new_empty(len(rows), 1, 0), None  # (B, 1, 0)
    for level in range(trie.levels):
        hidden, past = policy.follow(prompt, codes.unbind(-1), past)  # (B, W, d)
        allowed = trie.allowed(level, node) if constrained else None
        logp = token_logprobs(policy.level_logits(hidden, level), allowed)  # (B, W, V)
        every = (total[..., None] + logp).flatten(1)  # (B, W*V)
        total, best = every.topk(min(width, every.shape[1]))
        parent, code = best // trie.size, best % trie.size
        codes = torch.cat([codes[rows, parent], code[..., None]], -1)
        past = past and [(k[rows, parent], v[rows, parent]) for k, v in past]
        dead = ~(total > MASKED / 2)  # fewer tuples than beams, or NaN: this one goes on from the root
        node = trie.descend(level, node.gather(1, parent), code).masked_fill(dead, 0)
    items = torch.where(node >= 0, trie.item[node.clamp(min=0)], HOLE).masked_fill(dead, PAD)
    return items, refuse_nan(total).masked_fill(dead, float("-inf")), codes


@torch.no_grad()
def best(policy: Policy, prompt: Prompt, trie: Trie, width: int) -> tuple[Tensor, Tensor]:
    """Rank items (B, W), best first, by log-probabilities (B, W) in nats: a beam search under the trie.

    A policy that ``rescores`` orders what the search found by its items' vectors. PAD with -inf stands where
    no item is left. Source: beams re-ranked by vectors as in LIGER (2411.18814).
    """
    items, total, _ = beam(policy, prompt, trie, width)
    if policy.rescores:
        told = policy.item_logprobs(prompt.last).gather(1, items.clamp(min=0))
        total, order = told.masked_fill(items < 0, -torch.inf).sort(dim=1, descending=True, stable=True)
        items = items.gather(1, order)
    return items, total


@torch.no_grad()
def beam_group(policy: Policy, prompt: Prompt, trie: Trie, group: int, constrained: bool) -> Rollout:
    """Take the beams of one beam search as a group: G different items, likeliest first, none of them drawn.

    Raises ValueError where there are fewer than G tuples to say. Source: OpenOneRec-RL (2512.24762).
    """
    items, total, codes = beam(policy, prompt, trie, group, constrained)
    if items.shape[1] < group or total.isinf().any():
        raise ValueError(f"group: a beam search cannot give {group} different items here")
    allowed = trie.masks(codes)[:, :, None] if constrained else None
    codes = codes[:, :, None]  # (B, G, 1, L)
    return Rollout(items[..., None], codes, score(policy, prompt, codes, allowed), sampled=False)


def closed_masks(candidates: Tensor, codes: Tensor, size: int) -> Tensor:
    """The mask at every step of rankings of a closed candidate set; ``rank`` makes the same step by step.

    Candidates' codes (B, C, L) and ranked codes (B, G, P, L), P <= C candidates in order, with ``size`` V.
    Returns (B, G, P, L, V) bool, the codes that could still lead to a candidate. Source: ours.
    """
    same = candidates[:, None, :, None] == codes[:, :, None]  # (B, G, C, P, L)
    placed = same.all(-1)  # (B, G, C, P)
    alive = placed.long().cumsum(-1) - placed.long() == 0  # not placed before position P
    prefix = torch.cat([torch.ones_like(same[..., :1]), same[..., :-1]], -1).cumprod(-1).bool()
    live = (alive[..., None] & prefix).permute(0, 1, 3, 4, 2)  # (B, G, P, L, C)
    index = candidates.transpose(1, 2)[:, None, None].expand_as(live)  # (B, G, P, L, C)
    mask = torch.zeros(*live.shape[:-1], size, device=codes.device, dtype=torch.uint8)
    return mask.scatter_reduce_(-1, index, live.to(torch.uint8), "amax").bool()


@torch.no_grad()
def rank(
    policy: Policy, prompt: Prompt, trie: Trie, candidates: Tensor, noise: Tensor | None = None
) -> Rollout:
    """Rank a closed candidate set: items are emitted one after another, masked to those that remain.

    Candidates (B, C) are distinct in a row, without padding, or a ValueError is raised. Noise (B, G, K, L)
    samples G lists of K <= C items; without it, one greedy ranking of all C is made (G = 1). The last of C
    items has log-probability exactly 0, as it is the only one left.
    Source: FlexRec's closed-set autoregressive ranking (2603.11901); the mask by alive candidates is ours.
    """
    size, total = candidates.shape
    group, length = (1, total) if noise is None else noise.shape[1:3]
    if (candidates < 0).any() or (candidates.sort(-1).values.diff() == 0).any():
        raise ValueError("candidates: expected distinct items without padding in every row")
    if length > total:
        raise ValueError(f"noise: lists of {length} from {total} candidates")
    table = trie.codes[candidates]  # (B, C, L)
    alive = torch.ones(size, group, total, dtype=torch.bool, device=candidates.device)
    items, codes, logps, past = [], [], [], None
    for place in range(length):
        match = alive
        for level in range(trie.levels):
            hidden, past = policy.follow(prompt, codes, past)
            logits = policy.level_logits(hidden.expand(-1, group, -1), level)  # (B, G, V)
            column = table[:, None, :, level].expand_as(match)  # (B, G, C)
            mask = torch.zeros(size, group, trie.size, dtype=torch.uint8, device=candidates.device)
            allowed = mask.scatter_reduce_(-1, column, match.to(torch.uint8), "amax").bool()
            logp = token_logprobs(logits, allowed)
            if noise is None:
                code = logp.argmax(-1)  # (B, G)
            else:
                code = pick(logp, allowed, noise[:, :, place, level, None])[..., 0]
            match = match & (column == code[..., None])
            codes.append(code)
            logps.append(logp.gather(-1, code[..., None])[..., 0])
        items.append(candidates[:, None].expand_as(match).gather(-1, match.int().argmax(-1, True))[..., 0])
        alive = alive & ~match
    codes, logps = (torch.stack(part, -1).unflatten(-1, (length, trie.levels)) for part in (codes, logps))
    return Rollout(torch.stack(items, -1), codes, refuse_nan(logps))
