"""Whatever can serve an operation here: torch, each instruction set of the CPU kernels, CUDA."""

import os

import pytest
import torch

from minirec.ops import load

NAMES = [
    "torch",
    "avx512",
    "avx2",
    "baseline",
    pytest.param("cuda", marks=pytest.mark.cuda),
]


def use(name, patch):
    """Let one of NAMES serve from now on, or skip the test; returns the device to put tensors on."""
    if name == "torch":
        patch.setattr(load, "built_for", lambda device: False)
        return "cpu"
    if name == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        assert load.built_for(torch.device("cuda")), load.WHY_NOT["cuda"]
        return "cuda"
    if load.WHY_NOT["cpu"]:
        assert not os.environ.get("MINIREC_REQUIRE_EXT"), load.WHY_NOT["cpu"]
        pytest.skip(f"extension not built: {load.WHY_NOT['cpu']}")
    if name not in torch.ops.minirec.instruction_sets().split(","):
        pytest.skip(f"{name} is no instruction set of this machine")
    torch.ops.minirec.use_instruction_set(name)
    return "cpu"
