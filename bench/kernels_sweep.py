"""``python -m bench.kernels --sweep``: time over the floor against length of lists and size of groups.

An input has about as many numbers at every size. At each size all backends and the floor take turns.
torch.compile compiles for each shape alone, as it would for a run with one shape.
"""

import importlib.util
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from bench.kernels_rows import Setup, busy, prepared, timed
from bench.kernels_ways import WAYS
from minirec.ops import load

NUMBERS = 2**23  # in an input; an eighth if quick
GROUP = 16  # lists of a context, where the length of lists varies under a group
LEVEL = 1.1  # times the kernel: what counts as level; two runs differ by some 5 %
SWEPT = {  # operation: the letter that varies, its sizes, every one of which is quick
    "swap": ("K", (8, 10, 16, 20, 32, 50, 64, 100, 128, 200, 256, 500, 512, 1000, 1024, 2000, 2048, 4096), 6),
    "normalize": ("G", (2, 3, 4, 7, 8, 10, 16, 20, 32, 50, 64, 100, 128, 256, 500, 512, 1000, 1024), 5),
    "fused": ("K", (8, 20, 50, 128, 500, 1024, 4096), 6),
}
TITLES = {
    "swap": "swap rewards of lists of K",
    "normalize": "normalisation of groups of G",
    "fused": f"both, {GROUP} lists of K",
}
LINES = {
    "kernel": "C0o-",
    "avx2": "C2.:",
    "baseline": "C7.:",
    "triton": "C4v-",
    "torch.compile": "C1s-",
    "torch": "C3^-",
}

Points = dict[int, dict[str, float]]  # size -> backend -> times the floor


def by(name: str, call: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """A call of a kernel by an instruction set of this machine ("": the best), or by its twin in Triton."""

    def chosen(x: Tensor, out: Tensor) -> Tensor:
        if name == "triton":
            from minirec.ops import triton  # noqa: F401  it registers them

            with patch.dict(load.WHY_NOT, cuda="set aside", triton=""):
                return call(x, out)
        torch.ops.minirec.use_instruction_set(name)
        try:
            return call(x, out)
        finally:
            torch.ops.minirec.use_instruction_set("")

    return chosen


def shape_of(op: str, size: int, setup: Setup) -> tuple[int, ...]:
    """About as many numbers at every size."""
    numbers = NUMBERS // 8 if setup.quick else NUMBERS
    lists = (
        max(1, numbers // size // 64) * 64
    )  # each thread then begins at a whole line of a cache, the floor's too
    return (lists // GROUP, GROUP, size) if op == "fused" else (lists, size)


def backends(setup: Setup) -> list[str]:
    """The names of what is timed beside the floor: the kernel, what else serves it, and torch."""
    if setup.device == "cpu":
        others = torch.ops.minirec.instruction_sets().split(",")[1:]
    else:  # where the kernel is in CUDA, its twin stands beside it
        others = ["triton"] if not load.WHY_NOT["cuda"] and importlib.util.find_spec("triton") else []
    return ["kernel", *others, "torch.compile", "torch"]


def measured(op: str, size: int, setup: Setup) -> tuple[list[float], dict[str, float]]:
    """The floor in seconds by round, and what each backend that is green takes in times of its median."""
    ways = WAYS[op](shape_of(op, size, setup), setup)
    floor, kernel, compiled, plain = ways.rows
    rows = {"floor": floor, "kernel": kernel, "torch.compile": compiled, "torch": plain}
    for name in backends(setup):
        rows.setdefault(name, kernel._replace(call=by(name, kernel.call)))
    ready = [prepared(row._replace(name=name), ways.pairs, ways.tolerance) for name, row in rows.items()]
    seconds = timed([row for row in ready if row], setup)
    floors = seconds.pop("floor")
    least = statistics.median(floors)
    return floors, {name.partition(", ")[0]: statistics.median(x) / least for name, x in seconds.items()}


def verdict(letter: str, points: Points) -> str:
    """Where torch.compile is level with the kernel or ahead, by a rule."""
    both = {size: row for size, row in points.items() if {"kernel", "torch.compile"} <= row.keys()}
    where = [f"{n:,}" for n, row in both.items() if row["torch.compile"] <= LEVEL * row["kernel"]]
    places = f"{letter} = {', '.join(where)}" if where else "no size"
    return f"torch.compile is level or ahead (at most {LEVEL} times the kernel) at {places}."


def sweep(op: str, setup: Setup, picture: Path | None) -> Iterator[str]:
    """The lines of a table for each operation ("": all), each as it is measured; then draws the picture."""
    found: dict[str, Points] = {}
    yield from ("", "In times of the floor. A backend whose numbers are off at a size is red there.")
    for name in (op,) if op else SWEPT:
        letter, sizes, step = SWEPT[name]
        names, points, floors = backends(setup), found.setdefault(name, {}), {}
        yield from ("", f"## {TITLES[name]}, {str(setup.dtype)[6:]}", "")
        yield from (
            f"| {letter} | shape | floor, ms | {' | '.join(names)} |",
            "|---" * (3 + len(names)) + "|",
        )
        for size in sizes[:: step if setup.quick else 1]:
            own, points[size] = measured(name, size, setup)
            floors[max(own) / min(own)] = own
            cells = [f"{points[size][x]:,.2f}" if x in points[size] else "red" for x in names]
            shape = " x ".join(f"{n:,}" for n in shape_of(name, size, setup))
            yield f"| {size:,} | {shape} | {1e3 * statistics.median(own):,.3f} | {' | '.join(cells)} |"
        yield from ("", verdict(letter, points))
        yield from busy(name, floors[max(floors)], ())  # of the size where it varied most
    if picture and importlib.util.find_spec("matplotlib"):
        draw(found, picture)
        yield from ("", f"![time over the floor against size]({picture.name})")
    elif picture:
        yield from ("", "No picture: matplotlib is not installed.")


def draw(found: dict[str, Points], path: Path) -> None:
    """A panel for each operation: times the floor against size, a line for each backend."""
    from matplotlib.figure import Figure

    figure = Figure((4 * len(found), 3.4), layout="constrained")
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, (op, points) in zip(panels, found.items(), strict=True):
        for name in dict.fromkeys(name for row in points.values() for name in row):
            drawn = {size: row[name] for size, row in points.items() if name in row}
            style = LINES.get(name, ".:")
            axes.plot(*zip(*drawn.items(), strict=True), style, markersize=3, linewidth=1, label=name)
        axes.axhline(1, color="tab:gray", linewidth=0.8)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set(yscale="log", title=TITLES[op], xlabel=SWEPT[op][0], ylabel="times the floor")
        axes.legend(fontsize="x-small")
    figure.savefig(path, dpi=110)
