"""What each rung of the ladders in csrc/ladder bought.

    python -m bench.ladder

One thread but for the rung that says otherwise; medians; buffers in turn, so that none is in the cache. Slow
rungs run on fewer lists and are scaled. Multiples are of torch.mul(out=) on the same bytes, in the same run;
they are also written into the maps on top of the ladders. The roof is what the same thread does at most: the
bytes of torch.mul(out=) and the operations of a product of matrices. ``bench.ladder_cuda`` is for the GPU.
"""

import ctypes
import functools
import itertools
import re
import subprocess
import tempfile
from pathlib import Path

import torch

from bench.timing import medians, write

LADDER = Path(__file__).parents[1] / "csrc" / "ladder"
FLAGS = ["-O3", "-std=c++17", "-fPIC", "-shared", "-fno-math-errno", "-fopenmp"]
SWAP = {  # rung: lists to time it on
    "swap_literal": 4,
    "swap_pairs": 1024,
    "swap_closed": 4096,
    "swap_tables": 65536,
    "swap_lanes": 65536,
    "swap_blocks": 65536,
    "swap_ahead": 65536,
    "swap_tiles": 65536,
    "swap_threads": 65536,
    "swap_fresh": 65536,
}
NORMALIZE = ("normalize_textbook", "normalize_exact", "normalize_lanes", "normalize_tiles")
BUFFERS = 8  # of 67 MB or 8 MB
WIDTH = 1024  # of the matrices whose product is the roof of arithmetic


def compiled(name: str, folder: str) -> ctypes.CDLL:
    """Compile a ladder and load it."""
    library = Path(folder) / f"{name}.so"
    subprocess.run(["g++", *FLAGS, LADDER / f"{name}.cpp", "-o", library], check=True)
    return ctypes.CDLL(str(library))


def measured(
    shape: tuple[int, int], rungs: dict[str, int], library: ctypes.CDLL, idcg: bool
) -> dict[str, float]:
    """Seconds of torch.mul(out=) and of rungs on inputs of a shape."""
    n, size = shape
    turn = itertools.cycle([(torch.rand(shape), torch.empty(shape)) for _ in range(BUFFERS)])
    values = torch.full((n,), 20.0)
    ideal = [ctypes.c_void_p(values.data_ptr())] if idcg else []

    def multiply() -> None:
        source, out = next(turn)
        torch.mul(source, 2.0, out=out)

    def climb(name: str, lists: int) -> None:
        source, out = (ctypes.c_void_p(x.data_ptr()) for x in next(turn))
        getattr(library, name)(source, *ideal, out, ctypes.c_int64(lists), ctypes.c_int64(size))

    calls = {"torch.mul(out=)": multiply}
    calls |= {name: functools.partial(climb, name, lists) for name, lists in rungs.items()}
    return {name: value * n / rungs.get(name, n) for name, value in medians(calls).items()}


def table(seconds: dict[str, float]) -> list[str]:
    """Rungs beside torch.mul(out=)."""
    lines = ["| rung | ms | times torch.mul(out=) |", "|---|---|---|"]
    for name, value in seconds.items():
        lines.append(f"| {name} | {1e3 * value:,.2f} | {value / seconds['torch.mul(out=)']:,.2f} |")
    return lines


def roof(copy: float, bytes_moved: int) -> list[str]:
    """What a thread does at most, by ``copy`` seconds for so many bytes, and by a product of matrices."""
    one, other, out = (torch.rand(WIDTH, WIDTH) for _ in range(3))
    product = medians({"torch.mm": lambda: torch.mm(one, other, out=out)})["torch.mm"]
    lines = ["| roof | by | 10^9 a second |", "|---|---|---|"]
    lines.append(f"| bytes | torch.mul(out=) | {bytes_moved / copy / 1e9:,.1f} |")
    return [*lines, f"| operations | torch.mm of {WIDTH:,} x {WIDTH:,} | {2e-9 * WIDTH**3 / product:,.1f} |"]


def said(ratio: float) -> str:
    """A multiple as the maps have it."""
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.1f}"


def mapped(page: str, ratios: list[float]) -> str:
    """A ladder whose map ends the line of each rung with its multiple."""
    for rung, ratio in enumerate(ratios, 1):
        page, found = re.subn(
            rf"^(// {rung:>3}  .* )\S+$", rf"\g<1>{said(round(ratio, 2))}", page, count=1, flags=re.M
        )
        if not found:
            raise LookupError(f"the map has no rung {rung}")
    return page


def main() -> None:
    """Measure both ladders and write the tables."""
    torch.set_num_threads(1)
    swap, normalize = (65536, 128), (65536, 16)
    with tempfile.TemporaryDirectory() as folder:
        seconds = {
            "swap_ndcg": measured(swap, SWAP, compiled("swap_ndcg", folder), idcg=True),
            "group_normalize": measured(
                normalize, dict.fromkeys(NORMALIZE, 65536), compiled("group_normalize", folder), idcg=False
            ),
        }
    lines = ["## swap_ndcg, 65,536 x 128 float32", "", *table(seconds["swap_ndcg"])]
    lines += ["", "## group_normalize, 65,536 x 16 float32", "", *table(seconds["group_normalize"])]
    lines += [
        "",
        "## The roof of one thread",
        "",
        *roof(seconds["swap_ndcg"]["torch.mul(out=)"], 8 * 65536 * 128),
    ]
    write("ladder", "The ladders of csrc/ladder on a CPU", lines)
    for name, (floor, *rungs) in ((name, found.values()) for name, found in seconds.items()):
        source = LADDER / f"{name}.cpp"
        source.write_text(mapped(source.read_text("utf-8"), [rung / floor for rung in rungs]), "utf-8")


if __name__ == "__main__":
    main()
