"""Bugs in the CUDA kernels and in Triton, to be planted by test_faults, by the tests that must notice."""

import importlib.util

TESTS = "ops/test_cuda_kernels.py::test_"

KERNELS = {
    f"{TESTS}the_binding_hands_all_arguments_over": {
        "kernels on the default stream": (
            "../csrc/cuda/ops.cpp",
            "stream = static_cast<cudaStream_t>(current);",
            "stream = nullptr;",
        ),
        "a mask that the binding forgets": (
            "../csrc/cuda/ops.cpp",
            "data<bool>(mask),\n          mutable_data<T>(out),",
            "nullptr,\n          mutable_data<T>(out),",
        ),
    },
    f"{TESTS}the_binding_raises_what_the_kernels_return": {
        "a launch error that the binding swallows": (
            "../csrc/cuda/ops.cpp",
            "STD_TORCH_CHECK(error == cudaSuccess,",
            "STD_TORCH_CHECK(true,",
        ),
    },
    f"{TESTS}a_refused_launch_is_reported[swap_normalize-shape8-2]": {
        "a launch error that a kernel swallows": (
            "../csrc/cuda/swap_normalize.cu",
            "return error == cudaSuccess ? group_normalize<T>(g, stream) : error;",
            "return group_normalize<T>(g, stream);",
        ),
    },
    f"{TESTS}offsets_may_be_larger_than_an_int[swap_ndcg-shape0-64]": {
        "the offset of a row as an int": (
            "../csrc/cuda/swap_ndcg.cu",
            "const Tile tile{first * a.size, 0,",
            "const Tile tile{int(first * a.size), 0,",
        ),
    },
    f"{TESTS}holes_keep_their_rank_and_may_hold_anything[1025-True]": {
        "a long kernel that reads on to a length beyond the list": (
            "../csrc/cuda/swap_ndcg.cu",
            "for (int k = threadIdx.x; k < a.size; k += THREADS)\n      if (valid(k)) {",
            "for (int k = threadIdx.x; k < length; k += THREADS)\n      if (valid(k)) {",
        ),
    },
    f"{TESTS}laws_hold_to_the_bit[32]": {
        "a subnormal IDCG that divides": (
            "../csrc/cuda/swap.cuh",
            "return idcg < tiny ? ",
            "return idcg == 0 ? ",
        ),
    },
    f"{TESTS}every_access_is_a_whole_run_and_threads_are_in_other_banks[swap_ndcg-dtype0]": {
        "lanes that meet in a bank": ("../csrc/cuda/stage.cuh", "int(threadIdx.x) / 8 - at & 3", "0"),
        "shared memory without room for its gaps": (
            "../csrc/cuda/stage.cuh",
            "numbers + (size ? numbers / distance : 0) + 1",
            "numbers",
        ),
        "a list at a time": (
            "../csrc/cuda/swap_ndcg.cu",
            "fit < THREADS ? fit / 32 * 32 : THREADS",
            "1",
        ),
    },
}

TRITON = {
    "ops/test_triton.py::test_equal_rewards_of_any_number_are_exactly_zero": {
        "rewards without a pivot in Triton": (
            "ops/triton.py",
            "x = tl.where(m, r - pivot, 0)",
            "x = tl.where(m, r, 0)",
        ),
    },
    "ops/test_triton.py::test_equal_gains_after_another_are_exactly_zero": {
        "gains without a pivot in Triton": ("ops/triton.py", "g * scale - pivot * scale", "g * scale"),
    },
    "ops/test_triton.py::test_a_mask_and_ddof_are_not_forgotten": {
        "a mask that Triton forgets": (
            "ops/triton.py",
            "m = inside if mask is None else tl.load(mask + at, inside, other=0)",
            "m = inside",
        ),
        "the biased std in Triton": ("ops/triton.py", "tl.maximum(count - DDOF, 1)", "count"),
    },
}
if importlib.util.find_spec("triton"):
    KERNELS |= TRITON
