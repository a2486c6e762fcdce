"""What several processes hand to each other; here one process plays them all."""

import os
import subprocess
import sys
from dataclasses import replace

import torch
import torch.distributed as dist

from minirec.run.machine import prepare
from minirec.settings import TINY, Config
from minirec.tasks import Processes


def test_rows_of_all_processes_come_in_the_order_in_which_they_were_dealt_out(monkeypatch):
    rows = torch.arange(14).view(7, 2)
    shares = [rows[rank::3] for rank in range(3)]  # of 3, 2 and 2 rows

    def all_gather_object(parts, _):
        parts[:] = shares

    monkeypatch.setattr(dist, "all_gather_object", all_gather_object)
    for rank, share in enumerate(shares):
        assert torch.equal(Processes("cpu", 3, rank).gather(share), rows)


def test_a_small_policy_has_one_thread_and_a_flag_wins():
    device, before = torch.device("cpu"), torch.get_num_threads()
    try:
        for cfg, threads in ((Config(), 2), (TINY, 1), (replace(TINY, threads=2), 2), (Config(threads=1), 1)):
            torch.set_num_threads(2)
            prepare(cfg, device)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_threads_that_wait_do_not_spin_unless_the_user_says_so():
    for given, want in (({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active")):
        environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"} | given
        ask = "import sys, minirec, os; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", ask], env=environment, capture_output=True, text=True)
        assert done.stdout.split() == [want, "False"], done.stderr
