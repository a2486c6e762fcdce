"""Two operations of the objectives, fast: swap rewards and group normalisation, and both in one pass.

Kernels in C++ and CUDA serve them where they are built, the closed forms of ``reference.py`` otherwise;
``python -m minirec.ops`` says which. Rewards carry no gradient: inputs are detached. float32 and float64 are
computed in their own dtype; bfloat16 comes in, is computed in float32, and float32 comes out. Differences of
rewards are squared, so in float32 they must lie between about 1e-18 and 1e18 to count; an IDCG below the
smallest normal number counts as 0.

Shapes, dtypes and devices are always checked. Values are checked with ``check=True``: the default on the CPU,
and not on CUDA or under ``torch.compile``, as looking at a value stops a graph. An unchecked NaN spoils its
own list or group; unchecked lengths and offsets must be right.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from minirec.ops import reference
from minirec.ops.arguments import (
    Lists,
    beside,
    check_between,
    finish,
    float_input,
    is_whole,
    look,
    need,
    options,
    output,
    truths,
    whole_numbers,
)
from minirec.ops.load import built_for


def swap_ndcg(
    gains: Tensor,
    idcg: Tensor | None = None,
    lengths: Tensor | None = None,
    mask: Tensor | None = None,
    cutoff: int | None = None,
    pool: Literal["later", "all"] = "later",
    out: Tensor | None = None,
    check: bool | None = None,
) -> Tensor:
    """How much NDCG falls, on average, when the item of a position changes places with another.

        r_k = mean over partners j of (g_k - g_j)(d_k - d_j) / IDCG,   d_k = 1/log2(k + 1)

    Args:
        gains: (..., K) in the order of the lists, at least 0, used as they are (no 2^g - 1).
        idcg: (...) broadcastable, IDCG at the cut-off; None: that of the list's own gains.
        lengths: (...) integers broadcastable; positions from there on are not valid.
        mask: (..., K) bool broadcastable; False is not valid. A slot that is not keeps its rank, is nobody's
            partner, gets 0, and may hold anything.
        cutoff: ranks that count; None is all.
        pool: "later" swaps with the valid positions behind, so the last one gets 0; "all" with all others.
        out: (..., K) to write into, which saves touching new memory; must not share memory with the inputs.
        check: look at values; None is as the module says.

    Returns:
        (..., K) in [-1, 1] where IDCG is at least the list's own; 0 where it is 0, and exactly 0 for equal
        gains. float64 for float64 gains, else float32.

    Raises:
        ValueError: an argument that does not fit, named.

    Source: FlexRec (2603.11901), the swap reward; its sign, the pool "all" and the closed form are ours.

    >>> swap_ndcg(torch.tensor([1.0, 0.0, 0.5]), idcg=torch.tensor(1.0))
    tensor([ 0.3095, -0.0655,  0.0000])
    """
    lists = Lists(gains, idcg, lengths, mask, cutoff, pool, check)
    written, out = output(out, gains, look(check, gains), idcg, lengths, mask)
    flat, idcg = lists.flat(), lists.idcg.view(-1)
    if built_for(gains.device):
        torch.ops.minirec.swap_ndcg(
            flat[0], idcg, *flat[1:], lists.cut, lists.later, written.view(flat[0].shape)
        )
    else:
        valid = lists.valid().view(flat[0].shape)
        rewards = reference.swap_ndcg(flat[0].to(written.dtype), idcg, valid, lists.cut, lists.later)
        written.copy_(rewards.view(written.shape))
    return finish(written, out)


def group_normalize(
    rewards: Tensor,
    dim: int = -1,
    mask: Tensor | None = None,
    offsets: Tensor | None = None,
    ddof: int = 1,
    eps: float = 1e-6,
    scale: Literal["std", "none"] = "std",
    leave_one_out: bool = False,
    out: Tensor | None = None,
    check: bool | None = None,
) -> Tensor:
    """Compare each reward with its group: A = (r - mean r) / (std r + ε).

    Args:
        rewards: (..., G, ...).
        dim: the dimension of the group.
        mask: broadcastable to the rewards, bool; False is not counted, gets 0, and may hold anything.
        offsets: (m + 1,) integers on the device of the rewards, ascending from 0 to the size of ``dim``: the
            groups are the pieces offsets[s] to offsets[s + 1] of it. Not together with mask.
        ddof: 0 or 1; the variance of n rewards is their sum of squares over n - ddof.
        eps: added to the std.
        scale: "std", or "none" only to centre (Dr. GRPO).
        leave_one_out: centre on the mean of the n - 1 others (RLOO); with "std" that is a factor n/(n - 1).
        out: of the shape of the rewards, to write into; must not share memory with the inputs.
        check: look at values; None is as the module says.

    Returns:
        The shape of the rewards; float64 for float64, else float32. Exactly 0 in a group of equal rewards or
        of one.

    Raises:
        ValueError: an argument that does not fit, named.

    Source: GRPO (2402.03300); options as in ``objectives/grpo.py``.

    >>> group_normalize(torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.7, 0.7, 0.7, 0.7]]))
    tensor([[ 1.5000, -0.5000, -0.5000, -0.5000],
            [ 0.0000,  0.0000,  0.0000,  0.0000]])
    """
    rewards = float_input("rewards", rewards)
    need(rewards.dim() >= 1, "rewards: expected at least one dimension, got a scalar")
    known = is_whole(dim) and -rewards.dim() <= dim < rewards.dim()
    need(known, "dim: ", dim, " is none of ", rewards.dim(), " dimensions")
    how = options(ddof, eps, scale, leave_one_out)
    dim %= rewards.dim()
    shape = rewards.shape[:dim].numel(), rewards.shape[dim], rewards.shape[dim + 1 :].numel()  # A, G, I
    if mask is not None:
        truths("mask", mask)
        need(offsets is None, "offsets: not together with mask")
        mask = beside("mask", mask, rewards, rewards.shape).contiguous().view(shape)
    checked = look(check, rewards)
    if offsets is not None:
        whole_numbers("offsets", offsets)
        need(offsets.dim() == 1, "offsets: expected a vector, got shape ", tuple(offsets.shape))
        need(len(offsets) >= 1, "offsets: expected at least the 0 that they begin with")
        offsets = beside("offsets", offsets, rewards, offsets.shape).to(torch.int64).contiguous()
        if checked:
            ends, steps = offsets[[0, -1]].tolist(), offsets.diff()
            need(ends == [0, shape[1]], "offsets: expected from 0 to ", shape[1], ", got ", ends)
            falls = (steps < 0).nonzero()[:, 0].tolist()
            need(not falls, "offsets: expected to ascend, but they fall after place ", *falls[:1])
    flat = rewards.contiguous().view(shape)
    if checked:
        check_between("rewards", rewards, -torch.inf, None if mask is None else mask.view(rewards.shape))
    written, out = output(out, rewards, checked, mask, offsets)
    if built_for(rewards.device):
        torch.ops.minirec.group_normalize(flat, mask, offsets, *how, written.view(shape))
    else:
        found = reference.group_normalize(flat.to(written.dtype), mask, offsets, *how)
        written.copy_(found.view(written.shape))
    return finish(written, out)


def swap_advantages(
    gains: Tensor,
    idcg: Tensor | None = None,
    lengths: Tensor | None = None,
    mask: Tensor | None = None,
    cutoff: int | None = None,
    pool: Literal["later", "all"] = "later",
    ddof: int = 1,
    eps: float = 1e-6,
    scale: Literal["std", "none"] = "std",
    leave_one_out: bool = False,
    out: Tensor | None = None,
    check: bool | None = None,
) -> Tensor:
    """FlexRec's advantages in one pass: swap rewards, each position normalised over the group's lists.

    Args:
        gains: (..., G, K), G lists of a context.
        idcg, lengths, mask, cutoff, pool, out, check: as in ``swap_ndcg``; what is not valid is not counted.
        ddof, eps, scale, leave_one_out: as in ``group_normalize``.

    Returns:
        (..., G, K), what ``group_normalize(swap_ndcg(gains, ...), dim=-2, mask=valid)`` gives.

    Raises:
        ValueError: an argument that does not fit, named.

    Source: FlexRec (2603.11901); per position over the group is ours.

    >>> swap_advantages(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), eps=0.0)
    tensor([[ 0.7071,  0.0000],
            [-0.7071,  0.0000]])
    """
    lists = Lists(gains, idcg, lengths, mask, cutoff, pool, check)
    need(gains.dim() >= 2, "gains: expected (..., G, K), got one list")
    how = options(ddof, eps, scale, leave_one_out)
    written, out = output(out, gains, look(check, gains), idcg, lengths, mask)
    shape = gains.shape[:-2].numel(), *gains.shape[-2:]  # B, G, K
    whole = lists.gains.view(shape), lists.idcg.view(shape[:2])
    lengths = None if lists.lengths is None else lists.lengths.view(shape[:2])
    mask = None if lists.mask is None else lists.mask.view(shape)
    if built_for(gains.device):
        into = written.view(shape)
        torch.ops.minirec.swap_normalize(*whole, lengths, mask, lists.cut, lists.later, *how, into)
    else:
        valid = lists.valid().view(shape)
        first = whole[0].to(written.dtype), whole[1]
        found = reference.swap_normalize(*first, valid, lists.cut, lists.later, *how)
        written.copy_(found.view(written.shape))
    return finish(written, out)
