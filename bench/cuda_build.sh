#!/usr/bin/env bash
# The CUDA library without a GPU: bash bench/cuda_build.sh [folder for the environment, else a temporary one]
# Installs a torch that has CUDA (4.7 GB), builds a copy of the project with the toolkit that is there, looks for what
# devices the operations are registered, and runs their tests with the CUDA library loaded, but for the slow ones.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=${1:-$work/venv}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
export PATH="$venv/bin:$PATH" MINIREC_REQUIRE_EXT=1 CI=true TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-9.0}
pip install --quiet torch==2.11.0 "setuptools>=77,<82" ninja pybind11 numpy tqdm \
    pytest hypothesis matplotlib pyarrow clang-format

mkdir "$work/copy"
git ls-files -z | xargs -0 cp --parents -t "$work/copy"
cd "$work/copy"
TIMEFORMAT="built for $TORCH_CUDA_ARCH_LIST in %R s, which took %U s of processor"
time python setup.py build_ext --inplace >"$work/build.txt" 2>&1 || { cat "$work/build.txt" && exit 1; }
python -m minirec.ops

cat >check.py <<'PYTHON'
import sys

import pytest
import torch

from minirec.ops import load

print(f"torch {torch.__version__}")
(library,) = load.FOLDER.glob("_cuda*.so")
torch.ops.load_library(library)
for name in ("swap_ndcg", "group_normalize", "swap_normalize"):
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    keys = [key for key in ("CPU", "CUDA", "Meta") if has(f"minirec::{name}", key)]
    print(f"{name}: {', '.join(keys)}")
    assert len(keys) == 3, "an operation is not registered for a device"
sys.exit(pytest.main(["-q", "-m", "not slow", "tests/ops"]))
PYTHON
unset TORCH_CUDA_ARCH_LIST
python check.py
