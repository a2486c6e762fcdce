"""The arguments of the operations: checked, broadcast, flattened, contiguous; errors name the argument."""

from __future__ import annotations

import torch
from torch import Tensor

from minirec.ops import reference
from minirec.ops.load import built_for

DTYPES = (torch.float32, torch.float64, torch.bfloat16)
INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)
LONGEST = 2**24  # of a list: its positions are counted in float32


def need(condition: bool, *message: object) -> None:
    """Insist on something.

    Args:
        condition: what must hold.
        message: names the argument, says what was expected and what was found. Put together only where it is
            needed, as ``torch.compile`` cannot write every number that it traces.

    Raises:
        ValueError: it does not hold.
    """
    if not condition:
        raise ValueError("".join(map(str, message)))


def look(check: bool | None, like: Tensor) -> bool:
    """Whether values are to be looked at.

    Args:
        check: as the caller asked; None is yes on the CPU, outside of ``torch.compile``.
        like: the input.

    Returns:
        The answer.
    """
    return check if check is not None else like.device.type == "cpu" and not torch.compiler.is_compiling()


def is_tensor(name: str, value: object) -> None:
    """Insist on a tensor whose numbers lie in memory.

    Args:
        name: of the argument, for errors.
        value: what the caller gave.

    Raises:
        ValueError: it is something else.
    """
    need(isinstance(value, Tensor), name, ": expected a tensor, got ", type(value).__name__)
    need(value.layout == torch.strided, name, ": expected a dense tensor, got ", value.layout)


def is_whole(value: object) -> bool:
    """Whether something is an integer, which True and False are not here."""
    return isinstance(value, int) and not isinstance(value, bool)


def whole_numbers(name: str, value: object) -> None:
    """Insist on a tensor of integers.

    Args:
        name: of the argument, for errors.
        value: what the caller gave.

    Raises:
        ValueError: it is something else.
    """
    is_tensor(name, value)
    need(value.dtype in INTEGERS, name, ": expected integers, got ", value.dtype)


def truths(name: str, value: object) -> None:
    """Insist on a tensor of bool.

    Args:
        name: of the argument, for errors.
        value: what the caller gave.

    Raises:
        ValueError: it is something else.
    """
    is_tensor(name, value)
    need(value.dtype == torch.bool, name, ": expected bool, got ", value.dtype)


def float_input(name: str, value: Tensor) -> Tensor:
    """Take a tensor of one of DTYPES.

    Args:
        name: of the argument, for errors.
        value: what the caller gave.

    Returns:
        The tensor, detached.

    Raises:
        ValueError: it is something else.
    """
    is_tensor(name, value)
    need(value.dtype in DTYPES, name, ": expected float32, float64 or bfloat16, got ", value.dtype)
    return value.detach()


def beside(name: str, value: Tensor, like: Tensor, shape: torch.Size) -> Tensor:
    """Take a tensor that accompanies another one.

    Args:
        name: of the argument, for errors.
        value: what the caller gave.
        like: the other one, whose device it must be on.
        shape: to broadcast to.

    Returns:
        The tensor in that shape, detached.

    Raises:
        ValueError: it does not fit.
    """
    need(value.device == like.device, name, ": on ", value.device, ", but the input is on ", like.device)
    sizes = zip(reversed(value.shape), reversed(shape), strict=False)
    fits = value.dim() <= len(shape) and all(own in (1, other) for own, other in sizes)
    need(fits, name, ": shape ", tuple(value.shape), " cannot be broadcast to ", tuple(shape))
    return value.detach().expand(shape)


def output(out: Tensor | None, like: Tensor, checked: bool, *others: Tensor | None) -> tuple[Tensor, Tensor]:
    """Where to write.

    Args:
        out: what the caller gave, or None for a new tensor.
        like: the input.
        checked: whether to see if it lies among the memory of the inputs.
        others: the other inputs.

    Returns:
        Where the kernel writes, contiguous; and what the caller gets.

    Raises:
        ValueError: ``out`` does not fit.
    """
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    if out is None:
        out = torch.empty(like.shape, dtype=dtype, device=like.device)
    is_tensor("out", out)
    need(out.shape == like.shape, "out: expected shape ", tuple(like.shape), ", got ", tuple(out.shape))
    need(out.dtype == dtype, "out: expected ", dtype, ", got ", out.dtype)
    need(out.device == like.device, "out: on ", out.device, ", but the input is on ", like.device)
    need(not out.requires_grad, "out: requires grad, but the result carries no gradient")
    repeated = any(size > 1 and stride == 0 for size, stride in zip(out.shape, out.stride(), strict=True))
    need(not repeated, "out: expected memory of its own for every number, got an expanded tensor")
    if checked and out.numel():
        start, end = _bytes(out)
        for tensor in (like, *others):
            apart = tensor is None or end <= _bytes(tensor)[0] or _bytes(tensor)[1] <= start
            need(apart, "out: lies among the memory of an input")
    return out if out.is_contiguous() else torch.empty_like(out, memory_format=torch.contiguous_format), out


def _bytes(tensor: Tensor) -> tuple[int, int]:
    """The addresses between which the values of a tensor lie."""
    steps = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (steps + 1) * tensor.element_size()


def check_between(name: str, values: Tensor, least: float, counted: Tensor | None) -> None:
    """Look for a value that is not finite or too small; one pass where all count, as aminmax passes on NaN.

    Args:
        name: of the argument, for errors.
        values: any shape.
        least: the smallest value allowed.
        counted: of the same shape, bool: what is looked at; None is all.

    Raises:
        ValueError: with the first one found, and its place.
    """
    if values.numel() == 0:
        return
    if counted is not None:
        values = values.masked_fill(~counted, max(least, 0))
    low, high = values.aminmax()
    if low >= least and high < torch.inf and low > -torch.inf:
        return
    where = tuple((~((values >= least) & values.isfinite())).nonzero()[0].tolist())
    expected = "finite numbers" + (f" of at least {least:g}" if least > -torch.inf else "")
    raise ValueError(f"{name}: expected {expected}, got {values[where].item()} at {where}")


def finish(written: Tensor, out: Tensor) -> Tensor:
    """Hand the result over.

    Args:
        written: where the kernel wrote.
        out: what the caller gets.

    Returns:
        ``out`` with the result.
    """
    return out if written is out else out.copy_(written)


def valid_positions(gains: Tensor, lengths: Tensor | None, mask: Tensor | None) -> Tensor:
    """Say which positions of lists are valid.

    Args:
        gains: (..., K).
        lengths: (...) int64 or None.
        mask: (..., K) bool or None.

    Returns:
        (..., K) bool.
    """
    valid = torch.ones_like(gains, dtype=torch.bool) if mask is None else mask
    if lengths is not None:
        valid = valid & (torch.arange(gains.shape[-1], device=gains.device) < lengths[..., None])
    return valid


class Lists:
    """The checked arguments of an operation on lists, contiguous, with leading dimensions ``lead``."""

    def __init__(
        self,
        gains: Tensor,
        idcg: Tensor | None,
        lengths: Tensor | None,
        mask: Tensor | None,
        cutoff: int | None,
        pool: str,
        check: bool | None,
    ) -> None:
        gains = float_input("gains", gains)
        need(gains.dim() >= 1, "gains: expected (..., K), got a scalar")
        lead, size = gains.shape[:-1], gains.shape[-1]
        need(pool in ("later", "all"), "pool: expected 'later' or 'all', got ", repr(pool))
        need(size <= LONGEST, "gains: expected lists of at most ", LONGEST, ", got ", size)
        if cutoff is not None:
            need(is_whole(cutoff) and cutoff >= 1, "cutoff: expected None or an integer from 1, got ", cutoff)
        self.later, self.cut = pool == "later", max(size, 1) if cutoff is None else min(cutoff, max(size, 1))
        self.gains = gains.contiguous()
        if lengths is not None:
            whole_numbers("lengths", lengths)
            lengths = beside("lengths", lengths, gains, lead).to(torch.int64).contiguous()
        if mask is not None:
            truths("mask", mask)
            mask = beside("mask", mask, gains, gains.shape).contiguous()
        self.lengths, self.mask = lengths, mask
        if look(check, gains):
            self._check()
        working = torch.float64 if gains.dtype == torch.float64 else torch.float32
        if idcg is None:
            self.idcg = self._own_idcg(working)
        else:
            idcg = beside("idcg", float_input("idcg", idcg), gains, lead).to(working)
            if look(check, gains):
                check_between("idcg", idcg, 0, None)
            self.idcg = idcg.contiguous()

    def _check(self) -> None:
        size = self.gains.shape[-1]
        if self.lengths is not None and self.lengths.numel():
            low, high = self.lengths.aminmax()
            inside = low >= 0 and high <= size
            need(inside, "lengths: expected 0 to ", size, ", got ", low.item(), " to ", high.item())
        everything = self.lengths is None and self.mask is None
        check_between("gains", self.gains, 0, None if everything else self.valid())

    def valid(self) -> Tensor:
        """(..., K) bool."""
        return valid_positions(self.gains, self.lengths, self.mask)

    def _own_idcg(self, dtype: torch.dtype) -> Tensor:
        flat, lead = self.flat(), self.gains.shape[:-1]
        if built_for(self.gains.device) and self.gains.device.type == "cpu":
            found = torch.empty(len(flat[0]), dtype=dtype)
            torch.ops.minirec.ideal_dcg(flat[0], *flat[1:], self.cut, found)
        else:
            valid = self.valid().reshape(flat[0].shape)
            found = reference.ideal_dcg(flat[0].to(dtype), valid, self.cut)
        return found.view(lead)

    def flat(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """gains (n, K), lengths (n,), mask (n, K)."""
        n, size = self.gains.shape[:-1].numel(), self.gains.shape[-1]
        lengths = None if self.lengths is None else self.lengths.view(n)
        mask = None if self.mask is None else self.mask.view(n, size)
        return self.gains.view(n, size), lengths, mask


def options(ddof: int, eps: float, scale: str, leave_one_out: bool) -> tuple[int, float, bool, bool]:
    """Check the options of normalisation.

    Args:
        ddof, eps, scale, leave_one_out: as in ``group_normalize``.

    Returns:
        ddof, eps, whether to divide by the std, leave_one_out: the order of the kernels.

    Raises:
        ValueError: one of them is no choice.
    """
    need(is_whole(ddof) and 0 <= ddof <= 1, "ddof: expected 0 or 1, got ", ddof)
    need(isinstance(eps, float | int) and eps >= 0, "eps: expected a number from 0, got ", eps)
    need(isinstance(leave_one_out, bool), "leave_one_out: expected True or False, got ", leave_one_out)
    need(scale in ("std", "none"), "scale: expected 'std' or 'none', got ", repr(scale))
    return ddof, float(eps), scale == "std", leave_one_out
