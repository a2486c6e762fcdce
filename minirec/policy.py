"""The policy: a decoder-only transformer over code tokens, and the one function that scores with it.

The sequence is one condition position, then the L codes of each item of the history:

    [condition]  c_1^1 c_1^2 c_1^3  c_2^1 c_2^2 c_2^3  ...

Position p predicts the token at p + 1, so the level it predicts is p mod L: the level follows from the
position, and each level has its own softmax over its own V codes. Input and output embeddings are tied.
With one code per item (L = 1, V = N) this is SASRec, trained with cross-entropy over all items, but for the
condition, the rotary positions and details of the block (ours).

The condition position carries the sum of four embeddings: mode, novel, trend, period (ours).

Items may have vectors (ours): an own one each, plus the sum of those of the item's codes. With several codes,
an own vector is added where its item ends in a prompt, and the state before an item scores the vectors of all
items: that orders the beams of a search, after LIGER (2411.18814), and nothing is sampled by it. With one
code per item they are its embedding, so that similar items share a part of it.

Three forward passes agree to 1e-5 (tested): ``forward`` scores whole sequences for supervised training;
``encode`` computes a prompt once and keeps its keys and values; ``branch`` continues it with G sequences.

A policy that is sampled under one mask or temperature and scored under another optimises something that was
never sampled. So the sampler and the loss both call ``token_logprobs``, and nothing else makes probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minirec.settings import PolicyConfig
from minirec.trie import Trie

KeyValue = tuple[Tensor, Tensor]
Cache = list[KeyValue]  # per block: keys and values
MASKED = -1e9  # a masked logit; finite, so that p * log p is 0 and not NaN


def token_logprobs(logits: Tensor, allowed: Tensor | None = None, temperature: float = 1.0) -> Tensor:
    """Log-softmax over the codes of one level, (..., V) in nats, masked before it is normalised.

    ``allowed`` (..., V) bool marks the codes that may follow; one that may not has probability exactly 0.
    The temperature divides the logits before the mask. Source: definition.
    """
    logits = logits / temperature if temperature != 1.0 else logits
    if allowed is not None:
        logits = logits.masked_fill(~allowed, MASKED)
    return torch.log_softmax(logits, dim=-1)


@dataclass(frozen=True)
class Prompt:
    """B encoded contexts, T = 1 + H·L positions: what G branches share."""

    layers: Cache  # each (B, h, T, e)
    mask: Tensor  # (B, T) bool, False at padding
    last: Tensor  # (B, d) hidden state that predicts the first code to come


def angles(position: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines (..., S, e/2) of the rotary angles of positions (..., S), with e channels a head.

    Source: RoFormer (2104.09864), equation 15.
    """
    frequency = 10_000.0 ** (-torch.arange(size // 2, device=position.device) / (size // 2))
    angle = position[..., None] * frequency
    return angle.cos(), angle.sin()


def rotate(x: Tensor, by: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the channel pairs (i, i + e/2) of queries or keys (..., S, e) by ``angles``.

    Only the difference of two positions enters the product of a rotated query and a rotated key.
    Source: RoFormer (2104.09864), equation 34; which channels make a pair is ours.
    """
    cos, sin = (part.to(x.dtype) for part in by)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def branch_attention(q: Tensor, branch: KeyValue, shared: KeyValue, mask: Tensor) -> Tensor:
    """Attend causally to a branch's own tokens and to the shared prompt, which is not copied G times.

    Queries (B, G, h, S, e) of the newest S tokens; the branch's keys and values (B, G, h, S', e) of all its
    S' >= S tokens; shared ones (B, h, T, e), of which ``mask`` (B, T) marks the real positions. Returns
    (B, G, h, S, e). Source: definition (softmax attention, scaled by e^-1/2); the two parts are ours.
    """
    (k, v), (prompt_k, prompt_v) = branch, shared
    size, total = q.shape[-2], k.shape[-2]
    q = q * q.shape[-1] ** -0.5
    to_prompt = torch.einsum("bghse,bhte->bghst", q, prompt_k)
    to_prompt = to_prompt.masked_fill(~mask[:, None, None, None], float("-inf"))
    later = torch.ones(size, total, dtype=torch.bool, device=q.device).triu(total - size + 1)
    to_own = (q @ k.transpose(-1, -2)).masked_fill(later, float("-inf"))  # (B, G, h, S, S')
    weight = torch.cat([to_prompt, to_own], -1).softmax(-1)
    on_prompt, on_own = weight.split([mask.shape[1], total], -1)
    return torch.einsum("bghst,bhte->bghse", on_prompt, prompt_v) + on_own @ v


class Block(nn.Module):
    """A pre-norm block. Source: SASRec (1808.09781); GELU, the fourfold width and no biases are ours."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.mlp_norm = nn.LayerNorm(width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def project(self, x: Tensor, by: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Turn the residual stream (..., S, d) into rotated queries and keys, and values: (..., h, S, e)."""
        qkv = self.qkv(self.attention_norm(x)).unflatten(-1, (3 * self.heads, -1)).transpose(-2, -3)
        qk, v = qkv.split([2 * self.heads, self.heads], -3)
        return *rotate(qk, by).chunk(2, -3), v

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Add what was attended to, (..., h, S, e), and the MLP to the residual stream (..., S, d)."""
        x = x + self.dropout(self.out(attended.transpose(-2, -3).flatten(-2)))
        return x + self.dropout(self.down(F.gelu(self.up(self.mlp_norm(x)))))


class Policy(nn.Module):
    """The transformer. Source: SASRec (1808.09781), codes of TIGER (2305.05065); what differs is ours."""

    def __init__(
        self, cfg: PolicyConfig, levels: int, size: int, periods: int = 0, items: Trie | None = None
    ) -> None:
        """Draw random weights from torch's global generator, for L levels of V codes (``size``).

        ``items`` has the codes that items share, those of the policy unless L = 1; with it they have vectors.
        """
        super().__init__()
        self.levels, self.size, self.head_size = levels, size, cfg.width // cfg.heads
        kinds = (2, 3, 3, periods + 1)  # mode; novel and trend: none, off, on; period: none, 1..
        self.register_buffer("offset", torch.tensor([0, 2, 5, 8]), persistent=False)
        self.condition = nn.Embedding(sum(kinds), cfg.width)
        self.code = nn.Embedding(levels * size, cfg.width)  # tied: input and output
        self.blocks = nn.ModuleList(Block(cfg.width, cfg.heads, cfg.dropout) for _ in range(cfg.layers))
        self.norm = nn.LayerNorm(cfg.width, bias=False)
        self.dropout = nn.Dropout(cfg.dropout)
        self.items, self.own, self.shared = items, None, None
        if items is not None and levels == 1:
            self.own, self.shared = self.code, nn.Embedding(items.levels * items.size, cfg.width)
        elif items is not None:
            self.own, self.shared = nn.Embedding(len(items), cfg.width), self.code
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)
        for block in self.blocks:  # so that the residual stream starts at the scale of one branch
            for last in (block.out, block.down):
                nn.init.normal_(last.weight, std=0.02 * (2 * cfg.layers) ** -0.5)
        if self.rescores:
            nn.init.zeros_(self.own.weight)

    @property
    def rescores(self) -> bool:
        """Whether the vectors of items order what the codes find."""
        return self.items is not None and self.levels > 1

    def vectors(self) -> Tensor:
        """The vectors of all items, (N, d): their own, and the sum of those of their codes."""
        level = torch.arange(self.items.levels, device=self.own.weight.device)
        return self.own.weight + self.shared(self.items.codes + self.items.size * level).sum(1)

    def item_logprobs(self, hidden: Tensor) -> Tensor:
        """Map the states before an item (B, d) to the log-probability of each item by its vector, (B, N)."""
        return token_logprobs(hidden @ self.vectors().T)

    def table(self) -> Tensor:
        """The vectors of the codes of all levels, (L·V, d), as input and as output."""
        return self.vectors() if self.items is not None and self.levels == 1 else self.code.weight

    def embed(self, tokens: Tensor, first: int = 0) -> Tensor:
        """Embed code tokens (..., S), with ``first`` others before: (..., S, d); padding reads code 0."""
        level = (first + torch.arange(tokens.shape[-1], device=tokens.device)) % self.levels
        return F.embedding(tokens.clamp(min=0) + level * self.size, self.table())  # (..., S, d)

    def logits(self, hidden: Tensor) -> Tensor:
        """Map hidden states (..., L, d), one per level, to logits (..., L, V)."""
        table = self.table().unflatten(0, (self.levels, self.size))  # (L, V, d)
        return torch.einsum("...ld,lvd->...lv", hidden, table)

    def level_logits(self, hidden: Tensor, level: int) -> Tensor:
        """Map hidden states (..., d) to the logits of one level, (..., V); the level counts from 0."""
        return hidden @ self.table()[level * self.size : (level + 1) * self.size].T

    def trunk(self, condition: Tensor, tokens: Tensor, real: Tensor | None = None) -> tuple[Tensor, Cache]:
        """Run whole sequences through the blocks.

        Conditions (B, 4) and tokens (B, S), padded with -1 on the right. Returns hidden states (B, 1 + S, d),
        of which position p predicts token p, and each block's keys and values (B, h, 1 + S, e). With ``real``
        (B, 1 + S) bool, False at padding, only the last real position's hidden state is made: (B, 1, d).
        """
        start = self.condition(condition + self.offset).sum(-2, keepdim=True)  # (B, 1, d)
        x = self.embed(tokens)  # (B, S, d)
        if self.rescores:
            ended = tokens.shape[1] // self.levels  # items
            whole = tokens[:, : ended * self.levels].unflatten(1, (ended, self.levels))
            ends = self.levels * torch.arange(1, ended + 1, device=x.device) - 1  # their last codes
            x = x.index_add(1, ends, self.own(self.items.lookup(whole).clamp(min=0)))
        x = self.dropout(torch.cat([start, x], 1))  # (B, 1 + S, d)
        by = angles(torch.arange(x.shape[1], device=x.device), self.head_size)
        layers = []
        for block in self.blocks:
            q, k, v = block.project(x, by)
            layers.append((k, v))
            if real is not None and block is self.blocks[-1]:  # nothing above reads the other positions
                rows, last = torch.arange(len(x), device=x.device), real.sum(1) - 1
                x, q = x[rows, last][:, None], q[rows, :, last][:, :, None]  # (B, 1, d), (B, h, 1, e)
                attended = F.scaled_dot_product_attention(q, k, v, attn_mask=real[:, None, None])
            else:  # padding stands on the right: the causal mask alone hides it from every real position
                attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = block.finish(x, attended)
        return self.norm(x), layers

    def forward(self, condition: Tensor, codes: Tensor) -> Tensor:
        """Log-probability of every code of a sequence given all before it: the supervised pass.

        Conditions (B, 4) and codes (B, H, L), H >= 1, padded with -1 on the right. Returns (B, H, L) float32
        in nats, without a mask, 0 at padding. A policy that ``rescores`` returns (B, H, L + 1): last is the
        log-probability of the item among all, by their vectors. Source: definition.
        """
        hidden, _ = self.trunk(condition, codes.flatten(1)[:, :-1])  # (B, H*L, d)
        real = codes[..., 0] >= 0  # (B, H)
        hidden = hidden.unflatten(1, codes.shape[1:])[real]  # (M, L, d), M real items
        logp = token_logprobs(self.logits(hidden))  # (M, L, V)
        picked = logp.gather(-1, codes[real][..., None])[..., 0]  # (M, L)
        if self.rescores:
            item = self.items.lookup(codes[real])[:, None]  # (M, 1)
            picked = torch.cat([picked, self.item_logprobs(hidden[:, 0]).gather(1, item)], 1)  # (M, L + 1)
        return picked.new_zeros(*real.shape, picked.shape[1]).masked_scatter(real[..., None], picked)

    def encode(self, condition: Tensor, codes: Tensor) -> Prompt:
        """Encode contexts once, for any number of branches.

        Conditions (B, 4) and the codes of the history (B, H, L), padded with -1 on the right; H may be 0.
        """
        real = F.pad(codes.flatten(1) >= 0, (1, 0), value=True)  # (B, T)
        last, layers = self.trunk(condition, codes.flatten(1), real)  # (B, 1, d)
        return Prompt(layers, real, last[:, 0])

    def branch(self, prompt: Prompt, tokens: Tensor, past: Cache | None = None) -> tuple[Tensor, Cache]:
        """Continue each prompt with G branches by their newest tokens (B, G, S); a branch starts at level 0.

        ``past`` is what an earlier call returned for the tokens before them. Returns hidden states
        (B, G, S, d), and per block the branches' keys and values so far, (B, G, h, S', e).
        Source: definition: the hidden states of ``trunk`` for prompt and branch as one sequence.
        """
        before = past[0][0].shape[-2] if past else 0
        x = self.dropout(self.embed(tokens, before))  # (B, G, S, d)
        first = prompt.mask.sum(1)[:, None, None, None] + before
        by = angles(first + torch.arange(x.shape[2], device=x.device), self.head_size)  # (B, 1, 1, S, e/2)
        layers = []
        for i, block in enumerate(self.blocks):
            q, k, v = block.project(x, by)
            if past:
                k, v = torch.cat([past[i][0], k], -2), torch.cat([past[i][1], v], -2)
            layers.append((k, v))
            x = block.finish(x, branch_attention(q, (k, v), prompt.layers[i], prompt.mask))
        return self.norm(x), layers

    def follow(self, prompt: Prompt, codes: Sequence[Tensor], past: Cache | None) -> tuple[Tensor, Cache]:
        """Hidden states (B, G, d) that predict the next codes, and the cache; (B, 1, d) before the first."""
        if not codes:
            return prompt.last[:, None], []
        hidden, past = self.branch(prompt, codes[-1][..., None], past)
        return hidden[:, :, -1], past


def score(
    policy: Policy, prompt: Prompt, codes: Tensor, allowed: Tensor | None = None, temperature: float = 1
) -> Tensor:
    """Score given rollouts by teacher forcing, as G branches on one prompt; gradients flow into both.

    Codes (B, G, P, L), and the masks (B, G, P, L, V) and the temperature under which they were drawn. Returns
    (B, G, P, L), the log-probability of every code given all before it, in nats. Source: the chain rule.
    """
    first = prompt.last[:, None, None].expand(-1, codes.shape[1], 1, -1)  # (B, G, 1, d)
    rest, _ = policy.branch(prompt, codes.flatten(2)[..., :-1])  # (B, G, P*L - 1, d)
    hidden = torch.cat([first, rest], 2).unflatten(2, codes.shape[2:])  # (B, G, P, L, d)
    logp = token_logprobs(policy.logits(hidden), allowed, temperature)  # (B, G, P, L, V)
    return logp.gather(-1, codes[..., None])[..., 0]
