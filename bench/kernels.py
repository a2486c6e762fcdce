"""The kernels beside a floor, plain torch and public packages, in one run.

    python -m bench.kernels                                          all tables, on each device with kernels
    python -m bench.kernels --op fused --shape 512x16x50             one table, of your size
    python -m bench.kernels --quick                                  within a minute, and nothing to quote
    python -m bench.kernels --sweep --out FOLDER                     over sizes, with a picture

The floor reads and writes the same bytes and computes nothing worth speaking of: ``torch.mul`` on a CPU, a
copy on a GPU and for bfloat16. Inputs and outputs rotate over more memory than a cache holds. A row that
gives the numbers of the kernel is first held against the closed form in float64; one that is off is red and
gets no number. Then it takes turns with the floor and the kernel, and is printed. GB/s count the bytes that
must be read and written; the share of the floor is its time over that of the row. Rows marked "scaled" do a
part of the work, and their time is multiplied. A GPU keeps the time itself, from event to event around the
replay of a CUDA graph, so that no launch counts; rows marked "launched" read a value, which no graph may.
"""

import argparse
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from bench import kernels_gpu, kernels_sweep
from bench import kernels_peers as peers
from bench.kernels_rows import Row, Setup, size_of, table
from bench.kernels_ways import fused, normalize, swap
from bench.timing import heading, machine
from minirec.ops import group_normalize, reference, swap_ndcg
from minirec.ops.load import WHY_NOT, built_for, twin_for

RESULTS = Path(__file__).parent / "results"
GROUP, SIZE = 16, 128
LISTS, CONTEXTS = (65_536, SIZE), (4_096, GROUP, SIZE)
SHAPES = {"swap": (LISTS,), "normalize": ((LISTS[0], GROUP), CONTEXTS), "fused": (CONTEXTS,)}
DEVICES = ("cpu", "cuda")
DTYPES = {str(dtype)[6:]: dtype for dtype in (torch.float32, torch.bfloat16, torch.float64)}


def with_others(shape: tuple[int, ...], op: str, setup: Setup) -> bool:
    """Whether a table has what other people write, which is slow: only at its own size, on a CPU."""
    return setup.device == "cpu" and not setup.quick and shape in SHAPES[op]


def swap_table(shape: tuple[int, ...], setup: Setup) -> Iterator[str]:
    """Swap rewards, with the choices that the kernel has."""
    ways = swap(shape, setup)
    (first, _), idcg, size = ways.pairs[0], ways.idcg, shape[1]
    most = torch.rand(shape, device=setup.device) < 0.9
    half = first.bfloat16()
    own = {"idcg": idcg, "check": False}

    def truth(gains: Tensor, mask: Tensor | None = None, later: bool = True, given: bool = True) -> Tensor:
        mask = torch.ones_like(most) if mask is None else mask
        return reference.swap_ndcg(gains.double(), idcg.double() if given else None, mask, size, later)

    least, kernel, *in_torch = ways.rows
    whole, both, everyone = kernel.truth, kernel.reads, truth(first, later=False)
    masked = {"truth": truth(first, most), "reads": (*both, most)}
    rows = [
        least,
        kernel,
        Row("with check=True", lambda x, out: swap_ndcg(x, idcg, out=out, check=True), whole, reads=both),
        Row("without out=", lambda x, out: swap_ndcg(x, **own), whole, reads=both),
        Row("pool all", lambda x, out: swap_ndcg(x, pool="all", out=out, **own), everyone, reads=both),
        Row("own IDCG", lambda x, out: swap_ndcg(x, out=out, check=False), truth(first, given=False)),
        Row("a tenth masked", lambda x, out: swap_ndcg(x, mask=most, out=out, **own), **masked),
    ]
    if setup.dtype == torch.float32:
        read = half, idcg
        rows.append(
            Row("bfloat16 in", lambda x, out: swap_ndcg(half, out=out, **own), truth(half), reads=read)
        )
    rows += in_torch
    if with_others(shape, "swap", setup):
        few, fewer = 1024, 4
        part, less = few / len(first), fewer / len(first)
        others: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], float]] = {
            "torch, O(K²)": (lambda x, out: peers.pairs(x[:few], idcg[:few]), part),
            "Python, O(K³)": (lambda x, out: peers.literal_swaps(x[:fewer], idcg[:fewer]), less),
        }
        for name, call in peers.public_ndcg().items():
            others[name] = (lambda x, out, call=call: call(x[:few]), part)
        rows += [Row(f"{name}, scaled", call, None, True, share) for name, (call, share) in others.items()]
    return table(f"swap rewards, {size_of(shape, setup)}", rows, ways.pairs, ways.tolerance, setup)


def instruction_sets(shape: tuple[int, ...], setup: Setup) -> Iterator[str]:
    """Swap rewards by every instruction set of this machine."""
    ways = swap(shape, setup)
    least, kernel = ways.rows[:2]
    names = torch.ops.minirec.instruction_sets().split(",")
    rows = [least] + [kernel._replace(name=name, call=kernels_sweep.by(name, kernel.call)) for name in names]
    title = f"swap_ndcg, {size_of(shape, setup)}, by instruction set"
    return table(title, rows, ways.pairs, ways.tolerance, setup)


def normalize_table(shape: tuple[int, ...], setup: Setup) -> Iterator[str]:
    """Group normalisation of contiguous groups, or along the middle dimension of three."""
    ways, flat = normalize(shape, setup), len(shape) == 2
    least, kernel, *in_torch = ways.rows
    with_check = Row(
        "with check=True", lambda x, out: group_normalize(x, 1, out=out, check=True), kernel.truth
    )
    rows = [least, kernel, with_check, *in_torch]
    if flat:
        rows.append(
            Row("view(-1, G), repeat_interleave", lambda x, out: peers.broadcast(x.flatten(), shape[1]))
        )
    if flat and with_others(shape, "normalize", setup):
        few = 1024
        prompts = [f"prompt {i // shape[1]}" for i in range(few * shape[1])]

        def by_prompt(x: Tensor, out: Tensor) -> Tensor:
            return peers.dictionary(x.flatten()[: len(prompts)], prompts)

        rows.append(Row("a dictionary of prompts, scaled", by_prompt, None, True, few / shape[0]))
    title = f"group_normalize{'' if flat else ' along the middle'}, {size_of(shape, setup)}"
    return table(title, rows, ways.pairs, ways.tolerance, setup)


def fused_table(shape: tuple[int, ...], setup: Setup) -> Iterator[str]:
    """FlexRec's advantages in one pass, and in two."""
    ways = fused(shape, setup)
    least, kernel, *in_torch = ways.rows
    idcg, between = ways.idcg, torch.zeros_like(ways.pairs[0][1])
    valid = torch.ones_like(between, dtype=torch.bool).flatten(0, 1)
    gains = ways.pairs[0][0].double().flatten(0, 1)
    swaps = reference.swap_ndcg(gains, idcg.double().flatten(), valid, shape[2], True).view(shape)

    def two_ops(x: Tensor, out: Tensor) -> Tensor:
        swap_ndcg(x, idcg, out=between, check=False)
        return group_normalize(between, 1, out=out, check=False)

    def alone(x: Tensor, out: Tensor) -> Tensor:
        return swap_ndcg(x, idcg, out=out, check=False)

    rows = [
        least,
        kernel,
        Row("swap_ndcg(out=) alone", alone, swaps, reads=kernel.reads),
        Row("swap_ndcg, then group_normalize", two_ops, kernel.truth, reads=kernel.reads),
        *in_torch,
    ]
    return table(f"swap_advantages, {size_of(shape, setup)}", rows, ways.pairs, ways.tolerance, setup)


TABLES = {"swap": swap_table, "normalize": normalize_table, "fused": fused_table}


def tables(op: str, shape: tuple[int, ...], setup: Setup) -> Iterator[str]:
    """The tables of an operation ("": of each that fits the shape), at a shape or, for (), at its own."""
    part = 8 if setup.quick else 1
    for name in (op,) if op else SHAPES:
        for n, *rest in SHAPES[name]:
            if not shape or len(shape) == 1 + len(rest):
                yield from TABLES[name](shape or (n // part, *rest), setup)
    if setup.device == "cpu" and op in ("", "swap") and len(shape) in (0, 2):
        yield from instruction_sets(shape or (LISTS[0] // part, SIZE), setup)
    if setup.device == "cuda" and not (op or shape or setup.quick):
        yield from kernels_gpu.bandwidth(setup)
        yield from kernels_gpu.graphs(setup)


def show(lines: Iterable[str]) -> str:
    """Print lines as they come; returns the page that they are."""
    page = []
    for line in lines:
        print(line, flush=True)
        page.append(line)
    return "\n".join([*page, ""])


def sizes(text: str) -> tuple[int, ...]:
    """A shape of two or three sizes, as in 65536x128."""
    shape = tuple(int(n) if n.isdecimal() else 0 for n in text.split("x"))
    if len(shape) not in (2, 3) or 0 in shape:
        raise argparse.ArgumentTypeError(f"expected 65536x128 or 4096x16x128, got {text!r}")
    return shape


def count(text: str) -> int:
    """A number of rounds."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text!r}")
    return int(text)


def arguments(words: list[str]) -> argparse.Namespace:
    """Read the command line, and say what does not fit together."""
    parser = argparse.ArgumentParser("python -m bench.kernels", description=__doc__.partition("\n")[0])
    parser.add_argument("--op", choices=tuple(TABLES), default="", help="one operation (default: all)")
    shape = "lists x K for swap, groups x G or contexts x G x K for normalize, contexts x G x K for fused"
    parser.add_argument("--shape", type=sizes, default=(), help=f"{shape}; as in 65536x128")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="float32", help="of the inputs")
    parser.add_argument("--device", choices=DEVICES, help="default: each that has kernels")
    parser.add_argument("--rounds", type=count, help="turns whose median counts (15; in a sweep 5)")
    parser.add_argument("--quick", action="store_true", help="3 rounds, small inputs: a look, no result")
    parser.add_argument("--sweep", action="store_true", help="over sizes of lists and groups, with a picture")
    parser.add_argument("--out", type=Path, help="a folder to write to, as bench/results; else only print")
    args = parser.parse_args(words)
    if args.device and not served(args.device):
        parser.error(f"--device {args.device}: {WHY_NOT[args.device]}")
    if args.out and args.out.exists() and not args.out.is_dir():
        parser.error(f"--out {args.out}: expected a folder")
    if args.shape and args.sweep:
        parser.error("--shape: a sweep has its own shapes")
    if args.op and args.shape and len(args.shape) not in [len(shape) for shape in SHAPES[args.op]]:
        parser.error(f"--shape: {args.op} takes {shape}")
    return args


def served(device: str) -> bool:
    """Whether a device has kernels, compiled ones or their twins in Triton."""
    return built_for(torch.device(device)) or twin_for(torch.device(device))


def head(device: str, quick: bool) -> list[str]:
    """The first lines of a result."""
    lines = heading("kernels", f"The kernels on {device}")[:-1]
    if device == "cuda":
        by = "the compiled kernels" if built_for(torch.device(device)) else "their twins in Triton"
        lines += ["", f"{gpu()}; by {by}"]
    if quick:
        lines += ["", "Quick: few rounds, and buffers that a cache may hold. Nothing to quote."]
    return lines


def gpu() -> str:
    """What the GPU is."""
    properties = torch.cuda.get_device_properties(0)
    return f"{properties.name}, L2 {properties.L2_cache_size // 1024:,} KiB, CUDA {torch.version.cuda}"


def earlier(device: str, out: Path | None) -> tuple[str, ...]:
    """Results of all tables that this machine has: those committed, and those in the folder to write to."""
    this = gpu() if device == "cuda" else machine().partition(";")[0]
    files = {folder / f"kernels_{device}.md" for folder in (RESULTS, out or RESULTS)}
    return tuple(text for file in files if file.is_file() and this in (text := file.read_text("utf-8")))


def name_of(args: argparse.Namespace, device: str) -> str:
    """The name of a result, without ending; only that of all tables is kernels_cpu or kernels_cuda."""
    words = ["kernels", "sweep" * args.sweep, device, args.op, "x".join(map(str, args.shape))]
    words += [args.dtype.replace("float32", ""), "quick" * args.quick]
    return "_".join(filter(None, words))


def report(args: argparse.Namespace, device: str) -> None:
    """Measure what is asked for on a device; print it, and write it where that is asked for too."""
    rounds = args.rounds or (3 if args.quick else 5 if args.sweep else 15)
    setup = Setup(device, DTYPES[args.dtype], rounds, args.quick, earlier(device, args.out))
    name = name_of(args, device)
    picture = args.out and args.out / f"{name}.png"
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
    body = kernels_sweep.sweep(args.op, setup, picture) if args.sweep else tables(args.op, args.shape, setup)
    page = show(itertools.chain(head(device, args.quick), body))
    if args.out:
        (args.out / f"{name}.md").write_text(page, "utf-8")


def main() -> None:
    """Measure on the devices that have kernels, and say what others lack."""
    args = arguments(sys.argv[1:])
    for device in [args.device] if args.device else DEVICES:
        if served(device):
            report(args, device)
        else:
            print(f"{device}: not measured: {WHY_NOT[device]}")


if __name__ == "__main__":
    main()
