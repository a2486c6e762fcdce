"""What a training does, writes and reads when it has company."""

import math
from dataclasses import replace

import pytest
import torch

from minirec.errors import InputError
from minirec.loop import Tally
from minirec.run.folder import Run
from minirec.run.training import Supervised, Training, fit
from minirec.settings import Config
from minirec.tasks import Processes
from tests.small_run import CFG, make_dataset, make_policy


class Pair(Processes):
    """One of two processes; the other has added up as much."""

    def __init__(self, rank):
        super().__init__("cpu", 2, rank)

    def totals(self, values):
        return 2 * values.double()


def run_in(folder):
    """As much of a run as a training asks for."""
    return Run(Config(out=str(folder)), None, None, Processes(), [])


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
        each.save(run_in(tmp_path))
    again = [training(0), training(1)]
    for each in again:
        each.load(run_in(tmp_path))
    assert [each.tally.sums["nll"] for each in again] == [[6.0, 8.0], [0.0, 0.0]]


def test_a_broken_policy_is_never_written_and_the_file_before_stands(tmp_path):
    one, run = training(0), run_in(tmp_path)
    one.save(run)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    one.policy.weight.data[0, 0] = torch.inf
    with pytest.raises(InputError, match="values of weight are not finite"):
        one.save(run)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_a_checkpoint_past_the_end_is_refused(tmp_path):
    one, run = training(0), run_in(tmp_path)
    one.step = 4
    one.save(run)
    with pytest.raises(InputError, match="it has done 4 steps, and the run has 3"):
        fit(training(0), run)


def test_the_supervised_gradients_of_two_processes_average_to_that_of_one(monkeypatch):
    monkeypatch.setattr(Processes, "wrap", lambda self, model: model)  # what it averages is averaged below
    cfg, trie = replace(CFG, dropout=0.0, batch=1000, clip=math.inf, rate=20.0), make_policy()[1]
    moved, sums = [], []
    for count, rank in ((1, 0), (2, 0), (2, 1)):
        processes = Processes()
        processes.count, processes.rank = count, rank
        training = Supervised(Run(cfg, make_dataset(), trie, processes, []))
        before = [p.detach().clone() for p in training.policy.parameters()]
        training.optimiser = torch.optim.SGD(training.policy.parameters())
        training.update()
        pairs = zip(before, training.policy.parameters(), strict=True)
        moved.append(torch.cat([(new - old).flatten() for old, new in pairs]))
        sums.append(training.tally.read()[0])
    # float32, relative to the largest entry
    assert ((moved[1] + moved[2]) / 2 - moved[0]).abs().max() < 1e-5 * moved[0].abs().max()
    assert (sums[1] + sums[2]).tolist() == pytest.approx(sums[0].tolist(), rel=1e-6)


@pytest.mark.parametrize(
    ("patience", "scores", "ended"),
    [
        (2, [], False),
        (2, [0.1, 0.3, 0.2], False),
        (2, [0.1, 0.3, 0.2, 0.3], True),  # as good is not better
        (2, [0.1, 0.3, 0.2, 0.3, 0.4], False),
        (0, [0.3, 0.2, 0.2, 0.2, 0.2], False),
    ],
)
def test_training_ends_when_validation_has_long_not_been_better(patience, scores, ended, tmp_path):
    cfg = replace(CFG, out=str(tmp_path), patience=patience)
    training = Supervised(Run(cfg, make_dataset(), make_policy()[1], Processes(), [], "", None))
    training.measured = [{"step": 0}, *({"ndcg@10": score} for score in scores)]
    assert training.ended() is ended
    training.steps = training.step
    assert training.ended()


def test_patience_ends_a_run_early_and_the_best_weights_are_kept(tmp_path, monkeypatch):
    values = iter([0.3, 0.2, 0.1, 0.5])
    monkeypatch.setattr(Run, "validate", lambda *_: {"recall@10": 0.0, "ndcg@10": next(values)})
    cfg = replace(CFG, out=str(tmp_path), patience=2, validate=1, epochs=9, batch=1000)
    training = Supervised(Run(cfg, make_dataset(), make_policy()[1], Processes(), [], "", None))
    policy = fit(training, training.run)
    assert len(training.measured) == 3
    assert training.step == 3 * training.per_epoch
    assert all(torch.equal(training.best[name], value) for name, value in policy.state_dict().items())


def test_the_loss_is_of_codes_and_of_items_by_vectors_and_the_nll_of_codes():
    run = Run(replace(CFG, dropout=0.0, batch=1000), make_dataset(), make_policy()[1], Processes(), [])
    training = Supervised(replace(run, items=run.trie))
    batch = run.dataset.train.batch(torch.arange(len(run.dataset.train)), CFG.history + 1)
    logp = training.policy(batch.condition, run.trie.encode(batch.history))
    items = (batch.history >= 0).sum()
    (-logp.sum() / items / run.trie.levels).backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in training.policy.parameters()]).item()
    training.optimiser.zero_grad()
    training.update()
    means = training.tally.means()
    assert means["gradient_norm"] == pytest.approx(norm, rel=1e-4)
    assert means["nll"] == pytest.approx((-logp[..., : run.trie.levels].sum() / items).item(), rel=1e-5)
