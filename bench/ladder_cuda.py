"""What each rung of the ladders in csrc/ladder asks of a GPU, and how long it takes where there is one.

    python -m bench.ladder_cuda

The emulator of tests/emulator counts on any machine with g++, per list or group: bytes read, requests of a
warp for inputs and outputs, their sectors, wavefronts of shared memory, shuffles. nvcc says how many
registers a thread takes on sm_90. Where there is a GPU, nvcc also builds the rungs for it; each is held
against the closed form and timed as in ``bench.kernels``, beside a copy of the same bytes.
"""

import ctypes
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bench.kernels_rows import Row, Setup, buffers, floor, table
from bench.kernels_ways import OPTIONS
from bench.timing import write
from minirec.ops import reference

ROOT = Path(__file__).parents[1]
CLOSE = 5e-5  # of the closed form: 128 roundings of sums as large as 1, and a normalised reward is a few std


class Ladder(NamedTuple):
    """A file of csrc/ladder: its function, its rungs with the start of their kernels, what they run on."""

    call: str
    rungs: dict[str, str]  # the last is the production kernel
    counted: tuple[int, int]  # lists and their length, for the emulator
    timed: tuple[int, int]


LADDERS = {
    "swap_ndcg": Ladder(
        "swap_ladder",
        {
            "pairs": "ladder_pairs",
            "closed form": "ladder_closed",
            "warp": "ladder_by_warp",
            "shared": "ladder_shared",
            "staged": "swap_listsIfLi1ELb0E",
        },
        (64, 128),
        (65_536, 128),
    ),
    "group_normalize": Ladder(
        "normalize_ladder",
        {"thread": "ladder_thread", "warp": "ladder_warp", "staged": "normalize_runsIfE"},
        (64, 16),
        (65_536, 16),
    ),
}


def loaded(library: Path) -> ctypes.CDLL:
    """A library with a ladder."""
    found = ctypes.CDLL(str(library))
    if hasattr(found, "current_stream"):
        found.current_stream.restype = ctypes.c_void_p
    return found


def emulated(folder: str | Path) -> ctypes.CDLL:
    """Compile the kernels under the emulator, and load them."""
    library, source = Path(folder) / "kernels.so", ROOT / "tests" / "emulator" / "kernels.cpp"
    flags = ["-O1", "-std=c++17", "-fPIC", "-shared"]
    subprocess.run(["g++", *flags, "-o", library, source], check=True)
    return loaded(library)


def climb(library: ctypes.CDLL, name: str, rung: int, tensors: list[Tensor], stream: int) -> None:
    """Run a rung on inputs of (n, size) and the output, the last."""
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
    sizes = [ctypes.c_int64(size) for size in tensors[0].shape]
    code = getattr(library, LADDERS[name].call)(rung, *pointers, *sizes, ctypes.c_void_p(stream))
    if code:
        raise RuntimeError(f"{name}, rung {rung}: error {code}")


def inputs(name: str, values: Tensor) -> list[Tensor]:
    """Values, and for swap rewards an IDCG of each list."""
    return [values, 1 + values[:, 0]] if name == "swap_ndcg" else [values]


def counts(gpu: ctypes.CDLL, name: str, rung: int) -> list[float]:
    """Of a rung under the emulator, per list: bytes read, requests, sectors, wavefronts, shuffles."""
    n, size = LADDERS[name].counted
    tensors = [*inputs(name, torch.rand(n, size)), torch.empty(n, size)]
    ends = torch.tensor([(tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes) for tensor in tensors])
    arrays, four = len(tensors), (ctypes.c_int64 * 4)()
    rows = (ctypes.c_int64 * (4 * arrays + 2))()
    gpu.set_arrays(ctypes.c_int64(arrays), ctypes.c_void_p(ends.data_ptr()))
    gpu.counts(four)
    gpu.count_requests()
    climb(gpu, name, rung, tensors, gpu.current_stream())
    gpu.counts(four)
    gpu.counted_requests(rows)
    sectors, requests = rows[: 2 * arrays], rows[2 * arrays : 4 * arrays]
    found = [four[0], requests[0] + requests[-1], sectors[0] + sectors[-1], rows[4 * arrays], four[3]]
    return [value / n for value in found]


def registers(name: str, folder: str | Path) -> list[str]:
    """Registers of a thread on sm_90 by rung; "-" without nvcc."""
    rungs = LADDERS[name].rungs.values()
    if shutil.which("nvcc") is None:
        return ["-"] * len(rungs)
    command = ["nvcc", "-std=c++17", "-O3", "-arch=sm_90", "-Xptxas=-v", "-cubin"]
    source = ROOT / "csrc" / "ladder" / f"{name}.cu"
    done = subprocess.run(
        [*command, source, "-o", Path(folder) / "cubin"], check=True, capture_output=True, text=True
    )
    entries = dict(re.findall(r"entry function '(\w+)'[\s\S]*?Used (\d+) registers", done.stderr))
    return [next(used for entry, used in entries.items() if kernel in entry) for kernel in rungs]


def said(value: float) -> str:
    """At most two decimals."""
    return f"{value:,.2f}".rstrip("0").rstrip(".")


def counted(gpu: ctypes.CDLL, name: str, folder: str | Path) -> list[str]:
    """The table of what the rungs ask for."""
    n, size = LADDERS[name].counted
    lines = [f"## {name}, of each of {n} x {size} float32", ""]
    lines += ["| rung | bytes read | requests | sectors | wavefronts | shuffles | registers |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for rung, (label, used) in enumerate(zip(LADDERS[name].rungs, registers(name, folder), strict=True), 1):
        cells = [label, *map(said, counts(gpu, name, rung)), used]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def rows(library: ctypes.CDLL, name: str, values: Tensor) -> list[Row]:
    """Every rung, the production kernel first, on inputs like these."""
    given = inputs(name, values)
    if name == "swap_ndcg":
        exact = [tensor.double() for tensor in given]
        truth = reference.swap_ndcg(*exact, torch.ones_like(values, dtype=torch.bool), values.shape[1], True)
    else:
        truth = reference.group_normalize(values.double()[..., None], None, None, *OPTIONS)[..., 0]

    def run(rung: int, x: Tensor, out: Tensor) -> Tensor:
        stream = torch.cuda.current_stream().cuda_stream if x.is_cuda else library.current_stream()
        climb(library, name, rung, [x, *given[1:], out], stream)
        return out

    rungs = list(enumerate(LADDERS[name].rungs, 1))
    return [Row(label, lambda x, out, rung=rung: run(rung, x, out), truth) for rung, label in reversed(rungs)]


def timed(name: str, folder: str | Path) -> list[str]:
    """The table of times on the GPU."""
    library, source = Path(folder) / f"{name}.so", ROOT / "csrc" / "ladder" / f"{name}.cu"
    command = ["nvcc", "-std=c++17", "-O3", "-arch=native", "-shared", "-Xcompiler=-fPIC"]
    subprocess.run([*command, source, "-o", library], check=True)
    n, size = LADDERS[name].timed
    setup = Setup("cuda")
    pairs = buffers((n, size), setup)
    climbed = rows(loaded(library), name, pairs[0][0])
    device = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    heading = f"## {name}, {n:,} x {size} float32, on {device}"
    return [heading, *table("rung", [floor(setup), *climbed], pairs, CLOSE, setup), ""]


def main() -> None:
    """Count, time where there is a GPU, and write the tables."""
    with tempfile.TemporaryDirectory() as folder:
        gpu = emulated(folder)
        gpu.size_of_gpu(1, 227 * 1024)
        lines = [line for name in LADDERS for line in counted(gpu, name, folder)]
        if torch.cuda.is_available() and shutil.which("nvcc"):
            lines += [line for name in LADDERS for line in timed(name, folder)]
        else:
            lines += ["Times were not measured: no GPU, or no nvcc."]
    write("ladder_cuda", "The ladders of csrc/ladder on a GPU", lines)


if __name__ == "__main__":
    main()
