"""How ``bench.kernels`` measures: rows, buffers larger than a cache, the floor, and a table row by row."""

import re
import statistics
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from bench.timing import caches, turns, wall

CACHE = 384 * 2**20  # bytes; more than the last cache of most machines
SMALL = 64 * 2**20  # bytes of a quick run
MOST = 512  # buffers; inputs so small that these fit in a cache are timed there
BUSY = 1.25  # median over best; rounds on a quiet machine are within a tenth of one another
COLUMNS = "ms | of the floor | of the kernel | GB/s | share of the floor |"


class Setup(NamedTuple):
    """What is asked of a run."""

    device: str = "cpu"
    dtype: torch.dtype = torch.float32  # of the inputs; outputs are float32 at least
    rounds: int = 15
    quick: bool = False  # an eighth of the lists, and buffers that may lie in a cache
    saved: tuple[str, ...] = ()  # earlier results of this machine, in which floors are named


class Row(NamedTuple):
    """Something to time: a call on an input and an output, and what it must give."""

    name: str
    call: Callable[[Tensor, Tensor], Tensor]
    truth: Tensor | None = None  # of the first input
    once: bool = False  # slow: on the first input only
    part: float = 1.0  # of the work of an input
    reads: tuple[Tensor, ...] = ()  # all that it has to read, where that is not the input alone


class Ready(NamedTuple):
    """A row that is green: a run of it, and how often the work is in that."""

    name: str
    run: Callable[[], object]
    works: float


def buffers(shape: tuple[int, ...], setup: Setup) -> list[tuple[Tensor, Tensor]]:
    """Pairs of an input and an output, together larger than a cache, all memory touched.

    Inputs are multiples of 1/256 in [0, 1), which bfloat16 has too. Then members of a group are equal, or so
    far apart that float32 can tell how far: two that are nearly equal would make every plain way red.
    """
    torch.manual_seed(0)
    wide = torch.promote_types(setup.dtype, torch.float32)
    size = torch.Size(shape).numel() * (setup.dtype.itemsize + wide.itemsize)
    least = SMALL if setup.quick else max(CACHE, 2 * 1024 * max(caches().values(), default=0))

    x = torch.rand(shape, device=setup.device, dtype=wide).mul_(256).floor_().div_(256).to(setup.dtype)
    out = torch.zeros(shape, device=setup.device, dtype=wide)
    return [(x.clone(), out.clone()) for _ in range(min(MOST, max(2, -(-least // size))))]


def size_of(shape: tuple[int, ...], setup: Setup) -> str:
    """How a table calls a shape and a dtype."""
    return f"{' x '.join(f'{n:,}' for n in shape)} {str(setup.dtype)[6:]}"


def floor(setup: Setup) -> Row:
    """The same bytes, and nothing to compute."""
    if setup.device == "cpu" and setup.dtype.itemsize >= 4:
        return Row("torch.mul(out=), the floor", lambda x, out: torch.mul(x, 2.0, out=out))
    return Row("copy, the floor", lambda x, out: out.copy_(x))


def green(row: Row, pair: tuple[Tensor, Tensor], tolerance: float) -> bool:
    """Whether a row gives the truth."""
    if row.truth is None:
        return True
    pair[1].fill_(torch.nan)
    off = (row.call(*pair).double() - row.truth).abs().max()
    return bool(off <= tolerance)


def captured(run: Callable[[], object]) -> tuple[Callable[[], object], bool]:
    """What replays the kernels of a run on the GPU, and whether that is a graph.

    A run that waits for the device is found before a graph is tried: one that fails may spoil those after it.
    """
    run()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    except RuntimeError:
        return run, False
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay, True


def device_clock(run: Callable[[], object]) -> float:
    """Seconds of a run by the clock of the GPU, from event to event."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def prepared(row: Row, pairs: list[tuple[Tensor, Tensor]], tolerance: float) -> Ready | None:
    """A row that can be timed; None where it is red."""
    if not green(row, pairs[0], tolerance):
        return None
    some = pairs[: 1 if row.once else None]

    def run() -> None:
        for pair in some:
            row.call(*pair)

    replay, whole = captured(run) if pairs[0][0].is_cuda else (run, True)
    return Ready(row.name if whole else f"{row.name}, launched", replay, row.part * len(some))


def timed(rows: list[Ready], setup: Setup) -> dict[str, list[float]]:
    """Seconds that the whole work takes, of each row in each round, the rows in turn."""
    clock = wall if setup.device == "cpu" else device_clock
    found = turns({row.name: row.run for row in rows}, setup.rounds, clock)
    return {row.name: [seconds / row.works for seconds in found[row.name]] for row in rows}


def table(title: str, rows: list[Row], pairs: list[tuple], tolerance: float, setup: Setup) -> Iterator[str]:
    """The lines of a table, each as soon as it is measured.

    Its first row is the floor, its second the kernel. Each row takes turns with these two, and its ratios are
    of these turns.
    """
    yield from ("", f"| {title} | {COLUMNS}", "|---" * 6 + "|")
    first = [prepared(row, pairs, tolerance) for row in rows[:2]]
    floors: list[float] = []
    for i, row in enumerate(rows):
        own = first[i] if i < 2 else prepared(row, pairs, tolerance)
        if own is None:
            yield f"| {row.name} | red" + " |" * 5
            continue
        seconds = timed([ready for ready in (*first, own) if ready], setup)
        floors += seconds[first[0].name]
        least, value = (statistics.median(seconds[name]) for name in (first[0].name, own.name))
        of_kernel = f"{value / statistics.median(seconds[first[1].name]):,.2f}" if first[1] else ""
        moved = sum(x.nbytes for x in row.reads or pairs[0][:1]) + pairs[0][1].nbytes
        yield (
            f"| {own.name} | {1e3 * value:,.3f} | {value / least:,.2f} | {of_kernel} "
            f"| {moved / value / 1e9:,.1f} | {least / value:.1%} |"
        )
    yield from busy(title, floors, setup.saved)


def busy(title: str, floors: list[float], saved: tuple[str, ...]) -> Iterator[str]:
    """A warning if the floor usually took longer, in seconds, than at best in this run or an earlier one."""
    usual, best, where = statistics.median(floors), min(floors), "in the best round"
    for text in saved:
        found = re.search(rf"\| {re.escape(title)} \| ms .*\n.*\n\| [^|]*, the floor \| ([\d,.]+)", text)
        if found and (value := float(found[1].replace(",", "")) / 1e3) < best:
            best, where = value, "in an earlier run"
    if usual > BUSY * best:
        yield ""
        yield (
            f"**Is the machine busy?** The floor took {1e3 * usual:,.3f} ms, {1e3 * best:,.3f} ms {where}."
            " Ratios suffer least, as rows take turns with the floor. For times and GB/s end other work, and"
            " run again."
        )
