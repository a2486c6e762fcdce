"""Training from the outside: one command, killed, stopped, gone on with, alone and in two processes."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minirec import settings, train
from minirec.data import prepare
from minirec.files import owned
from minirec.measure import evaluation
from minirec.run.training import LINES, epoch_rows
from tests import whole_run
from tests.small_run import make_run

pytestmark = pytest.mark.slow

SMALL = (
    "--world-items 64 --world-users 400 --codes 8 --width 16 --layers 1 --heads 2 --history 6 --epochs 6 "
    "--batch 128 --rate 0.003 --validate 2 --beam 10 --samples 4 --threads 1 --device cpu"
).split()


def command(*arguments, processes=1):
    launch = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    return [sys.executable, "-m", *(launch if processes > 1 else []), "minirec.train", *map(str, arguments)]


def run(*arguments, processes=1):
    """Run to the end; stderr on failure."""
    done = subprocess.run(
        command(*arguments, processes=processes), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def state(folder):
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def assert_same_run(one, other):
    """Bit for bit: weights, best weights, optimiser, and metrics."""
    a, b = state(one), state(other)
    for part in ("policy", "best"):
        assert all(torch.equal(a[part][name], b[part][name]) for name in a[part])
    for i, moments in a["optimiser"]["state"].items():
        assert all(torch.equal(moments[name], b["optimiser"]["state"][i][name]) for name in moments)
    assert (one / "metrics.jsonl").read_text() == (other / "metrics.jsonl").read_text()
    if (one / "report.json").is_file():  # SASRec's rows stand in the report of the run it belongs to
        assert (one / "report.json").read_text() == (other / "report.json").read_text()
        pages = [(folder / "report.md").read_text() for folder in (one, other)]
        assert len({re.sub(r"wall time \d+ s", "", page) for page in pages}) == 1


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run without interruption."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    return folder, run(*SMALL, "--out", folder)


def wait_for(path, process):
    """Wait until a file is there, at most a minute."""
    for _ in range(600):
        if path.is_file():
            return
        assert process.poll() is None, "the run ended before it could be stopped"
        time.sleep(0.1)
    raise AssertionError(f"{path} did not appear")


def test_a_run_ends_in_a_table_with_its_floors(straight):
    folder, printed = straight
    rows = {row["method"]: row for row in json.loads((folder / "report.json").read_text())}
    assert list(rows) == ["popularity", "markov", "item-kNN", "true law", "SASRec", "supervised"]
    assert all(name in printed for name in rows)
    assert all(0 <= row["ndcg@10"] <= row["recall@10"] <= 1 for row in rows.values())
    assert all(row["ndcg@10"] <= rows["true law"]["ndcg@10"] for row in rows.values())
    assert re.findall(r"^\d/\d .*?(?=:|$)", printed, re.M) == [
        "1/3 SASRec, the baseline",
        "2/3 supervised, the policy",
        "3/3 evaluation",
    ]
    lines = printed.splitlines()
    repeated = {line for line in lines if len(line) > 9 and lines.count(line) > 1}
    assert {line.split()[0] for line in repeated} <= {"epoch", "method"}  # headers of tables
    ask = next(line for line in lines if "minirec.recommend" in line)
    assert subprocess.run(shlex.split(ask.removeprefix("Ask it: ")), capture_output=True, check=True).stdout
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [2, 4, 6]
    assert lines[-1]["nll"] < lines[0]["nll"]
    names = {"step", "epoch", "nll", "gradient_norm", "recall@10", "ndcg@10"}
    assert all(set(line) == names <= set(LINES) for line in lines)


def test_floors_alone_train_nothing_and_may_be_asked_again(tmp_path, monkeypatch, capsys):
    log = whole_run.write_log(tmp_path)
    out = ["--floors", "--core", "0", "--out", str(tmp_path / "run"), "--seed", "1"]
    for flags in ([], ["--test-contexts", "9"]):
        monkeypatch.setattr(sys, "argv", ["train", *log, *out, *flags])
        train.main()
        shown = capsys.readouterr().out
        assert f"{whole_run.USERS} users, {whole_run.ITEMS} items" in shown
        assert ("9 contexts of 40, a random sample; " if flags else "40 contexts; ") in shown
        rows = json.loads((tmp_path / "run/report.json").read_text())
        assert [row["method"] for row in rows] == ["popularity", "markov", "item-kNN"]
        cfg = settings.configure(settings.arguments([*log, *out, *flags]))
        dataset, _ = prepare.read(cfg)
        test = evaluation.sample(dataset.test, cfg.test_contexts, seed=1)
        for row in rows:
            want = evaluation.floors(dataset, test, cfg)[row["method"]].values["ndcg@10"]
            assert row["ndcg@10"] == want.mean().item()
    assert "random sample" in (tmp_path / "run/report.md").read_text()
    written = {path.name for path in (tmp_path / "run").iterdir()}
    assert written <= {"lock", "report.json", "report.md", "methods.png"}


def test_floors_alone_do_not_write_over_a_run(tmp_path, monkeypatch, capsys):
    make_run(tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    flags = ["--floors", "--core", "0", "--out", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", ["train", *whole_run.write_log(tmp_path), *flags])
    with pytest.raises(SystemExit) as exit_:
        train.main()
    assert exit_.value.code == 2
    assert "holds a run" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


@pytest.mark.parametrize("sign", ["data.pt", "sasrec/checkpoint.pt", "checkpoint.pt"])
def test_killed_and_resumed_is_the_same_run(straight, tmp_path, sign):
    """Killed before the first checkpoint, while the baseline trains, and while the policy does."""
    folder = tmp_path / "run"
    process = subprocess.Popen(
        command(*SMALL, "--out", folder), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    wait_for(folder / sign, process)
    process.kill()
    process.communicate()
    run("--resume", "--out", folder)
    assert_same_run(straight[0], folder)
    assert_same_run(straight[0] / "sasrec", folder / "sasrec")


def test_ctrl_c_leaves_a_checkpoint_and_a_way_to_go_on(straight, tmp_path):
    folder = tmp_path / "run"
    process = subprocess.Popen(
        command(*SMALL, "--out", folder), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    wait_for(folder / "checkpoint.pt", process)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in error
    assert f"to go on: {sys.executable} -m minirec.train" in error
    assert error.strip().endswith(f"--resume --out {folder}\nstopped")
    run("--resume", "--out", folder)
    assert_same_run(straight[0], folder)


def test_two_starts_on_one_folder_do_not_train_over_each_other(tmp_path):
    folder = tmp_path / "run"
    with owned(folder):
        done = subprocess.run(command(*SMALL, "--out", folder), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"{folder}: another process has it" in done.stderr
    assert [path.name for path in folder.iterdir()] == ["lock"]


def test_when_one_of_two_processes_is_killed_the_other_says_how_to_go_on(tmp_path):
    folder, flags = tmp_path / "run", ["--epochs", 500, "--no-sasrec", "--threads", 1]
    launcher = subprocess.Popen(
        command(*SMALL, *flags, "--out", folder, processes=2),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(folder / "checkpoint.pt", launcher)
    found = subprocess.run(["pgrep", "-P", str(launcher.pid)], capture_output=True, text=True, check=True)
    ranks = {pid: Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in found.stdout.split()}
    other = next(int(pid) for pid, environment in ranks.items() if b"RANK=1" in environment)
    os.kill(other, signal.SIGKILL)
    _, error = launcher.communicate()
    lines = [line for line in error.splitlines() if "minirec: " in line]
    assert len(lines) == 1
    assert "another process of this run has ended" in lines[0]
    assert lines[0].endswith(f"--resume --out {folder}")
    with owned(folder):
        pass


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--world-users", 100, "--batch", 7],
    ],  # a batch of 7 items is one sequence: a process is without rows
    ids=["equal shares", "an empty share"],
)
def test_two_processes_are_one_process(tmp_path, flags):
    flags = [*SMALL, "--dropout", 0, "--epochs", 1, "--no-sasrec", *flags]
    run(*flags, "--out", tmp_path / "one")
    run(*flags, "--out", tmp_path / "two", processes=2)
    one, two = state(tmp_path / "one"), state(tmp_path / "two")
    # Gradients are added up in another order of float32: their norm may differ by that, the weights, after
    # tens of AdamW steps that amplify it, by more (seen: 2e-6).
    for name in ("nll", "gradient_norm"):
        assert two["measured"][0][name] == pytest.approx(one["measured"][0][name], rel=1e-4)
    for name in one["policy"]:
        torch.testing.assert_close(two["policy"][name], one["policy"][name], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epocs", "3"], "did you mean --epochs?"),
        (["--epochs", "many"], "'many' is not int"),
        (["--split", "tim"], "did you mean time?"),
        (["--device", "gpu"], "did you mean cpu?"),
        (["--data", "nowhere.csv"], "nowhere.csv"),
        (["--codes", "2"], "smallest that fits"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, arguments, message):
    env = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        command(*SMALL, *arguments), capture_output=True, text=True, cwd=tmp_path, env=env, check=False
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())  # nothing was written


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (SMALL, "--resume"),
        ([*SMALL, "--rate", "1"], "--resume"),
        (["--resume", "--rate", "1"], "cannot change"),
    ],
)
def test_a_run_is_not_overwritten(straight, arguments, message):
    folder, _ = straight
    before = (folder / "checkpoint.pt").read_bytes()
    done = subprocess.run(command(*arguments, "--out", folder), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert (folder / "checkpoint.pt").read_bytes() == before


def test_evaluating_again_gives_the_same_numbers(straight):
    folder, printed = straight
    done = subprocess.run(
        [sys.executable, "-m", "minirec.evaluate", "--run", folder],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() in printed


@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=60),
    st.integers(1, 50),
    st.integers(0, 9),
    st.integers(0, 9),
)
def test_an_epoch_has_every_row_once(lengths, budget, seed, epoch):
    lengths = torch.tensor(lengths)
    batches = epoch_rows(lengths, budget, seed, epoch)
    assert sorted(torch.cat(batches).tolist()) == list(range(len(lengths)))
    assert all(len(rows) == 1 or len(rows) * int(lengths[rows].max()) <= budget for rows in batches)
    assert len(batches) == len(epoch_rows(lengths, budget, seed, epoch + 1))
