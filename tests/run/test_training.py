"""What a training writes and reads when it has company."""

import torch

from minirec.loop import Tally
from minirec.run.training import Training
from minirec.tasks import Processes


class Pair(Processes):
    """One of two processes; the other has added up as much."""

    count = 2

    def __init__(self, rank):
        super().__init__()
        self.rank = rank

    def totals(self, values):
        return 2 * values.double()


def training(rank):
    policy = torch.nn.Linear(2, 2)
    optimiser = torch.optim.Adam(policy.parameters())
    made = Training(policy, optimiser, Pair(rank), steps=3, every=1)
    made.tally = Tally(["nll"])
    return made


def test_what_several_processes_have_added_up_is_written_once_and_read_by_the_first_alone(tmp_path):
    one, other = training(0), training(1)
    for each in (one, other):
        each.tally.add("nll", 3.0, 4)
        each.save(tmp_path)
    again = [training(0), training(1)]
    for each in again:
        each.load(tmp_path)
    assert [each.tally.sums["nll"].tolist() for each in again] == [[6.0, 8.0], [0.0, 0.0]]
