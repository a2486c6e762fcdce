"""Every stage on a device that is not there, so that a tensor on the wrong one is found without a GPU."""

import sys

import pytest
import torch

from minirec import train
from minirec.run import machine
from tests import pretend

SMALL = (
    "--world-items 40 --world-users 200 --codes 8 --width 16 --layers 1 --heads 2 --history 6 --epochs 1 --batch 256 "
    "--validate 1 --beam 10 --samples 4 --rl-steps 2 --contexts 8 --measure 1 --threads 1"
).split()


@pytest.mark.parametrize("double", [True, False], ids=["as CUDA", "as MPS"])
def test_a_whole_run_mixes_no_devices(monkeypatch, tmp_path, double, objective="flexrec"):
    monkeypatch.setattr(machine, "pick_device", lambda name: torch.device(pretend.NAME, 0))
    monkeypatch.setattr(sys, "argv", ["train", *SMALL, "--objective", objective, "--group", "4", "--out", str(tmp_path / "run")])
    with pretend.Device(double):
        train.main()
    assert (tmp_path / "run/report.md").is_file()
