"""The CUDA kernels without a GPU: their source under an emulator of thread blocks, and compiled by nvcc.

The emulator sees neither races nor time; the tests of the operations that are marked cuda run on a GPU.
"""

import ctypes
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from minirec.ops import reference

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SOURCES = [*sorted((ROOT / "csrc" / "ladder").glob("*.cu")), ROOT / "csrc" / "cuda" / "swap_normalize.cu"]
CODE = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}
# A sum runs over at most 32 positions of a thread and then over its lanes, so numbers of size 1 see some
# thirty roundings: of 6e-8 each in float32, of 1e-16 in float64.
CLOSE = {torch.float32: 2e-6, torch.float64: 4e-15, torch.bfloat16: 2e-6}
EDGES = [1, 2, 4, 31, 32, 33, 100, 127, 128, 129, 1000, 1024, 1025, 1500]


@pytest.fixture(scope="module")
def gpu(tmp_path_factory):
    """The emulated kernels: a library of plain functions."""
    if shutil.which("g++") is None:
        pytest.skip("no g++ to build the emulator of CUDA")
    library = tmp_path_factory.mktemp("emulator") / "kernels.so"
    source = ROOT / "tests" / "emulator" / "kernels.cpp"
    flags = ["-O1", "-std=c++17", "-fPIC", "-shared"]
    subprocess.run(["g++", *flags, "-o", library, source], check=True)
    loaded = ctypes.CDLL(str(library))
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
        assert not code and not error, error
        results.append(out.clone())
    torch.testing.assert_close(results[0], results[-1], rtol=0, atol=0, equal_nan=True)  # else it is a race
    return out


def requested(gpu, arrays):
    """Since count_requests: sectors read and written, per array of a launch; wavefronts and the least possible."""
    rows = (ctypes.c_int64 * (2 * arrays + 2))()
    gpu.counted_requests(rows)
    return list(zip(rows[::2], rows[1::2], strict=True))


def swap(gpu, gains, idcg, lengths=None, mask=None, cutoff=None, later=True, misaligned=False, **kw):
    n, size = gains.shape
    out = empty(gains.shape, gains.dtype, misaligned)
    given = gains, idcg.to(out.dtype), lengths, mask
    how = ctypes.c_int64(n), size, min(cutoff or size, size), later
    inputs = [pointer(x) for x in (*given, out)]
    return launch(gpu, "swap_ndcg", out, given, CODE[gains.dtype], *inputs, *how, **kw)


def truth(gains, idcg, lengths=None, mask=None, cutoff=None, later=True):
    n, size = gains.shape
    valid = torch.ones(n, size, dtype=torch.bool) if mask is None else mask
    if lengths is not None:
        valid = valid & (torch.arange(size) < lengths[:, None])
    return reference.swap_ndcg(gains.double(), idcg.double(), valid, min(cutoff or size, size), later)


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
        zero = swap(gpu, numbers(5, size), torch.zeros(5), later=later)
        assert (zero == 0).all()


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
    "shape",
    # (100, 3, 10) and (20, 40, 30) let blocks go round their loops; (1, 100, 128) takes more than 48 KiB.
    [(100, 3, 10), (2, 16, 128), (20, 40, 30), (1, 100, 128), (2, 4, 1000), (2, 3, 1030), (1, 33, 5)],
)
@pytest.mark.parametrize("shared_memory", [227 * 1024, 8 * 1024], ids=["fits", "does not fit"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_pass_is_the_two_operations(gpu, shape, shared_memory, dtype):
    gpu.size_of_gpu(1, max(shared_memory, 13 * 1024 if shape[2] > 128 else 0))
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


def test_every_gain_is_read_once_and_every_reward_written_once(gpu):
    counted = (ctypes.c_int64 * 4)()
    for size in (16, 128, 1024):
        gains, idcg = numbers(10, size), torch.ones(10)
        gpu.counts(counted)
        swap(gpu, gains, idcg, orders=[False])
        gpu.counts(counted)
        positions = 10 * size
        read_idcg = counted[0] - 4 * positions  # every lane of a list reads its IDCG
        assert 0 < read_idcg <= 10 * 32 * 4
        assert counted[1] == 4 * positions


@pytest.mark.parametrize(
    ("name", "rungs", "shape"), [("swap_ndcg", 4, (64, 128)), ("group_normalize", 3, (64, 16))]
)
def test_the_rungs_of_the_ladder_agree_and_cost_what_their_map_says(gpu, name, rungs, shape):
    page = (ROOT / "csrc" / "ladder" / f"{name}.cu").read_text().split("#include")[0]
    number = r" +([\d.,]+)"
    claimed = re.findall(rf"^//   \d  [a-z ]{{12}}{4 * number} ", page, re.MULTILINE)
    assert len(claimed) == rungs
    values, idcg = numbers(*shape), 1 + numbers(shape[0], seed=1)
    counted = (ctypes.c_int64 * 4)()
    sizes = [ctypes.c_int64(size) for size in shape]
    for rung, said in enumerate(claimed, 1):
        gpu.counts(counted)
        out = empty(shape, torch.float32)
        if name == "swap_ndcg":
            inputs, given = [pointer(x) for x in (values, idcg, out)], (values, idcg)
            expected = truth(values, idcg)
        else:
            inputs, given = [pointer(x) for x in (values, out)], (values,)
            expected = reference.group_normalize(
                values.double()[..., None], None, None, 1, 1e-6, True, False
            ).squeeze(2)
        gpu.count_requests()
        launch(gpu, {"swap_ndcg": "swap_ladder", "group_normalize": "normalize_ladder"}[name], out, given, rung, *inputs, *sizes, orders=[False])
        assert (out.double() - expected).abs().max() < 5e-5, rung
        gpu.counts(counted)
        assert counted[1] == 4 * values.numel()
        requests = requested(gpu, len(given) + 1)
        sectors = requests[0][1] + requests[1][0]
        found = [n / shape[0] for n in (counted[0], sectors, counted[2], counted[3])]
        # the rest: reads of IDCG, and the table of a block
        assert found == pytest.approx([float(n.replace(",", "")) for n in said], rel=0.02), rung


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
def test_nvcc_compiles_the_kernels_and_the_ladders_that_include_them(tmp_path):
    flags = ["-std=c++17", "-O1", "-gencode=arch=compute_90,code=sm_90"]

    def compile_one(source):
        command = ["nvcc", *flags, "-c", source, "-o", tmp_path / f"{source.stem}.o"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    with ThreadPoolExecutor(2) as pool:
        for source, done in zip(SOURCES, pool.map(compile_one, SOURCES), strict=True):
            assert done.returncode == 0, f"{source.name}: {done.stderr}"
            assert "warning" not in done.stderr, f"{source.name}: {done.stderr}"
