"""What several processes hand to each other; here one process plays them all."""

import torch
import torch.distributed as dist

from minirec.run.machine import Distributed
from minirec.settings import Config


def test_rows_of_all_processes_come_in_the_order_in_which_they_were_dealt_out(monkeypatch):
    rows = torch.arange(14).view(7, 2)
    shares = [rows[rank::3] for rank in range(3)]  # of 3, 2 and 2 rows

    def all_gather_object(parts, _):
        parts[:] = shares

    monkeypatch.setattr(dist, "all_gather_object", all_gather_object)
    processes = Distributed(Config(device="cpu"))
    for processes.rank, share in enumerate(shares):
        processes.count = 3
        assert torch.equal(processes.gather(share), rows)
