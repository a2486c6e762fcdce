"""One decode step under the trie, and its memory, for 1e3 to 1e7 items at fixed V."""

import torch

from bench.timing import medians, write
from minirec.trie import Trie

SIZE, LEVELS, ROWS = 256, 3, 4096


def random_trie(items: int) -> Trie:
    """A trie of distinct random code tuples."""
    flat = torch.randperm(SIZE**LEVELS, generator=torch.Generator().manual_seed(0))[:items]
    return Trie(torch.stack([flat // SIZE**level % SIZE for level in range(LEVELS)], -1), SIZE)


def main() -> None:
    """Time ``allowed`` and ``descend`` for 4,096 branches on every level."""
    steps, memory = {}, {}
    for exponent in range(3, 8):
        trie = random_trie(10**exponent)
        tensors = [trie.codes, trie.item, *trie.key, *trie.first]
        memory[exponent] = sum(t.nbytes for t in tensors) / 2**20
        rows = torch.randint(len(trie), (ROWS,), generator=torch.Generator().manual_seed(1))
        codes = trie.codes[rows]
        nodes = trie.path(codes)

        def step(trie: Trie = trie, nodes: torch.Tensor = nodes, codes: torch.Tensor = codes) -> None:
            for level in range(LEVELS):
                trie.allowed(level, nodes[:, level])
                trie.descend(level, nodes[:, level], codes[:, level])

        steps[f"1e{exponent}"] = step
    seconds = medians(steps, rounds=15)
    lines = [
        f"{LEVELS} steps of {ROWS:,} branches, V = {SIZE}; median of 15 rounds.",
        "",
        "| items | ms for the three steps | against 1e3 items | MiB of tensors |",
        "|---|---|---|---|",
    ]
    for (name, value), mib in zip(seconds.items(), memory.values(), strict=True):
        lines.append(f"| {name} | {1e3 * value:.1f} | {value / seconds['1e3']:.2f} | {mib:.1f} |")
    write("trie", "A decode step under the trie", lines)


if __name__ == "__main__":
    main()
