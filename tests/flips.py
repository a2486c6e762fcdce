"""Flip bits of a run's files, one at a time, and count what loading makes of them.

python -m tests.flips runs/tiny
"""

import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch
from torch.utils._pytree import tree_leaves

from minirec.errors import InputError
from minirec.run import folder

FLIPS = 1200


def outcome(path, good):
    """Whether a file is refused, or loads as the leaves of the good one, or as others."""
    try:
        leaves = tree_leaves(folder.load(path))
    except InputError:
        return "refused"
    pairs = zip(leaves, good, strict=False)
    same = [torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs]
    return "unchanged" if len(leaves) == len(good) and all(same) else "changed"


def main():
    for name in ("checkpoint.pt", "data.pt"):
        path, draws = Path(sys.argv[1]) / name, random.Random(0)
        content, good, counts = path.read_bytes(), tree_leaves(folder.load(path)), Counter()
        with tempfile.TemporaryDirectory() as place:
            for _ in range(FLIPS):
                flipped = bytearray(content)
                flipped[draws.randrange(len(content))] ^= 1 << draws.randrange(8)
                (Path(place) / name).write_bytes(flipped)
                counts[outcome(Path(place) / name, good)] += 1
        print(name, f"{len(content):,} bytes", dict(counts))


if __name__ == "__main__":
    main()
