"""The kernels beside a floor, plain torch and public packages, in one run.

    python -m bench.kernels [cpu] [cuda]

The floor reads and writes the same bytes and computes nothing worth speaking of: ``torch.mul`` on a CPU, a
copy on a GPU. Inputs and outputs rotate over more memory than a cache holds. Every row is first held against
the closed form in float64; one that is off is called red and gets no number. Rows marked "scaled" do a part
of the work, and their time is multiplied. A GPU keeps the time itself, from event to event around the replay
of a CUDA graph, so that no launch counts; rows marked "launched" read a value, and no graph can hold them.

Tolerances. Swap rewards are at most 1, and float32 rounds the sums of a list of 1,000 to a few 1e-7. To
normalise divides such an error by the std of a position over the group, which is some 1/100 of the rewards.
"""

import itertools
import statistics
import sys
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bench import kernels_peers as peers
from bench.timing import medians, write
from minirec.ops import group_normalize, reference, swap_advantages, swap_ndcg
from minirec.ops.load import WHY_NOT, built_for

ROUNDS = 15
CACHE = 384 * 2**20  # bytes; more than the last cache of the machines this is run on
LISTS, GROUP, SIZE = 65_536, 16, 128
CONTEXTS = LISTS // GROUP
EXACT, NORMALISED = 2e-6, 2e-4
HOW = (1, 1e-6, True, False)  # ddof, eps, divide by the std, leave one out


class Row(NamedTuple):
    """Something to time: a call on an input and an output, and what it must give."""

    name: str
    call: Callable[[Tensor, Tensor], Tensor]
    truth: Tensor | None = None  # of the first input
    once: bool = False  # slow: on the first input only
    part: float = 1.0  # of the work of an input


def buffers(*shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> list[tuple]:
    """Pairs of an input in [0, 1) and an output, together larger than a cache, all memory touched."""
    torch.manual_seed(0)
    size = torch.Size(shape).numel() * 8
    pairs = range(max(2, -(-CACHE // size)))
    return [(torch.rand(shape, device=device).to(dtype), torch.zeros(shape, device=device)) for _ in pairs]


def green(row: Row, pair: tuple[Tensor, Tensor], tolerance: float) -> bool:
    """Whether a row gives the truth."""
    if row.truth is None:
        return True
    pair[1].fill_(torch.nan)
    off = (row.call(*pair).double() - row.truth).abs().max()
    return bool(off <= tolerance)


def floor(device: str) -> Row:
    """The same bytes, and nothing to compute."""
    if device == "cpu":
        return Row("torch.mul(out=), the floor", lambda x, out: torch.mul(x, 2.0, out=out))
    return Row("copy, the floor", lambda x, out: out.copy_(x))


def captured(run: Callable[[], object]) -> tuple[Callable[[], object], bool]:
    """What replays the kernels of a run on the GPU, and whether that is a graph."""
    run()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            run()
    except RuntimeError:  # it waits for the device
        torch.cuda.synchronize()
        return run, False
    return graph.replay, True


def device_medians(runs: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Like ``medians``, by the clock of the GPU."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            end.synchronize()
            seconds[name].append(start.elapsed_time(end) / 1000)
    return {name: statistics.median(values) for name, values in seconds.items()}


def measure(rows: list[Row], pairs: list[tuple], tolerance: float) -> dict[str, tuple[float, str]]:
    """Median seconds per row for the whole work, and its name there; without the rows that are red."""
    runs, names = {}, {}
    for row in (row for row in rows if green(row, pairs[0], tolerance)):

        def run(call=row.call, some=pairs[: 1 if row.once else None]) -> None:
            for pair in some:
                call(*pair)

        runs[row.name], whole = captured(run) if pairs[0][0].is_cuda else (run, True)
        names[row.name] = row.name if whole else f"{row.name}, launched"
    parts = {row.name: row.part * (1 if row.once else len(pairs)) for row in rows}
    found = device_medians(runs) if pairs[0][0].is_cuda else medians(runs, ROUNDS)
    return {name: (seconds / parts[name], names[name]) for name, seconds in found.items()}


def table(title: str, rows: list[Row], pairs: list[tuple], tolerance: float) -> list[str]:
    """A table; its first row is the floor, its second the kernel. Times are shown against both."""
    seconds = measure(rows, pairs, tolerance)
    least, kernel = (seconds.get(row.name, (None,))[0] for row in rows[:2])
    lines = ["", f"| {title} | ms | of the floor | of the kernel |", "|---|---|---|---|"]
    for row in rows:
        if row.name not in seconds:
            lines.append(f"| {row.name} | red | | |")
            continue
        value, name = seconds[row.name]
        against = f"{value / kernel:,.2f}" if kernel else ""
        lines.append(f"| {name} | {1000 * value:,.3f} | {value / least:,.2f} | {against} |")
    return lines


def two_in_torch(gains: Tensor, idcg: Tensor, valid: Tensor) -> Tensor:
    """FlexRec's advantages of (B, G, K) in plain torch: the closed form, then a group's mean and std."""
    rewards = reference.swap_ndcg(gains.flatten(0, 1), idcg, valid, gains.shape[-1], True)
    return peers.along(rewards.view_as(gains), 1)


def swap_tables(device: str) -> list[str]:
    """Swap rewards of 65,536 lists of 128."""
    pairs = buffers(LISTS, SIZE, device=device)
    idcg = torch.full((LISTS,), 20.0, device=device)
    valid = torch.ones(LISTS, SIZE, dtype=torch.bool, device=device)
    most = torch.rand(LISTS, SIZE, device=device) < 0.9
    half = pairs[0][0].bfloat16()

    def truth(gains: Tensor, mask: Tensor = valid, later: bool = True) -> Tensor:
        return reference.swap_ndcg(gains.double(), idcg.double(), mask, SIZE, later)

    first = pairs[0][0]
    own = {"idcg": idcg, "check": False}
    whole = truth(first)

    def in_torch(gains: Tensor, out: Tensor) -> Tensor:
        return reference.swap_ndcg(gains, idcg, valid, SIZE, True)

    compiled = torch.compile(in_torch)
    rows = [
        floor(device),
        Row("swap_ndcg(out=)", lambda x, out: swap_ndcg(x, out=out, **own), whole),
        Row("with check=True", lambda x, out: swap_ndcg(x, idcg, out=out, check=True), whole),
        Row("without out=", lambda x, out: swap_ndcg(x, **own), whole),
        Row("pool all", lambda x, out: swap_ndcg(x, pool="all", out=out, **own), truth(first, later=False)),
        Row("a tenth masked", lambda x, out: swap_ndcg(x, mask=most, out=out, **own), truth(first, most)),
        Row("bfloat16 in", lambda x, out: swap_ndcg(half, out=out, **own), truth(half)),
        Row("torch.compile, O(K)", compiled, whole, True),
        Row("torch, O(K)", in_torch, whole, True),
    ]
    if device == "cpu":
        few, fewer = 1024, 4
        rows += [
            Row(
                "torch, O(K²), scaled",
                lambda x, out: peers.pairs(x[:few], idcg[:few]),
                None,
                True,
                few / LISTS,
            ),
            Row(
                "Python, O(K³), scaled",
                lambda x, out: peers.literal_swaps(x[:fewer], idcg[:fewer]),
                None,
                True,
                fewer / LISTS,
            ),
        ]
        for name, call in peers.public_ndcg().items():
            rows.append(
                Row(f"{name}, scaled", lambda x, out, call=call: call(x[:few]), None, True, few / LISTS)
            )
    return table(f"swap rewards, {LISTS:,} x {SIZE} float32", rows, pairs, EXACT)


def instruction_sets() -> list[str]:
    """The same by every instruction set of this machine."""
    pairs, idcg = buffers(LISTS, SIZE), torch.full((LISTS,), 20.0)

    def by(name: str) -> Callable[[Tensor, Tensor], Tensor]:
        def call(x: Tensor, out: Tensor) -> Tensor:
            torch.ops.minirec.use_instruction_set(name)
            return swap_ndcg(x, idcg, out=out, check=False)

        return call

    names = torch.ops.minirec.instruction_sets().split(",")
    rows = [floor("cpu")]
    rows += [Row(name, by(name)) for name in names]
    lines = table(f"swap_ndcg, {LISTS:,} x {SIZE}, by instruction set", rows, pairs, EXACT)
    torch.ops.minirec.use_instruction_set("")
    return lines


def normalize_tables(device: str) -> list[str]:
    """Group normalisation of contiguous groups, and along the middle dimension."""
    pairs = buffers(LISTS, GROUP, device=device)
    compiled, middle = (torch.compile(lambda x, dim=dim: peers.along(x, dim)) for dim in (-1, 1))
    truth = reference.group_normalize(pairs[0][0].double()[..., None], None, None, *HOW)[..., 0]
    prompts = [f"prompt {i // GROUP}" for i in range(1024 * GROUP)]
    rows = [
        floor(device),
        Row("group_normalize(out=)", lambda x, out: group_normalize(x, out=out, check=False), truth),
        Row("with check=True", lambda x, out: group_normalize(x, out=out, check=True), truth),
        Row("torch.compile", lambda x, out: compiled(x), truth),
        Row("torch", lambda x, out: peers.along(x, -1), truth),
        Row("view(-1, G), repeat_interleave", lambda x, out: peers.broadcast(x.flatten(), GROUP)),
    ]
    if device == "cpu":
        rows.append(
            Row(
                "a dictionary of prompts, scaled",
                lambda x, out: peers.dictionary(x.flatten()[: len(prompts)], prompts),
                None,
                True,
                1024 / LISTS,
            )
        )
    lines = table(f"group_normalize, {LISTS:,} x {GROUP} float32", rows, pairs, NORMALISED)
    pairs = buffers(CONTEXTS, GROUP, SIZE, device=device)
    truth = reference.group_normalize(pairs[0][0].double(), None, None, *HOW)
    rows = [
        floor(device),
        Row("group_normalize(out=)", lambda x, out: group_normalize(x, 1, out=out, check=False), truth),
        Row("torch.compile", lambda x, out: middle(x), truth, True),
        Row("torch", lambda x, out: peers.along(x, 1), truth, True),
    ]
    return lines + table(
        f"the same along the middle, {CONTEXTS:,} x {GROUP} x {SIZE}", rows, pairs, NORMALISED
    )


def fused_table(device: str) -> list[str]:
    """FlexRec's advantages of 4,096 contexts with 16 lists of 128."""
    pairs = buffers(CONTEXTS, GROUP, SIZE, device=device)
    idcg = torch.full((CONTEXTS, GROUP), 20.0, device=device)
    valid = torch.ones(LISTS, SIZE, dtype=torch.bool, device=device)
    between = torch.zeros(CONTEXTS, GROUP, SIZE, device=device)
    double = reference.swap_ndcg(
        pairs[0][0].double().flatten(0, 1), idcg.double().flatten(), valid, SIZE, True
    ).view(CONTEXTS, GROUP, SIZE)
    truth = reference.group_normalize(double, None, None, *HOW)

    def two_ops(x: Tensor, out: Tensor) -> Tensor:
        swap_ndcg(x, idcg, out=between, check=False)
        return group_normalize(between, 1, out=out, check=False)

    compiled = torch.compile(lambda x: two_in_torch(x, idcg.flatten(), valid))
    rows = [
        floor(device),
        Row("swap_advantages(out=)", lambda x, out: swap_advantages(x, idcg, out=out, check=False), truth),
        Row("swap_ndcg(out=) alone", lambda x, out: swap_ndcg(x, idcg, out=out, check=False), double),
        Row("swap_ndcg, then group_normalize", two_ops, truth),
        Row("torch.compile of the two", lambda x, out: compiled(x), truth, True),
        Row("the two in torch", lambda x, out: two_in_torch(x, idcg.flatten(), valid), truth, True),
    ]
    return table(f"swap_advantages, {CONTEXTS:,} x {GROUP} x {SIZE} float32", rows, pairs, NORMALISED)


def graphs() -> list[str]:
    """Small inputs under CUDA-graph replay, beside the smallest kernel that torch has."""
    gains, out, one = torch.rand(64, 10).cuda(), torch.empty(64, 10).cuda(), torch.empty(1).cuda()
    idcg = torch.full((64,), 3.0).cuda()
    group, to = torch.rand(8, 8, 10).cuda(), torch.empty(8, 8, 10).cuda()
    calls = {
        "fill of one number, the floor": lambda: one.fill_(0.0),
        "swap_ndcg, 64 x 10": lambda: swap_ndcg(gains, idcg, out=out),
        "group_normalize, 64 x 10": lambda: group_normalize(gains, out=out),
        "swap_advantages, 8 x 8 x 10": lambda: swap_advantages(group, idcg.view(8, 8), out=to),
    }
    lines = ["", "| CUDA-graph replay | µs | of the floor |", "|---|---|---|"]
    runs = {name: captured(lambda call=call: [call() for _ in range(100)])[0] for name, call in calls.items()}
    found = device_medians(runs)
    least = next(iter(found.values()))
    return lines + [f"| {name} | {1e4 * value:.2f} | {value / least:.2f} |" for name, value in found.items()]


def bandwidth() -> list[str]:
    """Every layout of the kernels beside a copy of the same bytes on the GPU."""
    lines = []
    for size, dtype in itertools.product((10, 16, 50, SIZE, 1000), (torch.float32, torch.bfloat16)):
        pairs, idcg = (
            buffers(LISTS, size, dtype=dtype, device="cuda"),
            torch.full((LISTS,), 20.0, device="cuda"),
        )
        middle = (-1, GROUP, size)

        def groups(x: Tensor, middle: tuple = middle) -> Tensor:
            return x.view(middle)

        def fused(x: Tensor, out: Tensor, idcg: Tensor = idcg, middle: tuple = middle) -> Tensor:
            return swap_advantages(x.view(middle), idcg.view(-1, GROUP), out=out.view(middle))

        rows = [
            floor("cuda"),
            Row("swap_ndcg(out=)", lambda x, out, idcg=idcg: swap_ndcg(x, idcg, out=out)),
            Row("swap_ndcg(out=), own IDCG", lambda x, out: swap_ndcg(x, out=out)),
            Row("group_normalize(out=)", lambda x, out: group_normalize(x, out=out)),
            Row("along the middle", lambda x, out, of=groups: group_normalize(of(x), 1, out=of(out))),
            Row("swap_advantages(out=)", fused),
        ]
        lines += table(f"{LISTS:,} x {size} {str(dtype)[6:]}", rows, pairs, EXACT)
    return lines


def main() -> None:
    """Measure what this machine has, and write the tables."""
    devices = [x for x in sys.argv[1:] or ("cpu", "cuda") if built_for(torch.device(x))]
    for device in devices:
        lines = swap_tables(device) + normalize_tables(device) + fused_table(device)
        lines += instruction_sets() if device == "cpu" else bandwidth() + graphs()
        if device == "cuda":
            lines = [f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}", *lines]
        write("kernels", f"The kernels on {device}", lines, result=f"kernels_{device}")
    for device, reason in WHY_NOT.items():
        if reason:
            print(f"{device}: not measured: {reason}")


if __name__ == "__main__":
    main()
