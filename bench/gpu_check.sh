#!/usr/bin/env bash
# What only a GPU can say about the kernels, in eight minutes at most: bash bench/gpu_check.sh
# Builds for the GPU that is there, runs the tests marked cuda, measures by graph replay beside a copy of the same
# bytes, and looks for wrong accesses and races. Everything goes to the folder $OUT, and the end of each step here.
cd "$(dirname "$0")/.." || exit 1
out=${OUT:-$(mktemp -d)} && mkdir -p "$out" && echo "results: $out"
export PYTHONPATH=$PWD MINIREC_REQUIRE_EXT=1
for home in "${CUDA_HOME:-}" /usr/local/cuda /usr/local/cuda-*; do
    [ -f "$home/include/cuda_runtime_api.h" ] && export CUDA_HOME=$home PATH=$home/bin:$PATH && break
done

failed=0
step() { # name, seconds at most, command
    local name=$1 limit=$2 code start=$SECONDS
    shift 2
    timeout "$limit" "$@" >"$out/$name.txt" 2>&1
    code=$?
    [ $code = 0 ] || failed=1
    echo "== $name: exit code $code after $((SECONDS - start)) s"
    tail -n 5 "$out/$name.txt"
}

# every kernel once, for compute-sanitizer
cat >"$out/all.py" <<'PYTHON'
import torch
from minirec.ops import group_normalize, swap_advantages, swap_ndcg
torch.set_default_device("cuda")
for size in (1, 10, 50, 127, 128, 129, 1000, 1025, 3000):
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        gains = torch.rand(3, 5, size).to(dtype)
        mask, idcg = gains > 0.3, torch.ones(3, 5, dtype=torch.promote_types(dtype, torch.float32))
        for ideal, holes, pool in ((idcg, None, "later"), (None, mask, "all")):
            swap_ndcg(gains, ideal, mask=holes, pool=pool, cutoff=9)
            swap_advantages(gains, ideal, mask=holes, pool=pool)
            group_normalize(gains, 1, mask=holes)
            group_normalize(gains, mask=holes)
group_normalize(torch.rand(2, 1024, 128), 1)
group_normalize(torch.rand(1, 5000, 17), 1)
group_normalize(torch.rand(97), offsets=torch.tensor([0, 5, 5, 97]))
group_normalize(torch.rand(3, 9000))
torch.cuda.synchronize()
PYTHON

# for this GPU alone: five kinds of GPU take five times as long
TORCH_CUDA_ARCH_LIST=$(python3 -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())')
export TORCH_CUDA_ARCH_LIST
step build 120 python3 setup.py build_ext --inplace
step ops 20 python3 -m minirec.ops
step tests 100 python3 -m pytest -q -m cuda tests
step memcheck 50 compute-sanitizer --tool memcheck --error-exitcode 9 python3 "$out/all.py"
step racecheck 50 compute-sanitizer --tool racecheck --error-exitcode 9 python3 "$out/all.py"
step bench 120 python3 -m bench.kernels --device cuda --out "$out"
cat "$out/kernels_cuda.md"
exit $failed
