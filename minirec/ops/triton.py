"""The operations in Triton: the middle between ``reference.py`` in plain torch and ``csrc/`` in CUDA.

A Triton kernel is written for a tile: a few lists or groups, each padded to a power of two, (R, K). Threads,
shared memory and the order of reads are left to its compiler. So each kernel is the closed form once more,
between one read of global memory and one write. In its shapes R is the lists of a tile, K the places of one,
and what is the same for all of them has size 1.

They serve CUDA where no compiled kernel does, lists and groups of at most 4,096. A kernel is compiled when it
is first called; a CUDA graph can capture it from then on. With TRITON_INTERPRET=1, set before Triton is
imported, numpy runs them on the CPU, tile by tile.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from minirec.ops.reference import Maybe, valid_positions

TILE = 1024  # numbers of a tile, or more where one list has more


@triton.jit
def _discount(rank, cut):
    """d = 1/log2(rank + 1), and 0 beyond the first ``cut`` ranks, in float64."""
    return tl.where(rank <= cut, 1 / tl.log2(rank.to(tl.float64) + 1), 0)


@triton.jit
def _one_over_unit(largest):
    """1 over the power of two at numbers of at least 0, exactly: their exponent with the other sign."""
    DOUBLE: tl.constexpr = largest.dtype == tl.float64
    INT: tl.constexpr = tl.int64 if DOUBLE else tl.int32
    DIGITS: tl.constexpr = 52 if DOUBLE else 23
    ONE: tl.constexpr = 1023 if DOUBLE else 127  # how the exponent of 1 is written
    exponent = largest.to(INT, bitcast=True) >> DIGITS
    exponent = tl.minimum(tl.maximum(exponent, 1), 2 * ONE - 1)
    return ((2 * ONE - exponent) << DIGITS).to(largest.dtype, bitcast=True)


@triton.jit
def _swap(
    gains, idcg, lengths, mask, out, n, size, cut,
    LATER: tl.constexpr, TINY: tl.constexpr, R: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """``reference.swap_ndcg`` of gains (n, size), R lists per program."""
    row = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)[:, None]  # (R, 1)
    k = tl.arange(0, K)[None, :]  # (1, K)
    at = row * size + k  # (R, K) where it lies in memory
    inside = (row < n) & (k < size)
    valid = inside
    if lengths is not None:
        valid = valid & (k < tl.load(lengths + row, row < n, other=0))
    if mask is not None:
        valid = valid & tl.load(mask + at, inside, other=0)
    g = tl.load(gains + at, valid, other=0)  # what is not valid is not even read

    scale = _one_over_unit(tl.max(g, 1, keep_dims=True))  # (R, 1)
    g = g * scale
    ideal = tl.load(idcg + row, row < n, other=0) * scale
    last = tl.max(tl.where(valid, k, -1), 1, keep_dims=True)
    pivot = tl.sum(tl.where(k == last, g, 0), 1, keep_dims=True)
    x = tl.where(valid, g - pivot, 0)  # (R, K), 0 in a tail of equal gains
    m = valid.to(x.dtype)
    if LATER:
        step = (_discount(k + 1, cut) - _discount(k + 2, cut)).to(x.dtype)  # (1, K)
        partners = tl.cumsum(m, 1, reverse=True) - m  # (R, K)
        u = step * partners
        t = step * (tl.cumsum(x, 1, reverse=True) - x)
        total = x * tl.cumsum(u, 1, reverse=True) - tl.cumsum(t, 1, reverse=True)
    else:
        n_valid = tl.sum(m, 1, keep_dims=True)  # (R, 1)
        some = tl.maximum(n_valid, 1)
        d = _discount(k + 1, cut).to(x.dtype) * m  # (R, K)
        d = d - tl.sum(d, 1, keep_dims=True) / some
        product = tl.where(valid, (x - tl.sum(x, 1, keep_dims=True) / some) * d, 0)
        total = n_valid * product + tl.sum(product, 1, keep_dims=True)
        partners = (n_valid - 1) * m
    swaps = valid & (partners > 0) & (ideal >= TINY)
    reward = tl.where(swaps, total / tl.where(swaps, partners * ideal, 1), 0)
    tl.store(out + at, reward, inside)


@triton.jit
def _normalize(
    rewards, mask, offsets, out, n, size, inner, parts,
    EPS: tl.constexpr, DDOF: tl.constexpr, SCALE: tl.constexpr, LEAVE_ONE_OUT: tl.constexpr,
    R: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """``reference.group_normalize`` of rewards (A, size, inner), R of the n groups per program.

    A group is a column of the middle dimension, or one of its ``parts`` from an offset to the next.
    """
    group = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)[:, None]  # (R, 1)
    part = group // inner % parts
    member = tl.arange(0, K)[None, :]  # (1, K), and with offsets (R, K)
    end = size
    if offsets is not None:
        member = member + tl.load(offsets + part, group < n, other=0)
        end = tl.load(offsets + part + 1, group < n, other=0)
    at = (group // inner // parts * size + member) * inner + group % inner  # (R, K) where it lies in memory
    inside = (group < n) & (member < end)
    counted = inside
    if mask is not None:
        counted = counted & tl.load(mask + at, inside, other=0)
    r = tl.load(rewards + at, counted, other=0)

    first = tl.min(tl.where(counted, member, size), 1, keep_dims=True)  # (R, 1)
    pivot = tl.sum(tl.where(member == first, r, 0), 1, keep_dims=True)
    x = tl.where(counted, r - pivot, 0)  # (R, K), 0 in a group of equal rewards
    n_counted = tl.sum(counted.to(x.dtype), 1, keep_dims=True)
    mean = tl.sum(x, 1, keep_dims=True) / tl.maximum(n_counted, 1)
    x = tl.where(counted, x - mean, 0)
    variance = tl.sum(x * x, 1, keep_dims=True) / tl.maximum(n_counted - DDOF, 1)
    spread = tl.sqrt(variance) + EPS
    if LEAVE_ONE_OUT:
        x = x * n_counted / tl.maximum(n_counted - 1, 1)
    if SCALE:
        x = tl.where(spread == 0, 0, x / tl.where(spread == 0, 1, spread))
    tl.store(out + at, x, inside)


def _launch(kernel: triton.JITFunction, n: int, size: int, out: Tensor, *arguments: object) -> None:
    """Run a kernel on n lists or groups of a size, as many per program as make up a tile."""
    K = max(16, triton.next_power_of_2(size))
    R = max(1, TILE // K)
    warps = min(16, R * K // 256)  # eight numbers for each thread
    with torch.cuda.device_of(out):
        kernel[(triton.cdiv(n, R),)](*arguments, R, K, num_warps=warps)


def swap_ndcg(
    gains: Tensor,
    idcg: Tensor,
    lengths: Maybe,
    mask: Maybe,
    cut: int,
    later: bool,
    checked: bool,
    out: Tensor,
) -> None:
    """``reference.swap_ndcg`` of gains (..., K), given IDCG (...), lengths (...) and mask (..., K)."""
    size = gains.shape[-1]
    n, tiny = gains.numel() // size, torch.finfo(out.dtype).tiny
    _launch(_swap, n, size, out, gains, idcg, lengths, mask, out, n, size, cut, later, tiny)


def group_normalize(
    rewards: Tensor, mask: Maybe, offsets: Maybe,
    ddof: int, eps: float, scale: bool, leave_one_out: bool, checked: bool, out: Tensor,
) -> None:  # fmt: skip
    """``reference.group_normalize`` of rewards (A, G, I), which ``out`` may be."""
    outer, size, inner = rewards.shape
    parts = 1 if offsets is None else len(offsets) - 1
    n, how = outer * parts * inner, (eps, ddof, scale, leave_one_out)
    _launch(_normalize, n, size, out, rewards, mask, offsets, out, n, size, inner, parts, *how)


def swap_normalize(
    gains: Tensor, idcg: Tensor, lengths: Maybe, mask: Maybe, cut: int, later: bool,
    ddof: int, eps: float, scale: bool, leave_one_out: bool, checked: bool, out: Tensor,
) -> None:  # fmt: skip
    """``reference.swap_normalize`` of gains (B, G, K): the two kernels, one after the other."""
    valid = mask if lengths is None else valid_positions(gains, lengths, mask)
    swap_ndcg(gains, idcg, None, valid, cut, later, checked, out)
    rewards = out.view(gains.shape)
    group_normalize(rewards, valid, None, ddof, eps, scale, leave_one_out, checked, rewards)


# As ops of torch they are one node of a graph, and get plain tensors. They take what the compiled ones take;
# ``checked`` is for the CPU's.
for _function in (swap_ndcg, group_normalize, swap_normalize):
    torch.library.custom_op(f"minirec::triton_{_function.__name__}", _function, mutates_args={"out"})
