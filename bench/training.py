"""Training against a plain loop around transformers' Llama of equal shape.

At equal padding both see the same padded batches. On real lengths the plain loop takes users in random order
and pads a batch to its longest, as a default collator does; minirec takes batches of similar length.

    python -m bench.training [a log, for its lengths]
"""

import sys
from dataclasses import replace

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bench.timing import medians, write
from minirec.data import logs
from minirec.policy import Policy
from minirec.run.machine import keep_freed_memory
from minirec.run.training import epoch_rows
from minirec.settings import Config, PolicyConfig

CFG = Config(width=128, layers=2, heads=2, dropout=0.0)
LEVELS, SIZE, BATCH = 3, 256, 1024  # items per batch


def llama(cfg: PolicyConfig, vocabulary: int) -> LlamaForCausalLM:
    """The same width, depth, heads, tied embeddings, and parameters of the MLP (3 × 8/3 instead of 2 × 4)."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=cfg.width,
            intermediate_size=cfg.width * 8 // 3,
            num_hidden_layers=cfg.layers,
            num_attention_heads=cfg.heads,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            attn_implementation="sdpa",
            bos_token_id=None,
            eos_token_id=None,
        )
    )


def padded(lengths: torch.Tensor) -> torch.Tensor:
    """Random codes (B, H, L) of these lengths, padded with -1."""
    codes = torch.randint(SIZE, (len(lengths), int(lengths.max()), LEVELS))
    return codes.masked_fill((torch.arange(codes.shape[1]) >= lengths[:, None])[..., None], -1)


def main() -> None:
    """Time one pass over some batches with each, optimiser included."""
    torch.manual_seed(0)
    keep_freed_memory()  # for both
    policy, peer = Policy(CFG, LEVELS, SIZE), llama(CFG, LEVELS * SIZE + 1)
    optimisers = {id(m): torch.optim.AdamW(m.parameters(), fused=True) for m in (policy, peer)}

    def ours(batches: list[torch.Tensor]) -> None:
        for codes in batches:
            condition = torch.zeros(len(codes), 4, dtype=torch.int64)
            (-policy(condition, codes).sum() / (codes >= 0).sum()).backward()
            optimisers[id(policy)].step()
            optimisers[id(policy)].zero_grad()

    def plain(batches: list[torch.Tensor]) -> None:
        for codes in batches:
            tokens = (codes + torch.arange(LEVELS) * SIZE).masked_fill(codes < 0, -100).flatten(1)
            start = torch.full((len(tokens), 1), LEVELS * SIZE)  # in the place of the condition
            tokens = torch.cat([start, tokens], 1)
            known = tokens >= 0
            peer(input_ids=tokens.clamp(min=0), attention_mask=known, labels=tokens).loss.backward()
            optimisers[id(peer)].step()
            optimisers[id(peer)].zero_grad()

    equal = [padded(torch.full((BATCH // 16,), 16)) for _ in range(8)]
    same = medians({"minirec": lambda: ours(equal), "plain loop": lambda: plain(equal)})
    rounds = "median of 7 rounds in turn, of 3 on real lengths"
    lines = [f"Seconds, {rounds}; d = 128, 2 layers, 3 × 256 codes, AdamW.", ""]
    lines += ["| batches | minirec | plain loop around Llama | ratio |", "|---|---|---|---|"]

    def row(name: str, s: dict[str, float]) -> str:
        return (
            f"| {name} | {s['minirec']:.2f} | {s['plain loop']:.2f} | {s['plain loop'] / s['minirec']:.2f} |"
        )

    lines.append(row("equal padding: 8 × 64 users × 16 items", same))
    if len(sys.argv) > 1:
        dataset, _ = logs.load(replace(CFG, data=sys.argv[1]))
        lengths = dataset.train.lengths
        lengths = lengths[torch.randperm(len(lengths))[:2048]]
        bucketed = [padded(lengths[rows]) for rows in epoch_rows(lengths, BATCH, 0, 0)]
        users = max(1, len(lengths) // len(bucketed))  # as many users per step as minirec has on average
        random = [padded(some) for some in lengths.split(users)]
        real = medians({"minirec": lambda: ours(bucketed), "plain loop": lambda: plain(random)}, rounds=3)
        lines.append(row(f"real lengths: 2,048 users, mean {lengths.double().mean():.1f} items", real))
    write("training", "Training against a plain loop", lines)


if __name__ == "__main__":
    main()
