"""What each rung of the ladders in csrc/ladder bought.

    python -m bench.ladder

One thread but for the rung that says otherwise; medians; buffers in turn, so that none is in the cache. Slow
rungs run on fewer lists and are scaled. Multiples are of torch.mul(out=) on the same bytes, in the same run.
"""

import ctypes
import functools
import itertools
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
    "swap_tiles": 65536,
    "swap_threads": 65536,
}
NORMALIZE = ("normalize_textbook", "normalize_exact", "normalize_lanes", "normalize_tiles")
BUFFERS = 8  # of 67 MB or 8 MB


def compiled(name: str, folder: str) -> ctypes.CDLL:
    """Compile a ladder and load it."""
    library = Path(folder) / f"{name}.so"
    subprocess.run(["g++", *FLAGS, LADDER / f"{name}.cpp", "-o", library], check=True)
    return ctypes.CDLL(str(library))


def measured(shape: tuple[int, int], rungs: dict[str, int], library: ctypes.CDLL, idcg: bool) -> list[str]:
    """A table of rungs on inputs of a shape."""
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
    seconds = medians(calls)
    lines = ["| rung | ms | times torch.mul(out=) |", "|---|---|---|"]
    for name, measured_on in seconds.items():
        value = measured_on * n / rungs.get(name, n)
        lines.append(f"| {name} | {1e3 * value:,.2f} | {value / seconds['torch.mul(out=)']:,.2f} |")
    return lines


def main() -> None:
    """Measure both ladders and write the tables."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        lines = ["## swap_ndcg, 65,536 x 128 float32", ""]
        lines += measured((65536, 128), SWAP, compiled("swap_ndcg", folder), idcg=True)
        lines += ["", "## group_normalize, 65,536 x 16 float32", ""]
        rungs = dict.fromkeys(NORMALIZE, 65536)
        lines += measured((65536, 16), rungs, compiled("group_normalize", folder), idcg=False)
    write("ladder", "The ladders of csrc/ladder on a CPU", lines)


if __name__ == "__main__":
    main()
