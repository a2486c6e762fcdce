"""The bench of the kernels: what it reads, prints, warns of and writes, with clocks of the tests' own."""

import os
import sys
from types import ModuleType

import pytest
import torch

from bench import kernels, kernels_gpu, kernels_peers, kernels_rows, kernels_sweep, kernels_ways
from bench.kernels_rows import Row, Setup
from bench.timing import caches, turns
from minirec.ops import load

SETUP = Setup(rounds=3, quick=True)


@pytest.fixture
def built(monkeypatch):
    """Kernels for the CPU, nothing compiled, and small buffers."""
    if load.WHY_NOT["cpu"]:
        assert not os.environ.get("MINIREC_REQUIRE_EXT"), load.WHY_NOT["cpu"]
        pytest.skip(f"extension not built: {load.WHY_NOT['cpu']}")
    monkeypatch.setattr(kernels_ways, "compiled", lambda call: call)
    monkeypatch.setattr(kernels_rows, "SMALL", 1)


def committed():
    return {file.name: file.stat().st_mtime_ns for file in kernels.RESULTS.iterdir()}


def run(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["bench.kernels", *words])
    kernels.main()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--shape 8", "expected 65536x128"),
        ("--shape 8x0", "expected 65536x128"),
        ("--shape 8xK", "expected 65536x128"),
        ("--op fused --shape 8x8", "fused takes lists x K for swap"),
        ("--op swap --shape 8x8x8", "swap takes"),
        ("--op sort", "invalid choice: 'sort'"),
        ("--dtype int8", "invalid choice: 'int8'"),
        ("--rounds 0", "expected 1 or more, got '0'"),
        ("--sweep --shape 8x8", "a sweep has its own shapes"),
        (f"--out {__file__}", "expected a folder"),
    ],
)
def test_what_cannot_be_measured_is_refused(words, message, capsys):
    with pytest.raises(SystemExit):
        kernels.arguments(words.split())
    assert message in capsys.readouterr().err


def test_a_device_without_kernels_is_refused_with_its_reason(monkeypatch, capsys):
    monkeypatch.setattr(kernels, "served", lambda device: False)
    monkeypatch.setitem(load.WHY_NOT, "cuda", "no CUDA device")
    with pytest.raises(SystemExit):
        kernels.arguments(["--device", "cuda"])
    assert "--device cuda: no CUDA device" in capsys.readouterr().err


@pytest.mark.parametrize("op", kernels.SHAPES)
@pytest.mark.parametrize("dtype", kernels.DTYPES)
def test_every_table_of_a_shape_of_ones_own_is_green(built, op, dtype):
    for shape in kernels.SHAPES[op]:
        setup = SETUP._replace(rounds=1, dtype=kernels.DTYPES[dtype])
        page = "\n".join(kernels.tables(op, (6, *shape[1:]), setup))
        assert f"6 x {' x '.join(map(str, shape[1:]))} {dtype}" in page
        assert "(out=) |" in page
        assert "red" not in page


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA: this machine has no device")
def test_every_table_is_green_on_a_gpu(built):
    setup = SETUP._replace(rounds=1, device="cuda")
    for op, shapes in kernels.SHAPES.items():
        for shape in shapes:
            page = "\n".join(kernels.tables(op, (6, *shape[1:]), setup))
            assert "copy, the floor" in page
            assert "red" not in page
    assert len([*kernels_gpu.graphs(setup)]) == 7


def test_a_gpu_keeps_the_time_itself(monkeypatch):
    monkeypatch.setattr(kernels_rows, "wall", lambda run: pytest.fail("the clock of the host"))
    monkeypatch.setattr(kernels_rows, "device_clock", lambda run: 6.0)
    ready = kernels_rows.Ready("kernel", dict, 2.0)
    assert kernels_rows.timed([ready], SETUP._replace(device="cuda")) == {"kernel": [3.0] * 3}


def test_nothing_is_written_unless_asked(built, monkeypatch, tmp_path, capsys):
    before = committed()
    words = "--device cpu --op normalize --shape 64x8 --quick --rounds 1".split()
    run(monkeypatch, *words)
    assert "| group_normalize, 64 x 8 float32 | ms |" in capsys.readouterr().out
    run(monkeypatch, *words, "--out", str(tmp_path / "new"))
    printed = capsys.readouterr().out
    [file] = (tmp_path / "new").iterdir()
    assert (file.name, file.read_text()) == ("kernels_cpu_normalize_64x8_quick.md", printed)
    assert "--op normalize --shape 64x8" in printed
    assert "Quick: " in printed
    assert committed() == before


def test_only_all_tables_have_the_name_of_the_committed_result():
    assert kernels.name_of(kernels.arguments(["--rounds", "5"]), "cpu") == "kernels_cpu"
    assert kernels.name_of(kernels.arguments(["--op", "swap"]), "cpu") == "kernels_cpu_swap"
    assert kernels.name_of(kernels.arguments(["--dtype", "float64"]), "cpu") == "kernels_cpu_float64"
    assert kernels.name_of(kernels.arguments(["--sweep"]), "cuda") == "kernels_sweep_cuda"


def test_the_tables_of_every_operation_have_the_present_sizes(monkeypatch):
    asked = []
    for op in kernels.TABLES:
        monkeypatch.setitem(kernels.TABLES, op, lambda shape, setup, op=op: asked.append((op, shape)) or ())
    monkeypatch.setattr(kernels, "instruction_sets", lambda shape, setup: asked.append(("sets", shape)) or ())
    assert [*kernels.tables("", (), Setup())] == []
    assert asked == [
        ("swap", (65536, 128)),
        ("normalize", (65536, 16)),
        ("normalize", (4096, 16, 128)),
        ("fused", (4096, 16, 128)),
        ("sets", (65536, 128)),
    ]
    asked.clear()
    assert [*kernels.tables("", (8, 2, 3), Setup())] == []
    assert asked == [("normalize", (8, 2, 3)), ("fused", (8, 2, 3))]


SECONDS = {"floor": 0.001, "kernel": 0.002, "slow": 0.008}


@pytest.fixture
def clocked(monkeypatch):
    """Rows that take SECONDS, three times as long after the first round; and the calls made so far."""
    calls = []

    def rows(*names):
        return [Row(name, lambda x, out, name=name: calls.append(name) or out.copy_(x)) for name in names]

    def clock(run):
        run()
        return SECONDS[calls[-1]] * (1 if calls.count("floor") <= 2 else 3)

    monkeypatch.setattr(kernels_rows, "wall", clock)
    return rows, calls


PAIRS = [(torch.rand(250, 1000), torch.zeros(250, 1000))]  # 2 MB to read and write


def test_a_row_has_its_time_its_ratios_and_its_bandwidth(clocked):
    rows, _ = clocked
    wide = [*rows("floor", "kernel"), rows("slow")[0]._replace(part=0.5, reads=(PAIRS[0][0],) * 2)]
    lines = [*kernels_rows.table("it", wide, PAIRS, 1.0, SETUP)]
    assert lines[1] == "| it | ms | of the floor | of the kernel | GB/s | share of the floor |"
    assert lines[3] == "| floor | 3.000 | 1.00 | 0.50 | 0.7 | 100.0% |"
    assert lines[5] == "| slow | 48.000 | 16.00 | 8.00 | 0.1 | 6.2% |"  # 3 MB, half the work


def test_rows_are_printed_as_they_are_measured_each_in_turn_with_floor_and_kernel(clocked):
    rows, calls = clocked
    lines = kernels_rows.table("it", rows("floor", "kernel", "slow"), PAIRS, 1.0, SETUP)
    for _ in range(5):
        line = next(lines)
    assert line.startswith("| kernel |")
    assert "slow" not in calls
    calls.clear()
    assert next(lines).startswith("| slow |")
    assert calls == ["floor", "kernel", "slow"] * 4  # a round of warming up


def test_a_row_that_is_off_gets_no_number(clocked):
    rows, calls = clocked
    floor, kernel, slow = rows("floor", "kernel", "slow")
    wrong = slow._replace(truth=PAIRS[0][0].double() + 1)
    lines = [*kernels_rows.table("it", [floor, kernel, wrong], PAIRS, 0.5, SETUP)]
    assert lines[5] == "| slow | red | | | | |"
    assert calls.count("slow") == 1
    without = [*kernels_rows.table("it", [floor, wrong, kernel], PAIRS, 0.5, SETUP)]
    assert without[3:5] == ["| floor | 3.000 | 1.00 |  | 0.7 | 100.0% |", "| slow | red | | | | |"]


def test_a_floor_that_is_slower_than_at_best_is_warned_of():
    busy = kernels_rows.busy
    assert [*busy("it", [1.0, 1.2, 1.2], ())] == []
    assert "took 1,300.000 ms, 1,000.000 ms in the best round" in [*busy("it", [1.0, 1.3, 1.3], ())][1]
    page = "| it | ms | of the floor |\n|---|---|---|\n| copy, the floor | {} | 1.00 |\n"
    assert [*busy("it", [1.0, 1.2, 1.2], (page.format("1,100.0"),))] == []
    assert [*busy("another", [1.0, 1.2, 1.2], (page.format("500.0"),))] == []
    assert "500.000 ms in an earlier run" in [*busy("it", [1.0, 1.2, 1.2], (page.format("500.0"),))][1]


def test_floors_of_earlier_runs_count_only_on_the_same_machine(monkeypatch, tmp_path):
    monkeypatch.setattr(kernels, "RESULTS", tmp_path)
    monkeypatch.setattr(kernels, "machine", lambda: "A processor, 2 threads; torch 2")
    (tmp_path / "kernels_cpu.md").write_text("`python`, A processor, 2 threads; torch 1")
    assert len(kernels.earlier("cpu", None)) == 1
    monkeypatch.setattr(kernels, "machine", lambda: "A processor, 4 threads; torch 2")
    assert kernels.earlier("cpu", None) == ()


def test_a_clock_of_ones_own_times_every_round_but_the_first():
    times = iter([9.0, 9.0, 1.0, 2.0, 3.0, 4.0])
    assert turns({"a": dict, "b": dict}, 2, lambda run: next(times)) == {"a": [1.0, 3.0], "b": [2.0, 4.0]}


def test_caches_are_those_for_data(tmp_path):
    for i, (kind, level, size) in enumerate(
        [("Data", 1, "48K"), ("Instruction", 1, "32K"), ("Unified", 2, "2048K")]
    ):
        folder = tmp_path / f"index{i}"
        folder.mkdir()
        for name, value in {"type": kind, "level": level, "size": size}.items():
            (folder / name).write_text(f"{value}\n")
    assert caches(tmp_path) == {"L1": 48, "L2": 2048}
    assert caches(tmp_path / "none") == {}


def test_buffers_are_larger_together_than_twice_the_last_cache(monkeypatch):
    monkeypatch.setattr(kernels_rows, "CACHE", 1)
    monkeypatch.setattr(kernels_rows, "caches", lambda: {"L1": 4, "L2": 64})
    pairs = kernels_rows.buffers((8, 256), Setup(dtype=torch.bfloat16))
    assert sum(x.nbytes + out.nbytes for x, out in pairs) >= 2 * 64 * 1024
    assert pairs[0][1].dtype == torch.float32
    assert (pairs[0][0].double() * 256 % 1 == 0).all()
    assert len(kernels_rows.buffers((1, 2), Setup())) == kernels_rows.MOST


@pytest.mark.parametrize("op", kernels_sweep.SWEPT)
def test_a_sweep_has_a_row_for_each_size_and_a_picture(built, monkeypatch, tmp_path, op):
    letter, sizes, _ = kernels_sweep.SWEPT[op]
    monkeypatch.setattr(kernels_sweep, "NUMBERS", 2**13)
    monkeypatch.setitem(kernels_sweep.SWEPT, op, (letter, sizes[:2], 1))
    lines = [*kernels_sweep.sweep(op, SETUP._replace(rounds=1), tmp_path / "a.png")]
    assert [line.split(" | ")[0] for line in lines if line[2:3].isdecimal()] == [f"| {n}" for n in sizes[:2]]
    sets = torch.ops.minirec.instruction_sets().split(",")[1:]
    assert " | ".join(["floor, ms", "kernel", *sets, "torch.compile", "torch"]) in "\n".join(lines)
    assert "red" not in "\n".join(lines[2:])
    assert any(line.startswith("torch.compile is level or ahead") for line in lines)
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_a_backend_that_is_off_is_red_in_a_sweep(built, monkeypatch):
    monkeypatch.setattr(kernels_ways, "compiled", lambda call: lambda x, out: call(x, out) + 1)
    monkeypatch.setitem(kernels_sweep.SWEPT, "swap", ("K", (8,), 1))
    monkeypatch.setattr(kernels_sweep, "NUMBERS", 2**13)
    lines = [*kernels_sweep.sweep("swap", SETUP._replace(rounds=1), None)]
    [row] = [line for line in lines if line.startswith("| 8 |")]
    assert row.count("red") == 1
    assert row.split(" | ")[-2] == "red"


def test_where_torch_compile_is_level_is_said_by_a_rule():
    points = {
        8: {"kernel": 1.0, "torch.compile": 1.1},
        10: {"kernel": 1.0, "torch.compile": 1.11},
        4096: {"kernel": 2.0, "torch.compile": 1.0},
        20: {"kernel": 2.0},
    }
    assert kernels_sweep.verdict("G", points).endswith("at G = 8, 4,096.")
    assert kernels_sweep.verdict("G", {10: points[10], 20: points[20]}).endswith("at no size.")


@pytest.mark.parametrize(("why", "names"), [("", ["triton"]), ("not built", [])])
def test_the_twin_stands_beside_cuda_kernels_in_a_sweep(monkeypatch, why, names):
    pytest.importorskip("triton", reason="triton is not installed")
    monkeypatch.setitem(load.WHY_NOT, "cuda", why)
    assert kernels_sweep.backends(Setup("cuda")) == ["kernel", *names, "torch.compile", "torch"]
    twin = kernels_sweep.by("triton", lambda x, out: (load.WHY_NOT["cuda"], load.WHY_NOT["triton"]))
    assert twin(torch.ones(1), torch.ones(1)) == ("set aside", "")
    assert load.WHY_NOT["cuda"] == why


def test_the_rows_of_a_gpu_are_held_against_the_closed_form(built, monkeypatch):
    monkeypatch.setattr(kernels_gpu, "LISTS", 32)
    page = "\n".join(kernels_gpu.bandwidth(SETUP._replace(rounds=1)))
    assert page.count("swap_advantages(out=)") == 10
    assert "red" not in page
    monkeypatch.setattr(kernels_gpu, "swap_advantages", lambda x, *rest, out: out.fill_(0.5))
    assert "\n".join(kernels_gpu.bandwidth(SETUP._replace(rounds=1))).count("| red |") == 10


def test_no_graph_is_tried_of_a_run_that_waits(monkeypatch):
    modes, runs = [], []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def waits():
        runs.append(modes[-1:])
        if modes == ["error"]:
            raise RuntimeError("called a synchronizing CUDA operation")

    assert kernels_rows.captured(waits) == (waits, False)
    assert (modes, runs) == (["error", "default"], [[], ["error"]])


def test_a_package_of_numpy_is_given_bfloat16_as_float32(monkeypatch):
    def ndcg_score(gains, scores, ignore_ties):
        return float(gains.mean())

    package, metrics = ModuleType("sklearn"), ModuleType("sklearn.metrics")
    package.__version__, metrics.ndcg_score = "1", ndcg_score
    monkeypatch.setitem(sys.modules, "sklearn", package)
    monkeypatch.setitem(sys.modules, "sklearn.metrics", metrics)
    monkeypatch.setattr(kernels_peers.importlib.util, "find_spec", lambda name: name == "sklearn" or None)
    (call,) = kernels_peers.public_ndcg().values()
    assert call(torch.full((2, 4), 0.5).bfloat16()) == 0.5
