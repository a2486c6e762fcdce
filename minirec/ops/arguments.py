"""The arguments of the operations: checked, broadcast, contiguous. Errors name the argument."""

import math

import torch
from torch import Tensor

from minirec.ops.reference import Maybe, valid_positions

# What an argument may hold: dtypes, and how an error calls them.
FLOATS = (torch.float32, torch.float64, torch.bfloat16), "float32, float64 or bfloat16"
INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8), "integers"
TRUTHS = (torch.bool,), "bool"
LONGEST = 2**24  # positions of a list, which are counted in float32


def need(condition: bool, *message: object) -> None:
    """Raise ValueError unless a condition holds."""
    if not condition:
        # Joined only here: it takes time, and torch.compile cannot write every number that it traces.
        words = (tuple(part) if isinstance(part, torch.Size) else part for part in message)
        raise ValueError("".join(map(str, words)))


def look(check: bool | None, like: Tensor) -> bool:
    """Whether to look at values; None means yes on the CPU, outside of ``torch.compile``."""
    need(not check or like.device.type != "meta", "check: tensors on meta have no values to look at")
    return check if check is not None else like.device.type == "cpu" and not torch.compiler.is_compiling()


def check_tensor(name: str, value: object, kind: tuple[tuple, object], like: Tensor | None = None) -> None:
    """Raise ValueError unless a value is a dense tensor of a kind (FLOATS), on the device of ``like``."""
    dtypes, words = kind
    need(isinstance(value, Tensor), name, ": expected a tensor, got ", type(value).__name__)
    need(value.layout == torch.strided, name, ": expected a dense tensor, got ", value.layout)
    need(value.dtype in dtypes, name, ": expected ", words, ", got ", value.dtype)
    if not torch.compiler.is_compiling() and torch._C._functorch.maybe_current_level() is not None:
        inner = value
        while torch._C._functorch.is_gradtrackingtensor(inner):
            inner = torch._C._functorch.get_unwrapped(inner)
        mapped = torch._C._functorch.is_batchedtensor(inner)
        need(not mapped, name, ": mapped by torch.func.vmap; pass all leading dimensions as they are")
    if like is not None and value.device != like.device:
        raise ValueError(f"{name}: on {value.device}, but the input is on {like.device}")


def plain(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A view of numbers in a row, detached; torch is not asked for what a tensor is already."""
    value = (value.detach() if value.requires_grad else value).contiguous()
    same = value.dim() == len(shape) and value.shape == shape
    return value if same else value.view(shape)


def computed(like: Tensor) -> torch.dtype:
    """What an operation on a tensor is computed in, and returns."""
    return torch.float32 if like.dtype == torch.bfloat16 else like.dtype


def check_finite(name: str, values: Tensor, least: float, counted: Maybe) -> None:
    """Raise ValueError with the first value that is counted and not finite or below ``least``."""
    wrong = ~((values >= least) & values.isfinite())
    wrong = wrong if counted is None else wrong & counted.view(values.shape)
    if wrong.any():
        where = tuple(wrong.nonzero()[0].tolist())
        expected = "finite numbers" + (f" of at least {least:g}" if least > -torch.inf else "")
        raise ValueError(f"{name}: expected {expected}, got {values[where].item()} at {where}")


def check_values(operation: str, inputs: tuple[Maybe, ...], shape: torch.Size) -> None:
    """Raise ValueError if an input of a kernel, first of ``shape``, is not what its operation can take."""
    first, *others = inputs
    if operation == "group_normalize":
        return check_finite("rewards", first.view(shape), -torch.inf, others[0])
    counted = None if others[1] is None and others[2] is None else valid_positions(first, *others[1:])
    check_finite("gains", first.view(shape), 0, counted)
    if others[0] is not None:
        check_finite("idcg", others[0].view(shape[:-1]), 0, None)


def beside(name: str, value: Maybe, kind: tuple, like: Tensor, shape: torch.Size, flat: tuple) -> Maybe:
    """Broadcast a tensor of a kind, which accompanies ``like``, to ``shape`` and view it as ``flat``.

    Returns it contiguous and detached, integers as int64; None for None, or where ``like`` has no numbers.
    Raises ValueError if it does not fit.
    """
    if value is None:
        return None
    check_tensor(name, value, kind, like)
    if value.shape != shape:
        sizes = zip(reversed(value.shape), reversed(shape), strict=False)
        fits = value.dim() <= len(shape) and all(size in (1, other) for size, other in sizes)
        need(fits, name, ": shape ", value.shape, " cannot be broadcast to ", shape)
    if like.numel() == 0:  # the shape may be huge
        return None
    if value.shape != shape:
        value = value.expand(shape)
    return plain(value.long() if kind is INTEGERS else value, flat)


def output(out: Maybe, like: Tensor, *others: Maybe) -> Tensor:
    """Where to write the result for ``like``: into ``out``, if it fits, which is checked, or a new tensor."""
    dtype = computed(like)
    if out is None:
        return torch.empty_like(like, dtype=dtype, memory_format=torch.contiguous_format, requires_grad=False)
    check_tensor("out", out, ((dtype,), dtype), like)
    need(out.shape == like.shape, "out: expected shape ", like.shape, ", got ", out.shape)
    need(not out.requires_grad, "out: requires grad, but the result carries no gradient")
    if out.numel() == 0:
        return out
    reach = 0  # how far the dimensions of smaller strides go
    for stride, size in () if out.is_contiguous() else sorted(zip(out.stride(), out.shape, strict=True)):
        apart = size == 1 or stride > reach
        need(apart, "out: expected a place of its own for every number, got strides ", out.stride())
        reach += (size - 1) * stride
    if like.device.type != "meta" and not torch.compiler.is_compiling():
        start, end = _bytes(out)
        for tensor in (like, *others):
            if tensor is not None:
                first, last = _bytes(tensor)
                need(end <= first or last <= start, "out: lies among the memory of an input")
    return out


def _bytes(tensor: Tensor) -> tuple[int, int]:
    """The addresses between which the values of a tensor lie."""
    if tensor.is_contiguous():
        return tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    steps = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (steps + 1) * tensor.element_size()


def list_inputs(gains: Tensor, others: tuple, cutoff: int | None, pool: str, check: bool | None) -> tuple:
    """Check the arguments of ``swap_ndcg``, of which ``others`` are idcg, lengths and mask.

    Returns what its kernel takes, in two tuples: gains (n, K), and idcg (n,), lengths (n,) and mask (n, K),
    each of which may be None; then how many ranks count, and whether only later positions are partners. The
    third is whether values are to be looked at, which was done for lengths.
    """
    check_tensor("gains", gains, FLOATS)
    need(gains.dim() >= 1, "gains: expected (..., K), got a scalar")
    need(pool in ("later", "all"), "pool: expected 'later' or 'all', got ", repr(pool))
    lead, size = gains.shape[:-1], gains.shape[-1]
    n = math.prod(lead)  # unlike numel(), it is not fixed in torch.export
    need(size <= LONGEST, "gains: expected lists of at most ", LONGEST, ", got ", size)
    if cutoff is not None:  # by its type, here and below, as True and False are no integers
        need(type(cutoff) is int and cutoff >= 1, "cutoff: expected None or an integer from 1, got ", cutoff)
    cut = min(cutoff or LONGEST, max(size, 1))
    idcg = beside("idcg", others[0], FLOATS, gains, lead, (n,))
    lengths = beside("lengths", others[1], INTEGERS, gains, lead, (n,))
    mask = beside("mask", others[2], TRUTHS, gains, gains.shape, (n, size))
    checked = look(check, gains)
    if checked and lengths is not None:
        low, high = (bound.item() for bound in lengths.aminmax())
        need(low >= 0 and high <= size, "lengths: expected 0 to ", size, ", got ", low, " to ", high)
    if checked and others[0] is not None and idcg is None:  # no kernel will see it
        check_finite("idcg", others[0], 0, None)
    idcg = idcg if idcg is None or gains.dtype == idcg.dtype != torch.bfloat16 else idcg.to(computed(gains))
    return (plain(gains, (n, size)), idcg, lengths, mask), (cut, pool == "later"), checked


def group_inputs(rewards: Tensor, dim: int, mask: Maybe, offsets: Maybe, check: bool | None) -> tuple:
    """Check the inputs of ``group_normalize``.

    Returns rewards and mask (A, G, I) and offsets (m + 1,), and whether values are to be looked at, which was
    done for offsets.
    """
    check_tensor("rewards", rewards, FLOATS)
    need(rewards.dim() >= 1, "rewards: expected at least one dimension, got a scalar")
    known = type(dim) is int and -rewards.dim() <= dim < rewards.dim()
    need(known, "dim: ", dim, " is none of ", rewards.dim(), " dimensions")
    need(mask is None or offsets is None, "offsets: not together with mask")
    dim, checked = dim % rewards.dim(), look(check, rewards)
    size = rewards.shape[dim]
    shape = math.prod(rewards.shape[:dim]), size, math.prod(rewards.shape[dim + 1 :])  # A, G, I
    mask = beside("mask", mask, TRUTHS, rewards, rewards.shape, shape)
    if offsets is not None:
        check_tensor("offsets", offsets, INTEGERS, rewards)
        need(offsets.dim() == 1, "offsets: expected a vector, got shape ", offsets.shape)
        need(len(offsets) >= 1, "offsets: expected at least the 0 that they begin with")
        offsets = offsets.long().contiguous()
        if checked:
            ends, falls = offsets[[0, -1]].tolist(), (offsets.diff() < 0).nonzero()[:, 0].tolist()
            need(ends == [0, size], "offsets: expected from 0 to ", size, ", got ", ends)
            need(not falls, "offsets: expected to ascend, but they fall after place ", *falls[:1])
    return (plain(rewards, shape), mask, offsets), checked


def options(ddof: int, eps: float, scale: str, leave_one_out: bool) -> tuple[int, float, bool, bool]:
    """Check the options of ``group_normalize``; returns what the kernels take, ``scale`` as a bool."""
    need(type(ddof) is int and 0 <= ddof <= 1, "ddof: expected 0 or 1, got ", ddof)
    need(isinstance(eps, float | int) and eps >= 0, "eps: expected a number from 0, got ", eps)
    need(isinstance(leave_one_out, bool), "leave_one_out: expected True or False, got ", leave_one_out)
    need(scale in ("std", "none"), "scale: expected 'std' or 'none', got ", repr(scale))
    return ddof, float(eps), scale == "std", leave_one_out
