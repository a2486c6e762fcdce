"""Rollouts against transformers' ``generate``, with a dictionary trie as logits processor and without."""

from __future__ import annotations

import torch

from bench.timing import medians, write
from bench.training import CFG, LEVELS, SIZE, llama
from minirec.machine import keep_freed_memory
from minirec.policy import Policy
from minirec.rollout import sample
from minirec.trie import Trie

ITEMS, CONTEXTS, GROUP, HISTORY = 12_101, 32, 16, 20


def main() -> None:
    """Draw 16 rollouts for each of 32 contexts of 20 items."""
    torch.manual_seed(0)
    keep_freed_memory()  # for both
    flat = torch.randperm(SIZE**LEVELS)[:ITEMS]
    trie = Trie(torch.stack([flat // SIZE**level % SIZE for level in range(LEVELS)], -1), SIZE)
    policy, peer = Policy(CFG, LEVELS, SIZE).eval(), llama().eval()
    history = trie.codes[torch.randint(ITEMS, (CONTEXTS, HISTORY))]  # (B, H, L)
    condition = torch.zeros(CONTEXTS, 4, dtype=torch.int64)

    @torch.no_grad()
    def ours(constrained: bool) -> None:
        noise = torch.rand(CONTEXTS, GROUP, LEVELS, dtype=torch.float64)
        sample(policy, policy.encode(condition, history), trie, noise, constrained)

    offset = torch.arange(LEVELS) * SIZE
    children: dict[tuple[int, ...], set[int]] = {}
    for tokens in (trie.codes + offset).tolist():
        for level, token in enumerate(tokens):
            children.setdefault(tuple(tokens[:level]), set()).add(token)
    next_tokens = {prefix: sorted(tokens) for prefix, tokens in children.items()}
    start = torch.full((CONTEXTS, 1), LEVELS * SIZE)
    prompt = torch.cat([start, (history + offset).flatten(1)], 1)  # (B, T)

    def generate(**more) -> None:
        peer.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=True,
            top_k=0,
            num_return_sequences=GROUP,
            max_new_tokens=LEVELS,
            pad_token_id=0,
            **more,
        )

    def follow(_: int, tokens: torch.Tensor) -> list[int]:
        return next_tokens[tuple(tokens[prompt.shape[1] :].tolist())]

    seconds = medians(
        {
            "minirec, trie": lambda: ours(True),
            "minirec, no mask": lambda: ours(False),
            "generate, dictionary trie": lambda: generate(prefix_allowed_tokens_fn=follow),
            "generate, no mask": lambda: generate(),
        },
        rounds=5,
    )
    lines = [
        f"{CONTEXTS} contexts of {HISTORY} items, {GROUP} rollouts each, {ITEMS:,} items, "
        f"{LEVELS} × {SIZE} codes, d = 128, 2 layers; median of 5 rounds in turn.",
        "",
        "| | rollouts per second | minirec's gain, same mask |",
        "|---|---|---|",
    ]
    for name, value in seconds.items():
        own = seconds["minirec, trie" if "trie" in name else "minirec, no mask"]
        lines.append(f"| {name} | {CONTEXTS * GROUP / value:,.0f} | {value / own:.1f} |")
    write("rollouts", "Rollouts against generate", lines)


if __name__ == "__main__":
    main()
