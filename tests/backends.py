"""Whatever can serve an operation here: torch, each instruction set of the CPU kernels, CUDA, Triton."""

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
    """Let one of NAMES or Triton serve from now on, or skip the test; returns the device for tensors."""
    if name == "torch":
        patch.setattr(load, "built_for", lambda device: False)
        return "cpu"
    if name == "triton":
        from minirec.ops import triton

        patch.setattr(triton, "TILE", 2**14)  # the interpreter takes its time for every tile
        patch.setattr(load, "built_for", lambda device: False)
        patch.setattr(load, "twin_for", lambda device: True)
        return "cuda" if torch.cuda.is_available() else "cpu"
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
