"""Find the compiled kernels, say what serves which device, and why."""

from __future__ import annotations

import os
from pathlib import Path

import torch

FOLDER = Path(__file__).parent


def _load() -> dict[str, str]:
    """Load what is built; per device type, "" where kernels serve it, else the reason why torch does."""
    if os.environ.get("MINIREC_NO_EXT"):
        return dict.fromkeys(("cpu", "cuda"), "MINIREC_NO_EXT is set")
    reasons = {}
    for device, name in (("cpu", "_C"), ("cuda", "_cuda")):
        reasons[device] = reasons.get("cpu", "")  # the schemas are in the CPU's library
        if device == "cuda" and not torch.cuda.is_available():
            reasons[device] = "no CUDA device"
        found = sorted(FOLDER.glob(f"{name}*.so"))
        if not found and not reasons[device]:
            reasons[device] = "the extension is not built: pip install --no-build-isolation -e ."
        if not reasons[device]:
            try:
                torch.ops.load_library(found[0])
            except OSError as error:
                reasons[device] = f"{found[0].name} cannot be loaded: {str(error).splitlines()[0]}"
    return reasons


WHY_NOT = _load()

if not WHY_NOT["cpu"]:
    for _name in ("swap_ndcg", "group_normalize", "swap_normalize", "ideal_dcg"):
        # Every op writes into its last argument and returns nothing, so there is nothing to fake.
        torch.library.register_fake(f"minirec::{_name}", lambda *_: None)


def built_for(device: torch.device) -> bool:
    """Whether kernels serve a device; plain torch does otherwise."""
    return WHY_NOT.get(device.type) == ""


def describe() -> list[str]:
    """What serves what, and why: the lines that ``python -m minirec.ops`` prints."""
    lines = []
    for device, reason in WHY_NOT.items():
        serves = f"torch: {reason}" if reason else "kernels"
        if not reason and device == "cpu":
            serves += f" ({torch.ops.minirec.instruction_sets().replace(',', ', ')}; the first is used)"
        lines.append(f"{device:5} swap_ndcg, group_normalize, swap_normalize: {serves}")
    try:
        from minirec.ops import _info
    except ImportError as error:
        lines.append(f"build_info: {error}")
    else:
        lines += [f"{name}: {value}" for name, value in _info.build_info().items()]
    return lines
