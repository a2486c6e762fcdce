"""Rollouts against transformers' ``generate``, with a dictionary trie as logits processor and without."""

import torch

from bench.timing import medians, write
from bench.training import llama
from minirec.policy import Policy
from minirec.rollout import sample
from minirec.run.machine import keep_freed_memory
from minirec.settings import TINY, Config, PolicyConfig
from minirec.trie import Trie

LEVELS, CONTEXTS, GROUP = 3, 32, 32
NAMES = ("minirec, trie", "minirec, no mask", "generate, dictionary trie", "generate, no mask")


def measure(cfg: PolicyConfig, size: int, items: int, history: int) -> dict[str, float]:
    """Median seconds to draw GROUP rollouts for each of CONTEXTS contexts of ``history`` items."""
    flat = torch.randperm(size**LEVELS)[:items]
    trie = Trie(torch.stack([flat // size**level % size for level in range(LEVELS)], -1), size)
    policy, peer = Policy(cfg, LEVELS, size).eval(), llama(cfg, LEVELS * size + 1).eval()
    past = trie.codes[torch.randint(items, (CONTEXTS, history))]  # (B, H, L)
    condition = torch.zeros(CONTEXTS, 4, dtype=torch.int64)

    @torch.no_grad()
    def ours(constrained: bool) -> None:
        noise = torch.rand(CONTEXTS, GROUP, LEVELS, dtype=torch.float64)
        sample(policy, policy.encode(condition, past), trie, noise, constrained)

    offset = torch.arange(LEVELS) * size
    children: dict[tuple[int, ...], set[int]] = {}
    for tokens in (trie.codes + offset).tolist():
        for level, token in enumerate(tokens):
            children.setdefault(tuple(tokens[:level]), set()).add(token)
    next_tokens = {prefix: sorted(tokens) for prefix, tokens in children.items()}
    start = torch.full((CONTEXTS, 1), LEVELS * size)
    prompt = torch.cat([start, (past + offset).flatten(1)], 1)  # (B, T)

    def follow(_: int, tokens: torch.Tensor) -> list[int]:
        return next_tokens[tuple(tokens[prompt.shape[1] :].tolist())]

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

    runs = (
        lambda: ours(True),
        lambda: ours(False),
        lambda: generate(prefix_allowed_tokens_fn=follow),
        lambda: generate(),
    )
    return medians(dict(zip(NAMES, runs, strict=True)), rounds=5)


def main() -> None:
    """Measure at the sizes of the tiny preset and of the defaults on Amazon Beauty."""
    torch.manual_seed(0)
    keep_freed_memory()  # for both
    lines = [f"{CONTEXTS} contexts, {GROUP} rollouts each; median of 5 rounds in turn.", ""]
    sizes = {
        "tiny: d = 48, 3 × 16 codes, 512 items, history 6": (TINY, 16, 512, 6),
        "default: d = 128, 3 × 256 codes, 12,101 items, history 20": (Config(), 256, 12_101, 20),
        "default, the longest history, 50": (Config(), 256, 12_101, 50),
    }
    for name, size in sizes.items():
        seconds = measure(*size)
        lines += [f"| {name} | rollouts per second | minirec's gain, same mask |", "|---|---|---|"]
        for who, value in seconds.items():
            own = seconds[NAMES[0] if "trie" in who else NAMES[1]]
            lines.append(f"| {who} | {CONTEXTS * GROUP / value:,.0f} | {value / own:.1f} |")
        lines.append("")
    write("rollouts", "Rollouts against generate", lines)


if __name__ == "__main__":
    main()
