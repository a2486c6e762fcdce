"""Find the compiled kernels and Triton, say what serves which device and why, and let it compute."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from minirec.ops import reference
from minirec.ops.arguments import check_values
from minirec.ops.reference import Maybe

FOLDER = Path(__file__).parent
WHY_NOT: dict[str, str] = {}  # per device type: "" where kernels serve it, else why not; "triton": CUDA


def _load(device: str, name: str) -> str:
    """Load the library of kernels for a device; returns "", or the reason why it is not there."""
    if os.environ.get("MINIREC_NO_EXT"):
        return "MINIREC_NO_EXT is set"
    libraries = sorted(FOLDER.glob(f"{name}*.{'pyd' if os.name == 'nt' else 'so'}"))
    kept = FOLDER / f"{name}.txt"
    if not libraries and kept.is_file():  # setup.py has tried
        return f"not built: {kept.read_text(encoding='utf-8')}"
    if device == "cuda" and not torch.cuda.is_available():
        return "no CUDA device"
    if WHY_NOT.get("cpu"):  # the schemas are in the CPU's library
        return WHY_NOT["cpu"]
    if not libraries:
        return "the extension is not built: pip install --no-build-isolation -e ."
    try:
        torch.ops.load_library(libraries[0])
    except OSError as error:
        return f"{libraries[0].name} cannot be loaded: {str(error).splitlines()[0]}"
    return ""


def _load_twin() -> str:
    """Load the ops in Triton if CUDA has no kernels; returns "", or the reason why they do not serve it."""
    if os.environ.get("MINIREC_NO_EXT") or not torch.cuda.is_available() or not WHY_NOT["cuda"]:
        return WHY_NOT["cuda"] or "compiled kernels serve cuda"
    try:
        from minirec.ops import triton  # noqa: F401  it registers them
    except ImportError as error:
        return f"it cannot be imported: {error}"
    return ""


WHY_NOT["cpu"] = _load("cpu", "_C")
WHY_NOT["cuda"] = _load("cuda", "_cuda")
WHY_NOT["triton"] = _load_twin()

if not WHY_NOT["cpu"]:
    for _name in ("swap_ndcg", "group_normalize", "swap_normalize"):
        # Every op writes into its last argument and returns nothing, so there is nothing to fake.
        torch.library.register_fake(f"minirec::{_name}", lambda *_: None)


def built_for(device: torch.device) -> bool:
    """Whether compiled kernels serve a device; Triton or plain torch serve it otherwise."""
    return WHY_NOT.get(device.type) == ""


def twin_for(device: torch.device) -> bool:
    """Whether Triton serves a device."""
    return device.type == "cuda" and not WHY_NOT["triton"]


def compute(name: str, inputs: tuple[Maybe, ...], choices: tuple, checked: bool, out: Tensor) -> Tensor:
    """Fill ``out`` by the kernel of that name where it is built, else by that function of ``reference``.

    Before ``reference`` comes Triton, for lists and groups of at most 4,096. Values are looked at where
    ``checked`` says so: the CPU's kernels do it on the way, and torch once more if they find something.
    Triton and ``reference`` take valid positions for lengths and mask. CUDA's kernels sort no list of more
    than 4 KiB.
    """
    if out.numel() == 0:
        return out
    first, *others = inputs
    swaps, built, shape = name != "group_normalize", built_for(out.device), out.shape
    twin = not built and twin_for(out.device) and max(first.shape[1], swaps and shape[-1]) <= 4096
    if checked and not (built and out.is_cpu):
        check_values(name, inputs, shape)
    if built and out.is_cuda and swaps and others[0] is None and shape[-1] * out.itemsize > 4096:
        valid = reference.valid_positions(first, *others[1:])
        first, others[0] = reference.relative(first.to(out.dtype), None, valid, choices[0])
    if not built:
        first = first.to(out.dtype)
        others = [others[0], reference.valid_positions(first, *others[1:])] if swaps else others
    if built or twin:
        # A kernel writes numbers in a row, and no view that is read with another sign; a graph has none.
        plain = out.is_contiguous() and (torch.compiler.is_compiling() or not out.is_neg())
        written = out if plain else torch.empty(shape, dtype=out.dtype, device=out.device)
        try:
            op, last = (name, (checked, written)) if built else (f"triton_{name}", (written,))
            getattr(torch.ops.minirec, op).default(first, *others, *choices, *last)
        except RuntimeError as error:
            if "may be out of range" not in str(error):
                raise
            check_values(name, inputs, shape)
        return out if plain else out.copy_(written)
    result = getattr(reference, name)(first, *others, *choices)
    return out.copy_(result.view(shape))


def backends() -> Iterator[str]:
    """What serves what, and why: the lines that ``python -m minirec.ops`` prints."""
    for device in ("cpu", "cuda"):
        reason, other = WHY_NOT[device], "triton" if twin_for(torch.device(device)) else "torch"
        serves = f"{other}: {reason}" if reason else "kernels"
        if not reason and device == "cpu":
            serves += f" ({torch.ops.minirec.instruction_sets().replace(',', ', ')}; the first is used)"
        yield f"{device:5} swap_ndcg, group_normalize, swap_normalize: {serves}"
    yield f"triton: {WHY_NOT['triton'] or 'serves cuda'}"
    try:
        from minirec.ops import _info

        yield from (f"{name}: {value}" for name, value in _info.build_info().items())
    except ImportError as error:
        yield f"build_info: {error}"
