"""The operations in Triton: the middle between ``reference.py`` in plain torch and ``csrc/`` in CUDA.

A kernel is written for a tile: R lists or groups, each padded to K places, a power of two. Threads and shared
memory are left to Triton's compiler, so it is the closed form once more, between a read and a write. It is
compiled when it is first called; a CUDA graph can capture it from then on. With TRITON_INTERPRET=1, set
before Triton is imported, numpy runs it on the CPU. The ops take what the functions of ``reference`` take.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from minirec.ops.reference import Maybe, discounts, relative

TILE = 1024  # numbers of a tile, or more where one list has more


@triton.jit
def _swap(
    gains, idcg, valid, discounts, out, n, size,
    LATER: tl.constexpr, TINY: tl.constexpr, R: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """``reference.swap_ndcg`` of gains (n, size), R lists per program."""
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)[:, None]  # (R, 1)
    k = tl.arange(0, K)[None, :]  # (1, K)
    at = row * size + k  # (R, K) where it lies in memory
    inside = (row < n) & (k < size)
    m = tl.load(valid + at, inside, other=0)
    g = tl.load(gains + at, m, other=0)  # what is not valid is not even read

    largest = tl.clamp(tl.max(g, 1, keep_dims=True), TINY, 1 / TINY).to(tl.float64)  # (R, 1)
    exponent = largest.to(tl.int64, bitcast=True) >> 52
    scale = ((2046 - exponent) << 52).to(tl.float64, bitcast=True).to(g.dtype)  # 1 over the unit, exactly
    ideal = tl.load(idcg + row, row < n, other=0) * scale
    last = tl.max(tl.where(m, k, -1), 1, keep_dims=True)
    pivot = tl.sum(tl.where(k == last, g, 0), 1, keep_dims=True)
    x = tl.where(m, g * scale - pivot * scale, 0)  # (R, K), 0 in a tail of equal gains
    one, d = m.to(g.dtype), tl.load(discounts + k, k < size, other=0)  # (R, K), (1, K) float64
    if LATER:
        step = (d - tl.load(discounts + k + 1, k + 1 < size, other=0)).to(g.dtype)  # (1, K)
        partners = tl.cumsum(one, 1, reverse=True) - one  # (R, K)
        u, t = step * partners, step * (tl.cumsum(x, 1, reverse=True) - x)
        total = x * tl.cumsum(u, 1, reverse=True) - tl.cumsum(t, 1, reverse=True)
    else:
        partners = tl.sum(one, 1, keep_dims=True) - 1  # (R, 1)
        d = d.to(g.dtype) * one  # (R, K)
        d -= tl.sum(d, 1, keep_dims=True) / (partners + 1)
        product = tl.where(m, (x - tl.sum(x, 1, keep_dims=True) / (partners + 1)) * d, 0)
        total = (partners + 1) * product + tl.sum(product, 1, keep_dims=True)
    swaps = m & (partners > 0) & (ideal >= TINY)
    tl.store(out + at, tl.where(swaps, total / (partners * ideal), 0), inside)


@triton.jit
def _normalize(
    rewards, mask, offsets, out, n, size, inner, parts, EPS: tl.constexpr, DDOF: tl.constexpr,
    SCALE: tl.constexpr, LEAVE_ONE_OUT: tl.constexpr, R: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """``reference.group_normalize`` of rewards (A, size, inner), R groups per program: columns or parts."""
    group = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)[:, None]  # (R, 1)
    part, end = group // inner % parts, size
    member = tl.arange(0, K)[None, :]  # (1, K), and with offsets (R, K)
    if offsets is not None:
        member += tl.load(offsets + part, group < n, other=0)
        end = tl.load(offsets + part + 1, group < n, other=0)
    at = (group // inner // parts * size + member) * inner + group % inner  # (R, K) where it lies in memory
    inside = (group < n) & (member < end)
    m = inside if mask is None else tl.load(mask + at, inside, other=0)
    r = tl.load(rewards + at, m, other=0)

    first = tl.min(tl.where(m, member, size), 1, keep_dims=True)  # (R, 1)
    pivot = tl.sum(tl.where(member == first, r, 0), 1, keep_dims=True)
    x = tl.where(m, r - pivot, 0)  # (R, K), 0 in a group of equal rewards
    count = tl.sum(m.to(x.dtype), 1, keep_dims=True)
    x = tl.where(m, x - tl.sum(x, 1, keep_dims=True) / count, 0)
    spread = tl.sqrt(tl.sum(x * x, 1, keep_dims=True) / tl.maximum(count - DDOF, 1)) + EPS
    if LEAVE_ONE_OUT:
        x = x * count / tl.maximum(count - 1, 1)
    if SCALE:
        x = tl.where(spread == 0, 0, x / spread)
    tl.store(out + at, x, inside)


def _launch(kernel: triton.JITFunction, n: int, size: int, out: Tensor, *arguments: object) -> None:
    """Run a kernel on n lists or groups of a size, as many per program as make up a tile."""
    K = max(16, triton.next_power_of_2(size))
    R = max(1, TILE // K)
    with torch.cuda.device_of(out):  # with eight numbers for each thread
        kernel[(triton.cdiv(n, R),)](*arguments, R, K, num_warps=min(16, R * K // 256))


def swap_ndcg(gains: Tensor, idcg: Maybe, valid: Tensor, cut: int, later: bool, out: Tensor) -> None:
    """Write ``reference.swap_ndcg`` of gains (..., K), with idcg (...), into ``out``."""
    if idcg is None:
        gains, idcg = relative(gains, idcg, valid, cut)
    size, tiny = gains.shape[-1], torch.finfo(out.dtype).tiny
    n, table = gains.numel() // size, discounts(size, cut, gains.device)
    _launch(_swap, n, size, out, gains, idcg, valid, table, out, n, size, later, tiny)


def group_normalize(
    reward: Tensor, mask: Maybe, offsets: Maybe,
    ddof: int, eps: float, scale: bool, leave_one_out: bool, out: Tensor,
) -> None:  # fmt: skip
    """Write ``reference.group_normalize`` of reward (A, G, I) into ``out``, which may be ``reward``."""
    outer, size, inner = reward.shape
    parts = 1 if offsets is None else len(offsets) - 1
    n, how = outer * parts * inner, (inner, parts, eps, ddof, scale, leave_one_out)
    _launch(_normalize, n, size, out, reward, mask, offsets, out, n, size, *how)


def swap_normalize(
    gains: Tensor, idcg: Maybe, valid: Tensor, cut: int, later: bool,
    ddof: int, eps: float, scale: bool, leave_one_out: bool, out: Tensor,
) -> None:  # fmt: skip
    """Write ``reference.swap_normalize`` of gains (B, G, K) into ``out``: one kernel after the other."""
    swap_ndcg(gains, idcg, valid, cut, later, out)
    group_normalize(out.view(gains.shape), valid, None, ddof, eps, scale, leave_one_out, out)


for _function in (swap_ndcg, group_normalize, swap_normalize):  # ops of torch: one node of a graph each
    torch.library.custom_op(f"minirec::triton_{_function.__name__}", _function, mutates_args={"out"})
