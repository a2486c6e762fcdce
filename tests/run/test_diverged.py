"""Training that diverges stops in one line, and leaves the last good checkpoint."""

import json
import subprocess
import sys

import pytest
import torch

from minirec.errors import InputError
from minirec.loop import update

SMALL = (
    "--world-items 24 --world-users 120 --codes 4 --width 16 --layers 1 --heads 2 --history 4 --epochs 4 "
    "--batch 64 --validate 1 --beam 10 --samples 4 --threads 1 --no-sasrec"
).split()
LOOP = " --contexts 4 --group 8 --rl-steps 6 --measure 1 --objective "

NAN = """
import torch
from minirec import train
from minirec.objectives import OBJECTIVES, grpo
from dataclasses import replace
from minirec.records import Objective

def signal(x):
    made = grpo.signal(x)
    return replace(made, advantages=made.advantages * torch.nan)

OBJECTIVES["nan"] = Objective(signal, "nan")
train.main()
"""


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_not_taken(broken):
    weight = torch.ones(2, requires_grad=True)
    optimiser = torch.optim.Adam([weight], 1.0)
    loss = weight.sum() * torch.nan if broken == "loss" else (weight - 1).sqrt().sum()  # slope infinite at 0
    with pytest.raises(InputError, match=f"step 7: the {broken} is not finite"):
        update(loss, optimiser, 7)
    assert weight.tolist() == [1, 1]


def refuse(name):
    raise AssertionError(f"{name} is no JSON")


@pytest.mark.parametrize(
    ("flags", "codes"),
    [
        ("--rate 1e6 --levels 1", [2]),
        ("--rate 1e6 --levels 3", [2]),
        (LOOP + "nan", [2]),
        (LOOP + "flexrec --rl-rate 1e6 --candidates 4", [2]),
        # These may stay finite, and are then no error.
        (LOOP + "grpo --rl-rate 1e6", [0, 2]),
        (LOOP + "adagrpo --rl-rate 1e6 --ranker harmful", [0, 2]),
        (LOOP + "recast --rl-rate 1e6 --updates 4", [0, 2]),
    ],
)
def test_a_run_that_diverges_says_so_and_the_last_good_checkpoint_stands(tmp_path, flags, codes):
    start = ["-c", NAN] if "nan" in flags else ["-m", "minirec.train"]
    line = [sys.executable, *start, *SMALL, *flags.split(), "--out", tmp_path / "run"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode in codes, done.stdout + done.stderr
    assert done.returncode == 0 or "not finite" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    for path in (tmp_path / "run").rglob("*.json*"):
        for text in path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]:
            json.loads(text, parse_constant=refuse)
    for path in (tmp_path / "run").rglob("checkpoint.pt"):
        weights = torch.load(path)["policy"].values()
        assert all(value.isfinite().all() for value in weights)
