"""The CUDA kernels without a GPU: their source under an emulator of thread blocks, and compiled by nvcc.

The emulator sees neither races nor time, but counts what a warp asks of memory; the tests of the operations
that are marked cuda run on a GPU.
"""

import ctypes
import itertools
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from bench import ladder_cuda
from bench.kernels_rows import Setup, floor, table
from minirec.ops import load, reference

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SOURCES = [*sorted((ROOT / "csrc" / "ladder").glob("*.cu")), ROOT / "csrc" / "cuda" / "swap_normalize.cu"]
CODE = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}
# A sum runs over at most 128 positions of a thread, or 33 and then the lanes of a warp, so numbers of size 1
# see some hundred roundings, to either side: of 6e-8 each in float32, of 1e-16 in float64.
CLOSE = {torch.float32: 2e-6, torch.float64: 4e-15, torch.bfloat16: 2e-6}
EDGES = [1, 2, 4, 31, 32, 33, 100, 127, 128, 129, 1000, 1024, 1025, 1500]


@pytest.fixture(scope="module")
def gpu(tmp_path_factory):
    """The emulated kernels: a library of plain functions."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ to build the emulator of CUDA")
    folder = tmp_path_factory.mktemp("emulator")
    loaded = ladder_cuda.emulated(folder)
    loaded.path = folder / "kernels.so"
    loaded.traced.restype, loaded.error.restype = ctypes.c_int64, ctypes.c_char_p
    return loaded


@pytest.fixture(autouse=True)
def small_gpu(request):
    """One multiprocessor, so that blocks go round their loops."""
    if "gpu" in request.fixturenames:
        request.getfixturevalue("gpu").size_of_gpu(1, 227 * 1024)


def pointer(tensor):
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def empty(shape, dtype, misaligned=False):
    """Memory full of NaN, on an odd address where asked."""
    own = torch.float64 if dtype == torch.float64 else torch.float32
    flat = torch.full((torch.Size(shape).numel() + 1,), torch.nan, dtype=own)
    return flat[1 if misaligned else 0 :][: torch.Size(shape).numel()].view(shape)


def launch(gpu, name, out, given, *arguments, orders=(False, True)):
    """Call a kernel that may touch these tensors alone, with its threads in rising and in falling order."""
    used = [t for t in (out, *given) if t is not None]
    ends = torch.tensor([(t.data_ptr(), t.data_ptr() + t.nbytes) for t in used])
    gpu.set_arrays(ctypes.c_int64(len(ends)), pointer(ends))
    results = []
    for falling in orders:
        gpu.set_order(falling)
        out.fill_(torch.nan)  # what nobody writes shows
        code, error = getattr(gpu, name)(*arguments), gpu.error().decode()
        assert (code, error) == (0, "")
        results.append(out.clone())
    torch.testing.assert_close(results[0], results[-1], rtol=0, atol=0, equal_nan=True)  # else it is a race
    return out


def requested(gpu, arrays):
    """Since count_requests: sectors read and written, per array of a launch; requests; wavefronts, least."""
    rows = (ctypes.c_int64 * (4 * arrays + 2))()
    gpu.counted_requests(rows)
    return list(zip(rows[::2], rows[1::2], strict=True))


def swap(gpu, gains, idcg, lengths=None, mask=None, cutoff=None, later=True, misaligned=False, **kw):
    n, size = gains.shape
    out = empty(gains.shape, gains.dtype, misaligned)
    given = gains, None if idcg is None else idcg.to(out.dtype), lengths, mask
    how = ctypes.c_int64(n), size, min(cutoff or size, size), later
    inputs = [pointer(x) for x in (*given, out)]
    return launch(gpu, "swap_ndcg", out, given, CODE[gains.dtype], *inputs, *how, **kw)


def truth(gains, idcg, lengths=None, mask=None, cutoff=None, later=True):
    valid, size = reference.valid_positions(gains, lengths, mask), gains.shape[1]
    idcg = None if idcg is None else idcg.double()
    return reference.swap_ndcg(gains.double(), idcg, valid, min(cutoff or size, size), later)


def numbers(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("later", [True, False])
@pytest.mark.parametrize("dtype", CODE)
@pytest.mark.parametrize("size", EDGES)
def test_swap_rewards_of_every_length(gpu, size, dtype, later):
    n = (
        259 if size <= 128 else 67 if size <= 1024 and dtype != torch.float64 else 9
    )  # 8 blocks have 256, 64 or 8
    gains, idcg = numbers(n, size).to(dtype), 1 + numbers(n, seed=1)
    found = swap(gpu, gains, idcg, later=later)
    assert (found.double() - truth(gains, idcg, later=later)).abs().max() < CLOSE[dtype]
    found = swap(gpu, gains, idcg, cutoff=5, later=later)
    assert (found.double() - truth(gains, idcg, cutoff=5, later=later)).abs().max() < CLOSE[dtype]


@pytest.mark.parametrize("later", [True, False])
@pytest.mark.parametrize("size", [1, 10, 33, 128, 1000, 1025])
def test_holes_keep_their_rank_and_may_hold_anything(gpu, size, later):
    n = 40 if size <= 128 else 7
    gains, idcg = numbers(n, size), 1 + numbers(n, seed=1)
    mask = numbers(n, size, seed=2) < 0.7
    lengths = (numbers(n, seed=3) * (size + 1)).long()
    lengths[-1] = size + 9  # a list ends where it ends
    valid = mask & (torch.arange(size) < lengths[:, None])
    found = swap(gpu, gains.masked_fill(~valid, torch.nan), idcg, lengths, mask, 20, later)
    assert (found.double() - truth(gains, idcg, lengths, mask, 20, later)).abs().max() < CLOSE[torch.float32]
    only = swap(gpu, gains, idcg, lengths=lengths, later=later)
    assert (only.double() - truth(gains, idcg, lengths, later=later)).abs().max() < CLOSE[torch.float32]


@pytest.mark.parametrize("size", [8, 32, 128, 1024, 1030])
def test_laws_hold_to_the_bit(gpu, size):
    idcg = torch.full((5,), 0.3)
    constant = torch.full((5, size), 0.7)
    for later in (True, False):
        assert (swap(gpu, constant, idcg, later=later) == 0).all()
        gains = numbers(5, size)
        expected = swap(gpu, gains, idcg, later=later)
        assert torch.equal(swap(gpu, gains * 2.0**127, idcg * 2.0**127, later=later), expected)
        shifted = torch.cat([torch.zeros(1), gains.flatten()])[1:].view(5, size)
        assert shifted.data_ptr() % 16
        assert torch.equal(swap(gpu, shifted, idcg, later=later, misaligned=True), expected)
        gains[2, size // 2] = torch.nan
        found = swap(gpu, gains, idcg, later=later)
        others = torch.arange(5) != 2
        assert torch.equal(found[others], expected[others])
        assert found[2].isnan().any()
        for nothing in (0.0, 1e-39):  # an IDCG that is subnormal beside the largest gain counts as 0
            assert (swap(gpu, numbers(5, size) + 1, torch.full((5,), nothing), later=later) == 0).all()


@pytest.mark.parametrize("dtype", CODE)
@pytest.mark.parametrize("size", [8, 32, 128, 1024, 1030])
def test_a_tail_of_equal_gains_is_exactly_zero(gpu, size, dtype):
    starts = torch.tensor([0, 1, size // 3, size // 2, size - 1])
    tail = torch.arange(size) >= starts[:, None]
    gains = numbers(5, size).masked_fill(tail, 0.7).to(dtype)
    mask = numbers(5, size, seed=1) < 0.8
    for holes in (None, mask):
        given = gains if holes is None else gains.masked_fill(~holes, torch.nan)
        assert (swap(gpu, given, torch.full((5,), 0.3), mask=holes)[tail] == 0).all()


@pytest.mark.parametrize("dtype", CODE)
@pytest.mark.parametrize("size", [2, 10, 128, 130, 1000])
def test_the_ideal_order_is_that_of_the_lists_own_gains(gpu, size, dtype):
    size //= 1 if dtype != torch.float64 else 2
    gains = torch.stack([(numbers(9, size) < 0.3) * 0.7, numbers(9, size), (numbers(9, size) * 4).floor()])
    gains = gains.flatten(0, 1).to(dtype)
    mask, lengths = numbers(27, size, seed=1) < 0.8, (numbers(27, seed=2) * (size + 9)).long()
    for own in ((None, None), (lengths, mask)):
        given = gains.masked_fill(~reference.valid_positions(gains, *own), torch.nan)
        found = swap(gpu, given, None, *own, cutoff=20)
        assert (found.double() - truth(gains, None, *own, cutoff=20)).abs().max() < CLOSE[dtype]
        assert torch.equal(swap(gpu, given * 2.0**100, None, *own, cutoff=20), found)


def normalise(gpu, rewards, mask=None, offsets=None, ddof=1, eps=1e-6, scale=True, leave_one_out=False):
    out = empty(rewards.shape, rewards.dtype)
    pieces = 1 if offsets is None else len(offsets) - 1
    shape = [ctypes.c_int64(size) for size in rewards.shape]
    given = rewards, mask, offsets
    inputs = [*(pointer(x) for x in given), ctypes.c_int64(pieces), pointer(out)]
    how = ddof, ctypes.c_double(eps), scale, leave_one_out
    return launch(gpu, "group_normalize", out, given, CODE[rewards.dtype], *inputs, *shape, *how)


@pytest.mark.parametrize("dtype", CODE)
@pytest.mark.parametrize(
    "shape",
    [
        # Blocks go round their loops beyond 512 groups of up to 16, 256 of up to 128, 64 of up to 1,024.
        *[(515, 1, 1), (515, 7, 1), (515, 16, 1), (259, 17, 1), (259, 128, 1), (67, 130, 1), (3, 1024, 1)],
        *[(2, 1500, 1), (67, 1025, 1), (3, 16, 9), (2, 5, 1100), (2, 1030, 3)],
    ],
)
def test_groups_of_every_shape(gpu, shape, dtype):
    rewards = numbers(*shape).to(dtype)
    mask = numbers(*shape, seed=2) < 0.7
    cuts = torch.tensor([0, 0, shape[1] // 3, shape[1]])
    for how in ((1, 1e-6, True, False), (0, 0.0, True, True), (1, 1e-6, False, True)):
        for own, offsets in ((None, None), (mask, None), (None, cuts)):
            given = rewards if own is None else rewards.masked_fill(~own, torch.nan)
            expected = reference.group_normalize(rewards.double(), own, offsets, *how)
            found = normalise(gpu, given.contiguous(), own, offsets, *how)
            room = CLOSE[dtype] * (1 + expected.abs().max())  # a rounding is relative to the advantage
            assert (found.double() - expected).abs().max() < room
    assert (normalise(gpu, torch.full(shape, 0.7, dtype=dtype), eps=0.0) == 0).all()


@pytest.mark.parametrize(
    ("shape", "shared_memory"),
    # (300, 3, 10) and (20, 40, 30) let blocks go round their loops; (1, 100, 128) takes more than 48 KiB, and
    # two kernels where there is not so much, as do lists of more than 1,024.
    [
        *[((300, 3, 10), 48), ((2, 16, 128), 48), ((20, 40, 30), 48), ((1, 100, 128), 227)],
        *[((1, 100, 128), 48), ((2, 4, 1000), 48), ((2, 3, 1030), 48), ((1, 33, 5), 48)],
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_pass_is_the_two_operations(gpu, shape, shared_memory, dtype):
    gpu.size_of_gpu(1, shared_memory * 1024)
    contexts, group, size = shape
    gains, idcg = numbers(*shape).to(dtype), (1 + numbers(contexts, group, seed=1)).to(dtype)
    mask = numbers(*shape, seed=2) < 0.8
    lengths = (numbers(contexts, group, seed=3) * (size + 1)).long()
    for own_lengths, own_mask in ((None, None), (lengths, mask)):
        valid = torch.ones(shape, dtype=torch.bool)
        if own_mask is not None:
            valid = mask & (torch.arange(size) < lengths[..., None])
        for later in (True, False):
            out = empty(shape, dtype)
            given = gains, idcg, own_lengths, own_mask
            inputs = [pointer(x) for x in (*given, out)]
            sizes = ctypes.c_int64(contexts), ctypes.c_int64(group), size, size, later
            how = 1, ctypes.c_double(1e-2), True, False
            launch(gpu, "swap_normalize", out, given, CODE[dtype], *inputs, *sizes, *how)
            expected = reference.swap_normalize(
                gains.double(), idcg.double(), valid, size, later, 1, 1e-2, True, False
            )
            # An error of a reward (a tenth of CLOSE at these sizes) is divided by the std of its position
            # and eps, 0.01 at least.
            assert (out.double() - expected).abs().max() < 10 * CLOSE[dtype]


def drawn(values, beyond):
    """The same numbers in memory that begins `beyond` numbers later."""
    return torch.cat([values.new_zeros(beyond), values.flatten()])[beyond:].view(values.shape)


ANY = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
LISTS = st.tuples(st.integers(1, 4), st.integers(1, 20), st.integers(1, 140) | st.integers(1, 1024))
GROUPS = st.tuples(
    st.integers(1, 40), st.integers(1, 140) | st.integers(1, 9000), st.sampled_from([1, 1, 2, 16, 60])
)
DTYPES, BOTH, SEEDS = st.sampled_from(list(CODE)), st.booleans(), st.integers(0, 2**32)


@ANY
@given(LISTS, DTYPES, BOTH, BOTH, BOTH, BOTH, st.integers(0, 3), SEEDS)
def test_any_lists_are_the_closed_form(gpu, shape, dtype, later, masked, ragged, own, beyond, seed):
    size, exact = shape[-1], torch.promote_types(dtype, torch.float32)
    assume(not own or size * exact.itemsize <= 4096)
    torch.manual_seed(seed)
    gains, out = drawn(torch.rand(shape).to(dtype), beyond), empty(shape, dtype, beyond > 1)
    idcg = None if own else 1 + torch.rand(shape[:-1], dtype=exact)
    lengths = torch.randint(0, size + 9, shape[:-1]) if ragged else None
    mask = drawn(torch.rand(shape) < 0.8, beyond) if masked else None
    valid, how = reference.valid_positions(gains, lengths, mask), (size, size, later)
    arrays = [gains, idcg, lengths, mask]
    exact = [gains.double(), idcg if own else idcg.double(), valid]
    contexts, group = (ctypes.c_int64(n) for n in shape[:2])
    inputs, last = [pointer(x) for x in (*arrays, out)], (1, ctypes.c_double(0.1), True, False)
    launch(gpu, "swap_normalize", out, arrays, CODE[dtype], *inputs, contexts, group, *how, *last)
    expected = reference.swap_normalize(*exact, *how[1:], 1, 0.1, True, False)
    assert (out - expected).abs().max() < 40 * CLOSE[dtype]  # errors of rewards are divided by 0.1 or more
    launch(gpu, "swap_ndcg", out, arrays, CODE[dtype], *inputs, ctypes.c_int64(shape[0] * shape[1]), *how)
    rows = [x if x is None else x.flatten(0, 1) for x in exact]
    assert (out.flatten(0, 1) - reference.swap_ndcg(*rows, *how[1:])).abs().max() < CLOSE[dtype]


@ANY
@given(GROUPS, DTYPES, BOTH, st.integers(0, 9), st.integers(0, 3), SEEDS)
def test_any_groups_are_the_truth(gpu, shape, dtype, masked, pieces, beyond, seed):
    rows, size, inner = shape
    assume(rows * size * inner <= 40_000)
    torch.manual_seed(seed)
    rewards, mask, offsets = drawn(torch.rand(shape).to(dtype), beyond), None, None
    if pieces:
        cuts = torch.randint(0, size + 1, (pieces - 1,)).sort().values
        offsets = torch.cat([torch.tensor([0]), cuts, torch.tensor([size])])
    elif masked:
        mask = drawn(torch.rand(shape) < 0.8, beyond)
    how = 1, 0.1, True, False
    found = normalise(gpu, rewards, mask, offsets, *how)
    expected = reference.group_normalize(rewards.double(), mask, offsets, *how)
    assert (found - expected).abs().max() < 20 * CLOSE[dtype] * (1 + expected.abs().max())  # divided by 0.1


WHOLE_RUNS = {  # the shapes that the table of requests covers
    "swap_ndcg": [(256, 128), (256, 100), (256, 50), (256, 10), (16, 1000)],
    "group_normalize": [
        *[(64, size, 1) for size in (8, 10, 16, 32, 50, 64, 100, 128)],
        *[(16, size, 1) for size in (256, 1000, 1024)],
        *[(2, size, 128) for size in (8, 16, 32, 64, 100, 128, 256, 1024)],
        *[(2, 16, inner) for inner in (10, 50, 100, 1000)],
    ],
    "swap_normalize": [(4, 16, 128), (4, 16, 100), (4, 16, 50), (4, 16, 10), (4, 8, 1000), (2, 64, 128)],
}


def arguments(name, pointers, shape):
    """What a kernel takes: pointers to values, IDCG and rewards, their shape, and nothing masked."""
    inputs, idcg, out = pointers
    sizes, how = [ctypes.c_int64(size) for size in shape], (1, ctypes.c_double(1e-6), True, False)
    if name == "group_normalize":
        return inputs, None, None, ctypes.c_int64(1), out, *sizes, *how
    last = (*sizes[:-1], shape[-1], shape[-1], True)
    return inputs, idcg, None, None, out, *last, *(how if name == "swap_normalize" else ())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", WHOLE_RUNS)
def test_every_access_is_a_whole_run_and_threads_are_in_other_banks(gpu, name, dtype):
    ideals = (True, False) if name != "group_normalize" else (True,)
    for shape, told in itertools.product(WHOLE_RUNS[name], ideals):
        values, out = numbers(*shape).to(dtype), empty(shape, torch.float32)
        idcg = torch.ones(shape[:-1]) if told else None  # its own
        gpu.count_requests()
        call = arguments(name, [pointer(x) for x in (values, idcg, out)], shape)
        launch(gpu, name, out, (values, idcg), CODE[dtype], *call, orders=[False])
        (_, written), (read, _), *_, (wavefronts, least) = requested(gpu, 3 if told else 2)
        assert read <= 1.05 * values.nbytes / 32, (shape, told)
        assert written <= 1.05 * out.nbytes / 32, (shape, told)
        assert wavefronts <= 1.1 * least, (shape, told)


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1.3), (torch.bfloat16, 1.85)])
@pytest.mark.parametrize("shape", [(1, 1024, 100), (1, 256, 1000), (1, 1024, 1000)])
def test_columns_that_are_cut_read_parts_of_sectors(gpu, shape, dtype, most):
    values, out = numbers(*shape).to(dtype), empty(shape, torch.float32)
    gpu.count_requests()
    call = arguments("group_normalize", [pointer(values), None, pointer(out)], shape)
    launch(gpu, "group_normalize", out, (values, None), CODE[dtype], *call, orders=[False])
    (_, written), (read, _), *_ = requested(gpu, 2)
    assert values.nbytes / 32 <= read <= most * values.nbytes / 32
    assert written <= 1.3 * out.nbytes / 32


def test_a_context_beyond_shared_memory_is_written_twice(gpu):
    shape = (1, 1024, 128)
    values, idcg, out = numbers(*shape), torch.ones(shape[:-1]), empty(shape, torch.float32)
    gpu.count_requests()
    call = arguments("swap_normalize", [pointer(values), pointer(idcg), pointer(out)], shape)
    launch(gpu, "swap_normalize", out, (values, idcg), CODE[torch.float32], *call, orders=[False])
    assert requested(gpu, 3)[0][1] == pytest.approx(2 * out.nbytes / 32, rel=0.01)  # edges of runs


BEYOND = 2**31  # numbers before the first that is there
FAR = [  # kernel, the shape that is there, how many lists, groups or contexts a block takes
    *[("swap_ndcg", (64, 128), 64), ("swap_ndcg", (8, 1000), 8), ("swap_ndcg", (1, 1500), 1)],
    *[("group_normalize", (128, 16, 1), 128), ("group_normalize", (1, 9000, 1), 1)],
    *[("group_normalize", (4, 16, 128), 4), ("swap_normalize", (4, 16, 128), 4)],
    *[("group_normalize", (1, 600, 32), 0.5), ("group_normalize", (8, 800, 16), 8)],
]


@pytest.mark.parametrize(("name", "shape", "together"), FAR)
def test_offsets_may_be_larger_than_an_int(gpu, name, shape, together):
    each = torch.Size(shape[1:]).numel()
    gpu.size_of_gpu(1, 48 * 1024)
    before = int(
        -(-BEYOND // each // together) * together
    )  # rows that no memory holds: blocks that do not run
    values, idcg, out = numbers(*shape), 1 + numbers(*shape[:-1]), empty(shape, torch.float32)
    near = arguments(name, [pointer(x) for x in (values, idcg, out)], shape)
    expected = launch(gpu, name, out, (values, idcg), 0, *near, orders=[False]).clone()
    gpu.size_of_gpu(10**8, 48 * 1024)  # no block goes round its loop
    gpu.start_at_block(ctypes.c_int64(int(before // together)))
    ahead = [(values, each), (idcg, idcg[0].numel()), (out, each)]
    pointers = [ctypes.c_void_p(x.data_ptr() - 4 * before * numbers) for x, numbers in ahead]
    far = arguments(name, pointers, (before + shape[0], *shape[1:]))
    try:
        assert torch.equal(launch(gpu, name, out, (values, idcg), 0, *far, orders=[False]), expected)
    finally:
        gpu.start_at_block(ctypes.c_int64(0))


@pytest.mark.parametrize(
    ("name", "shape", "kernels"),
    [("swap_ndcg", (2, size), 1) for size in (10, 200, 1100)]
    + [("group_normalize", shape, 1) for shape in ((2, 8, 1), (2, 2000, 1), (2, 8, 10), (1, 5000, 16))]
    + [("swap_normalize", (2, 3, 10), 1), ("swap_normalize", (1, 2, 1100), 2)],
)
def test_a_refused_launch_is_reported(gpu, name, shape, kernels):
    values, idcg, out = numbers(*shape), torch.ones(shape[:-1]), empty(shape, torch.float32)
    call = arguments(name, [pointer(x) for x in (values, idcg, out)], shape)
    gpu.set_arrays(ctypes.c_int64(0), None)
    for launches in range(kernels + 1):
        gpu.refuse_after(launches)
        assert bool(getattr(gpu, name)(0, *call)) == (launches < kernels)
    gpu.refuse_after(-1)


@pytest.fixture(scope="module")
def binding(gpu, tmp_path_factory):
    """csrc/cuda/ops.cpp over the emulated kernels, and how to call an operation of it."""
    libraries = list(load.FOLDER.glob("_C*.so"))
    if not libraries or load.built_for(torch.device("cuda")):
        pytest.skip("extension not built, or a device is there: no operations to take the place of")
    library, torch_folder = tmp_path_factory.mktemp("binding") / "binding.so", Path(torch.__file__).parent
    source = ROOT / "tests" / "emulator" / "binding.cpp"
    flags = ["-O0", "-std=c++17", "-fPIC", "-shared", "-Wl,-Bsymbolic", "-DUSE_CUDA"]
    flags += ["-DTORCH_TARGET_VERSION=0x020a000000000000", "-isystem", torch_folder / "include"]
    links = [gpu.path, f"-L{torch_folder / 'lib'}", "-ltorch_cpu"]
    subprocess.run(["g++", *flags, "-o", library, source, *links], check=True)
    gpu.set_arrays(ctypes.c_int64(0), None)
    torch.ops.load_library(libraries[0])  # the schemas
    torch.ops.load_library(library)
    cuda = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)

    def call(name, *arguments):
        try:
            getattr(torch.ops.minirec, name).default.redispatch(cuda, *arguments[:-1], False, arguments[-1])
        finally:
            assert gpu.error() == b""

    return call


def test_the_binding_hands_all_arguments_over(gpu, binding):
    gains, idcg = numbers(2, 5, 10), 1 + numbers(2, 5, seed=1)
    mask, lengths = numbers(2, 5, 10, seed=2) < 0.7, (numbers(2, 5, seed=3) * 11).long()
    how = (0, 1e-2, True, True)
    for dtype, later in itertools.product(CODE, (True, False)):
        given = gains.to(dtype)
        out = empty(given.shape, dtype)
        for own in ((idcg.to(out.dtype), lengths, mask), (None, None, None)):
            ideal, *holes = own
            exact = [given.double(), ideal if ideal is None else ideal.double()]
            exact = [*exact, reference.valid_positions(given, *holes), 4, later]
            plain = (1, 0.0, False, False)
            expected = reference.swap_normalize(*exact, *plain)
            binding("swap_normalize", given, *own, 4, later, *plain, out)
            assert (out.double() - expected).abs().max() < CLOSE[dtype]
            flat = [x if x is None else x.flatten(0, 1) for x in (given, *own)]
            binding("swap_ndcg", *flat, 4, later, out.flatten(0, 1))
            exact[:3] = [x if x is None else x.flatten(0, 1) for x in exact[:3]]
            assert (out.flatten(0, 1) - reference.swap_ndcg(*exact)).abs().max() < CLOSE[dtype]
        for own in ((mask, None), (None, torch.tensor([0, 2, 5])), (None, None)):
            binding("group_normalize", given, *own, *how, out)
            expected = reference.group_normalize(given.double(), *own, *how)
            assert (out.double() - expected).abs().max() < 50 * CLOSE[dtype]  # divided by 0.01 or more


def test_the_binding_raises_what_the_kernels_return(gpu, binding):
    gains, idcg = numbers(2, 3, 10), torch.ones(2, 3)
    rows, out = (gains.flatten(0, 1), idcg.flatten()), empty(gains.shape, torch.float32)
    calls = {
        "swap_ndcg": (*rows, None, None, 10, True, out.flatten(0, 1)),
        "group_normalize": (gains, None, None, 1, 0.0, True, False, out),
        "swap_normalize": (gains, idcg, None, None, 10, True, 1, 0.0, True, False, out),
    }
    for name, call in calls.items():
        gpu.refuse_after(0)
        with pytest.raises(RuntimeError, match="CUDA: a launch that was refused"):
            binding(name, *call)
    long = numbers(1, 1025)
    with pytest.raises(RuntimeError, match="idcg: expected a tensor for lists of 1025 on CUDA"):
        binding("swap_ndcg", long, None, None, None, 10, True, empty(long.shape, torch.float32))


@pytest.mark.parametrize("name", ladder_cuda.LADDERS)
def test_the_rungs_of_the_ladder_agree_and_cost_what_their_map_says(gpu, name):
    page = (ROOT / "csrc" / "ladder" / f"{name}.cu").read_text().split("#include")[0]
    kept = (ROOT / "bench" / "results" / "ladder_cuda.md").read_text().split(f"## {name}")[1]
    number = r" +([\d.,]+)"
    claimed = re.findall(rf"^//   \d  [a-z ]{{12}}{6 * number} ", page, re.MULTILINE)
    call, rungs, shape, _ = ladder_cuda.LADDERS[name]
    values = numbers(*shape)
    given, out = ladder_cuda.inputs(name, values), empty(shape, torch.float32)
    row = ladder_cuda.rows(gpu, name, values)[0]
    sizes = [ctypes.c_int64(size) for size in shape]
    for rung, (label, said) in enumerate(zip(rungs, claimed, strict=True), 1):
        *costs, registers = [float(number.replace(",", "")) for number in said]
        pointers, stream = [pointer(x) for x in (*given, out)], ctypes.c_void_p(gpu.current_stream())
        launch(gpu, call, out, given, rung, *pointers, *sizes, stream)
        assert (out.double() - row.truth).abs().max() < ladder_cuda.CLOSE, rung
        # the rest: reads of IDCG, and the table of a block
        assert ladder_cuda.counts(gpu, name, rung) == pytest.approx(costs, rel=0.02), rung
        cells = re.search(rf"\| {label} \|(.*) \|", kept)[1].replace(",", "").split("|")
        *same, own = [float(cell) for cell in cells]
        assert (same, own) == (pytest.approx(costs, rel=0.02), registers), rung


def test_rungs_are_timed_only_if_they_give_the_truth(gpu):
    gpu.set_arrays(ctypes.c_int64(0), None)
    pairs = [(numbers(64, 128), torch.zeros(64, 128))]
    climbed = ladder_cuda.rows(gpu, "swap_ndcg", pairs[0][0])
    assert [row.name for row in climbed] == ["staged", "shared", "warp", "closed form", "pairs"]
    wrong = climbed[1]._replace(call=lambda x, out: out.zero_())
    setup = Setup(rounds=3, quick=True)
    lines = [*table("rungs", [floor(setup), climbed[0], wrong], pairs, ladder_cuda.CLOSE, setup)]
    assert re.match(r"\| staged \| [\d.]+ \| [\d.,]+ \| 1.00 \|", lines[4])
    assert lines[5] == "| shared | red | | | | |"


def test_an_access_can_be_traced(gpu):
    gains, idcg = numbers(2, 8), torch.ones(2)
    gpu.traced(None)
    swap(gpu, gains, idcg, orders=[False])
    size = gpu.traced(None)
    rows = torch.zeros(size, 4, dtype=torch.int64)
    gpu.traced(pointer(rows))
    wide = rows[rows[:, 1] == 16]
    reads = wide[wide[:, 3] == 0, 0] - gains.data_ptr()
    assert sorted(reads.tolist()) == [0, 16, 32, 48]
    assert len(wide[wide[:, 3] == 1]) == 4


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc to compile for CUDA")
def test_nvcc_compiles_the_kernels_and_the_ladders_that_include_them_and_no_register_spills(tmp_path):
    flags = ["-std=c++17", "-O3", "-Xptxas=-v", "-gencode=arch=compute_90,code=sm_90"]

    def compile_one(source):
        command = ["nvcc", *flags, "-cubin", source, "-o", tmp_path / f"{source.stem}.cubin"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    with ThreadPoolExecutor(2) as pool:
        for source, done in zip(SOURCES, pool.map(compile_one, SOURCES), strict=True):
            assert done.returncode == 0, f"{source.name}: {done.stderr}"
            assert "warning" not in done.stderr, f"{source.name}: {done.stderr}"
            spilled = re.findall(r"(\d+) bytes spill", done.stderr)
            assert spilled, f"{source.name}: {done.stderr}"
            assert set(spilled) == {"0"}, f"{source.name}: {done.stderr}"
