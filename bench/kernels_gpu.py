"""What ``bench.kernels`` measures on a GPU alone: every layout of the kernels, and small inputs."""

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from bench.kernels_rows import Row, Setup, buffers, captured, device_clock, floor, size_of, table
from bench.kernels_ways import NORMALISED, OPTIONS
from bench.timing import medians
from minirec.ops import group_normalize, reference, swap_advantages, swap_ndcg

LISTS, GROUP = 65_536, 16


def bandwidth(setup: Setup) -> Iterator[str]:
    """Every layout of the kernels beside a copy of the same bytes on the GPU."""
    for size, dtype in itertools.product((10, 16, 50, 128, 1000), (torch.float32, torch.bfloat16)):
        own = setup._replace(dtype=dtype)
        shape, middle = (LISTS, size), (LISTS // GROUP, GROUP, size)
        pairs, idcg = buffers(shape, own), torch.full((LISTS,), 20.0, device=setup.device)
        gains, by, cut = pairs[0][0].double(), idcg.double(), (size, True)
        valid = torch.ones(shape, dtype=torch.bool, device=setup.device)
        both = gains.view(middle), by.view(-1, GROUP), valid.view(middle)
        swaps, best = (reference.swap_ndcg(gains, ideal, valid, *cut) for ideal in (by, None))
        whole = reference.group_normalize(gains[..., None], None, None, *OPTIONS)[..., 0]
        columns = reference.group_normalize(both[0], None, None, *OPTIONS).view(shape)
        fused = reference.swap_normalize(*both, *cut, *OPTIONS).view(shape)

        def groups(x: Tensor, middle: tuple = middle) -> Tensor:
            return x.view(middle)

        def fuse(x: Tensor, out: Tensor, idcg: Tensor = idcg, middle: tuple = middle) -> Tensor:
            return swap_advantages(x.view(middle), idcg.view(-1, GROUP), out=out.view(middle)).view(x.shape)

        def along(x: Tensor, out: Tensor, of: Callable = groups) -> Tensor:
            return group_normalize(of(x), 1, out=of(out)).view(x.shape)

        rows = [
            floor(own),
            Row("swap_ndcg(out=)", lambda x, out, idcg=idcg: swap_ndcg(x, idcg, out=out), swaps),
            Row("swap_ndcg(out=), own IDCG", lambda x, out: swap_ndcg(x, out=out), best),
            Row("group_normalize(out=)", lambda x, out: group_normalize(x, out=out), whole),
            Row("along the middle", along, columns),
            Row("swap_advantages(out=)", fuse, fused),
        ]
        yield from table(size_of(shape, own), rows, pairs, NORMALISED * max(1, size / 1000), own)


def graphs(setup: Setup) -> Iterator[str]:
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
    yield from ("", "| CUDA-graph replay | µs | of the floor |", "|---|---|---|")
    runs = {name: captured(lambda call=call: [call() for _ in range(100)])[0] for name, call in calls.items()}
    found = medians(runs, setup.rounds, device_clock)
    least = next(iter(found.values()))
    yield from (f"| {name} | {1e4 * value:.2f} | {value / least:.2f} |" for name, value in found.items())
