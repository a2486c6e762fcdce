"""The operations in Triton: every property once more, when they serve, and that they compile for a GPU.

Where there is no GPU, Triton's interpreter runs them on the CPU (see ``conftest.py``). A call takes it some
hundredths of a second, so a property is tried on a few examples.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

pytest.importorskip("triton", reason="triton is not installed")

from minirec.ops import group_normalize, load, reference, swap_advantages, swap_ndcg
from tests import backends
from tests.ops.test_ops import *  # noqa: F403
from tests.ops.test_ops_exact import *  # noqa: F403
from tests.ops.test_ops_graph import calls

# What divides by 0 is not chosen, and numpy, which runs the kernels, says so.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")

ROOT = Path(__file__).parents[2]
TWIN_FOR = load.twin_for


@pytest.fixture(scope="module")
def device():
    """Triton serves the tests of this file, those that are imported too."""
    with pytest.MonkeyPatch.context() as patch:
        yield backends.use("triton", patch)


@pytest.fixture(autouse=True)
def few(request, monkeypatch):
    """Properties are tried on a few examples."""
    if hasattr(request.function, "hypothesis"):
        monkeypatch.setattr(request.function, "_hypothesis_internal_use_settings", settings(max_examples=5))


# ---- the published vectors ----


def test_swap_rewards_are_the_published_ones(device):
    for case in json.loads((ROOT / "tests/vectors/swap.json").read_text())["lists"]:
        gains = torch.tensor([case["gains"]], dtype=torch.float64, device=device)
        if (gains < 0).any():
            continue  # the operations refuse them
        for pool, form in (("later", "causal"), ("all", "noncausal")):
            # a mean of differences of NDCG in float64
            assert swap_ndcg(gains, cutoff=case["cut"], pool=pool)[0].tolist() == pytest.approx(
                case[form], rel=1e-12, abs=1e-14
            )


def test_advantages_are_the_published_ones(device):
    data = json.loads((ROOT / "tests/vectors/advantages.json").read_text())
    for convention, how in data["conventions"].items():
        how["scale"] = "std" if how.pop("std") else "none"
        for name, rewards in data["rewards"].items():
            found = group_normalize(torch.tensor(rewards, dtype=torch.float32, device=device), **how)
            # float32, in another order of the sums
            assert found.tolist() == pytest.approx(data["advantages"][convention][name], rel=1e-6, abs=1e-6)


# ---- what is easily lost ----


def test_equal_gains_after_another_are_exactly_zero(device):
    gains = torch.full((1, 11), 0.7, device=device)
    gains[0, 0] = 0.3
    found = swap_ndcg(gains, torch.tensor(4.0, device=device))[0]
    assert found[0] != 0
    assert (found[1:] == 0).all()


def test_equal_rewards_of_any_number_are_exactly_zero(device):
    rewards = torch.full((20, 20), 0.7, device=device)
    rewards[:, 0] = 0.1
    counted = torch.arange(20, device=device) <= torch.arange(20, device=device)[:, None]
    counted[:, 0] = False
    assert (group_normalize(rewards, mask=counted) == 0).all()


def test_a_mask_and_ddof_are_not_forgotten(device):
    rewards = torch.tensor([1.0, 9.0, 3.0], device=device)
    mask = torch.tensor([True, False, True], device=device)
    # (1 - 2) over the root of 2/1, and of 2/2
    for ddof, expected in ((1, 2**-0.5), (0, 1.0)):
        found = group_normalize(rewards, mask=mask, ddof=ddof, eps=0.0).tolist()
        assert found == pytest.approx([-expected, 0.0, expected], abs=1e-6)


# ---- every tile ----


@pytest.mark.parametrize("size", [7, 20])
def test_a_grid_of_many_tiles_writes_every_number_once(device, size, monkeypatch):
    monkeypatch.setattr("minirec.ops.triton.TILE", 64)
    random = torch.Generator().manual_seed(0)
    gains, mask = torch.rand(5, 3, size, generator=random), torch.rand(5, 3, size, generator=random) < 0.8
    lengths = torch.randint(0, size + 1, (5, 3), generator=random)
    cuts = torch.tensor([0, 2, 2, 3])
    gains, mask, lengths, cuts = (x.to(device) for x in (gains, mask, lengths, cuts))

    def results():
        return [
            swap_ndcg(gains, lengths=lengths, mask=mask, cutoff=5, pool="all"),
            group_normalize(gains, 1, mask, ddof=0, leave_one_out=True),
            group_normalize(gains, 1, offsets=cuts, scale="none"),
            swap_advantages(gains, lengths=lengths, mask=mask, eps=1e-2),
        ]

    found = results()
    monkeypatch.setattr(load, "twin_for", lambda device: False)
    for one, other in zip(found, results(), strict=True):
        # float32: advantages of up to 2, whose divisor is above 1e-2
        assert torch.allclose(one, other, rtol=0, atol=2e-5)


# ---- as torch sees them ----


def test_opcheck(device):
    for name, (first, *others, _, out) in calls(device):
        if name != "group_normalize":
            others[1:3] = [reference.valid_positions(first, *others[1:3])]
        op = getattr(torch.ops.minirec, f"triton_{name}").default
        torch.library.opcheck(op, (first, *others, out))


def test_compiled_as_one_graph_it_is_the_same(device):
    gains = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(0)).to(device)
    how = {"idcg": torch.full((3, 1), 9.0, device=device), "cutoff": 5}

    def advantages(gains):
        return group_normalize(swap_ndcg(gains * 2, **how) + 1, dim=1), swap_advantages(gains)

    torch.compiler.reset()
    compiled = torch.compile(advantages, fullgraph=True, backend="aot_eager")(gains)
    for found, expected in zip(compiled, advantages(gains), strict=True):
        assert torch.equal(found, expected)


# ---- when they serve ----


def served(monkeypatch, operation, *inputs, **how):
    """By what an operation is served: the names of the ops and functions of ``reference`` that compute."""
    names = []
    for name in ("swap_ndcg", "group_normalize", "swap_normalize"):
        plain = getattr(reference, name)
        monkeypatch.setattr(
            reference, name, lambda *a, f=plain, n=name: names.append(f"reference.{n}") or f(*a)
        )
    with torch.profiler.profile() as profile:
        operation(*inputs, **how)
    return names + [event.name for event in profile.events() if event.name.startswith("minirec::")]


def test_they_serve_lists_and_groups_that_fit_into_a_tile(device, monkeypatch):
    for operation, name in (
        (swap_ndcg, "swap_ndcg"),
        (group_normalize, "group_normalize"),
        (swap_advantages, "swap_normalize"),
    ):
        for shape, by in (((2, 4096), f"minirec::triton_{name}"), ((2, 4097), f"reference.{name}")):
            assert served(monkeypatch, operation, torch.ones(shape, device=device))[0] == by
    many = torch.ones(1, 4097, 2, device=device)
    assert served(monkeypatch, group_normalize, many, 0) == ["minirec::triton_group_normalize"]


def test_compiled_kernels_come_first(device, monkeypatch):
    monkeypatch.setattr(load, "built_for", lambda device: True)
    if load.WHY_NOT["cpu"]:  # then nobody has defined it
        with pytest.raises(AttributeError, match="swap_ndcg"):
            swap_ndcg(torch.ones(2, 3))
    else:
        assert served(monkeypatch, swap_ndcg, torch.ones(2, 3)) == ["minirec::swap_ndcg"]


def test_they_serve_cuda_where_it_has_no_compiled_kernels_and_say_why_not(monkeypatch):
    monkeypatch.setattr(load, "twin_for", TWIN_FOR)

    def lines(cuda):
        """What is said, with that reason why the compiled kernels do not serve CUDA."""
        monkeypatch.setitem(load.WHY_NOT, "cuda", cuda)
        monkeypatch.setitem(load.WHY_NOT, "triton", load._load_twin())
        said = list(load.backends())
        assert load.twin_for(torch.device("cuda")) == ("triton: serves cuda" in said)
        assert not load.twin_for(torch.device("cpu"))
        return [line.replace("swap_ndcg, group_normalize, swap_normalize: ", "") for line in said]

    monkeypatch.delenv("MINIREC_NO_EXT", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert {"cuda  triton: not built", "triton: serves cuda"} <= set(lines("not built"))
    assert {"cuda  kernels", "triton: compiled kernels serve cuda"} <= set(lines(""))
    monkeypatch.setitem(sys.modules, "minirec.ops.triton", None)
    monkeypatch.delattr("minirec.ops.triton")
    assert "cuda  torch: not built" in lines("not built")
    assert lines("not built")[2].startswith("triton: it cannot be imported: ")
    monkeypatch.setenv("MINIREC_NO_EXT", "1")
    assert "triton: MINIREC_NO_EXT is set" in lines("MINIREC_NO_EXT is set")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert {"cuda  torch: no device", "triton: no device"} <= set(lines("no device"))


def test_triton_is_loaded_only_where_it_serves():
    serves = "('triton' in sys.modules) == (load.WHY_NOT['triton'] == '')"
    code = f"import sys; from minirec.ops import load; assert {serves}"
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": python_path()}, check=True)


def python_path():
    """The project, and whatever else is on the path."""
    return os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)


# ---- a GPU that is not here ----

COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from minirec.ops.triton import _normalize, _swap

POINTERS = dict(discounts="*fp64", valid="*i1", mask="*i1", offsets="*i64")
TILE = dict(R=4, K=64)

def compiled(kernel, dtype, without, **constants):
    names = kernel.arg_names
    constants |= dict.fromkeys(without) | TILE
    kinds = {name: POINTERS.get(name, "i32") for name in names}
    kinds |= dict.fromkeys({"gains", "idcg", "rewards", "out"} & set(names), "*" + dtype)
    kinds |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(kernel, kinds, {(names.index(name),): value for name, value in constants.items()})
    return triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm

how = dict(EPS=1e-6, DDOF=1, SCALE=True, LEAVE_ONE_OUT=True)
for asm in (
    compiled(_swap, "fp32", (), LATER=True, TINY=2.0**-126),
    compiled(_swap, "fp64", (), LATER=False, TINY=2.0**-1022),
    compiled(_normalize, "fp32", ("offsets",), **how),
    compiled(_normalize, "fp64", ("mask",), **how),
):
    assert asm["cubin"]
"""


def test_they_compile_for_a_gpu(tmp_path):
    own = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    own |= {"PYTHONPATH": python_path(), "TRITON_CACHE_DIR": str(tmp_path)}
    (tmp_path / "compile.py").write_text(COMPILE)
    done = subprocess.run([sys.executable, tmp_path / "compile.py"], env=own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
