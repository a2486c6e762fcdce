"""The operations of ``bench.kernels`` on any shape, in the ways that stand in every table and in the sweep.

Tolerances. Swap rewards are at most 1, and float32 rounds the sums of a list of 1,000 to a few 1e-7. To
normalise divides such an error by the std of a position over the group, which is some 1/100 of the rewards.
The sums of longer lists are off by more.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from bench import kernels_peers as peers
from bench.kernels_rows import Row, Setup, buffers, floor
from minirec.ops import group_normalize, reference, swap_advantages, swap_ndcg

EXACT, NORMALISED = 2e-6, 2e-4
OPTIONS = (1, 1e-6, True, False)  # ddof, eps, divide by the std, leave one out


class Ways(NamedTuple):
    """An operation on a shape: (input, output) pairs, IDCG of lists, and rows.

    The rows are the floor, the kernel, torch.compile and torch, in this order.
    """

    pairs: list[tuple[Tensor, Tensor]]
    rows: list[Row]
    tolerance: float
    idcg: Tensor | None = None


def compiled(call: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """The call, compiled for its shape alone; what was compiled for another shape is forgotten."""
    torch.compiler.reset()
    return torch.compile(call, dynamic=False)


def swap(shape: tuple[int, ...], setup: Setup) -> Ways:
    """Swap rewards of n lists of K."""
    pairs = buffers(shape, setup)
    first, out = pairs[0]
    idcg = torch.full(shape[:1], 20.0, dtype=out.dtype, device=setup.device)
    valid = torch.ones(shape, dtype=torch.bool, device=setup.device)

    def in_torch(x: Tensor, out: Tensor) -> Tensor:
        return reference.swap_ndcg(x.to(out.dtype), idcg, valid, shape[1], True)

    truth = reference.swap_ndcg(first.double(), idcg.double(), valid, shape[1], True)
    reads = (first, idcg)
    rows = [
        floor(setup),
        Row("swap_ndcg(out=)", lambda x, out: swap_ndcg(x, idcg, out=out, check=False), truth, reads=reads),
        Row("torch.compile, O(K)", compiled(in_torch), truth, True, reads=reads),
        Row("torch, O(K)", in_torch, truth, True, reads=reads),
    ]
    return Ways(pairs, rows, EXACT, idcg)


def normalize(shape: tuple[int, ...], setup: Setup) -> Ways:
    """Group normalisation over the second dimension: the last of two, or the middle one of three."""
    pairs = buffers(shape, setup)
    columns = pairs[0][0].double().view(*shape[:2], -1)
    truth = reference.group_normalize(columns, None, None, *OPTIONS).view(shape)

    def in_torch(x: Tensor, out: Tensor) -> Tensor:
        return peers.along(x.to(out.dtype), 1)

    rows = [
        floor(setup),
        Row("group_normalize(out=)", lambda x, out: group_normalize(x, 1, out=out, check=False), truth),
        Row("torch.compile", compiled(in_torch), truth),
        Row("torch", in_torch, truth, truth.numel() > 2**21),
    ]
    return Ways(pairs, rows, NORMALISED)


def fused(shape: tuple[int, ...], setup: Setup) -> Ways:
    """FlexRec's advantages of (B, G, K): swap rewards, normalised by position over a context's lists."""
    pairs = buffers(shape, setup)
    first, out = pairs[0]
    idcg = torch.full(shape[:2], 20.0, dtype=out.dtype, device=setup.device)
    valid = torch.ones(shape, dtype=torch.bool, device=setup.device)

    def in_torch(x: Tensor, out: Tensor) -> Tensor:
        flat = x.to(out.dtype).flatten(0, 1)
        rewards = reference.swap_ndcg(flat, idcg.flatten(), valid.flatten(0, 1), shape[2], True)
        return peers.along(rewards.view(shape), 1)

    truth = reference.swap_normalize(first.double(), idcg.double(), valid, shape[2], True, *OPTIONS)
    reads = (first, idcg)

    def kernel(x: Tensor, out: Tensor) -> Tensor:
        return swap_advantages(x, idcg, out=out, check=False)

    rows = [
        floor(setup),
        Row("swap_advantages(out=)", kernel, truth, reads=reads),
        Row("torch.compile of the two", compiled(in_torch), truth, True, reads=reads),
        Row("the two in torch", in_torch, truth, True, reads=reads),
    ]
    return Ways(pairs, rows, NORMALISED * max(1, shape[2] / 1000), idcg)


WAYS = {"swap": swap, "normalize": normalize, "fused": fused}
