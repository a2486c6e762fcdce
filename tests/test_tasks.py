"""What a task hands to an objective, and that it does not depend on the number of processes."""

from dataclasses import replace

import pytest
import torch

from minirec.data.dataset import contexts
from minirec.data.lists import ListSource
from minirec.loop import LOGGED, Tally, observe
from minirec.noise import stream
from minirec.objectives import OBJECTIVES
from minirec.records import Batch, Signal
from minirec.settings import Config
from minirec.tasks import NextItem, Processes, Rankings
from tests.small import examples, make, random_codes
from tests.small_experience import anything, catalogue, closed, tokens

ITEMS, STEP = 20, 3
CFG = Config(history=3, contexts=5, group=4, seed=2)


class Share(Processes):
    """One of several processes."""

    def __init__(self, count, rank):
        super().__init__()
        self.count, self.rank = count, rank


def worth(batch, items):
    """A reward that depends on the context and on the item."""
    return torch.sin(items + 3.0 * batch.user[:, None]) * (items >= 0)


def next_item(processes=None, **changes):
    """Contexts of 8 users, and the policy."""
    policy, trie, _ = make(items=ITEMS, size=4)
    log = random_codes(32, 1, 32, seed=1).view(8, 4) % ITEMS
    cfg = replace(CFG, **changes)
    source = contexts(examples(log.tolist()))
    return policy, NextItem(
        cfg, trie, source, worth, probe=source.select(torch.arange(7)), processes=processes
    )


def rankings(processes=None):
    """Sets of 8 users, whose gains are doubled for training, and the policy."""
    policy, trie, _ = make(items=ITEMS, size=4)
    log = random_codes(32, 1, 32, seed=1).view(8, 4) % ITEMS
    candidates = torch.stack([random_codes(4, 1, ITEMS, seed=i)[:, 0] for i in range(8)])
    gains = torch.rand(4, 8, 4, generator=torch.Generator().manual_seed(3)) / 2
    seen = torch.ones(8, 4, dtype=torch.bool)
    source = ListSource(examples(log.tolist()), 3, candidates, gains, gains[0].double(), seen)

    def feedback(lists):
        return replace(lists, gains=2 * lists.gains)

    return policy, Rankings(CFG, trie, source, feedback, probe=source.first(7, 3), processes=processes)


TASKS = pytest.mark.parametrize("make_task", [next_item, rankings])


def batch_in(x):
    """The batch as the slow functions read it."""
    return Batch(x.batch.user, x.batch.history, x.batch.condition, x.batch.targets, x.batch.history)


@TASKS
def test_an_objective_draws_from_a_stream_of_its_own(make_task):
    policy, task = make_task()
    x = task.act(policy, STEP)
    own, rollouts = (
        torch.rand(CFG.contexts, 6, generator=stream(use, CFG.seed, STEP), dtype=torch.float64)
        for use in ("objective", "rollouts")
    )
    assert torch.equal(x.noise(6), own)
    assert not torch.equal(own, rollouts)


@TASKS
@pytest.mark.parametrize("probe", [False, True])
def test_several_processes_do_together_what_one_does(make_task, probe):
    policy, task = make_task()
    whole = task.act(policy, STEP, probe)
    parts = []
    for rank in range(2):
        _, task = make_task(Share(2, rank))
        x = task.act(policy, STEP, probe)
        mine = torch.arange(len(whole.batch))[rank::2]
        parts.append(mine)
        assert torch.equal(x.part, mine)
        assert torch.equal(x.noise(2), whole.noise(2))
        for name in ("user", "history", "condition", "targets"):
            assert torch.equal(getattr(x.batch, name), getattr(whole.batch.select(mine), name))
        assert torch.equal(x.rollout.items, whole.rollout.items[mine])
        assert torch.equal(x.rewards, whole.rewards[mine])
        if x.lists:
            assert torch.equal(x.lists.gains, whole.lists.gains[mine])
    assert sorted(torch.cat(parts).tolist()) == list(range(len(whole.batch)))


def signal_of(x, rows):
    """A signal of some contexts, in this order."""
    rows = torch.tensor(rows)
    return Signal(rows, x.rollout.codes[rows], torch.zeros(x.rollout.items[rows].shape), width=CFG.group)


@TASKS
def test_the_masks_of_a_signal_are_what_could_be_said_in_its_contexts(make_task):
    policy, task = make_task()
    x, rows = task.act(policy, STEP), [3, 0]
    legal = catalogue(x.trie) if x.lists is None else closed(x.trie, x.lists.candidates)
    masks = x.masks(signal_of(x, rows))
    assert masks is not None
    for i, b in enumerate(rows):
        for g, said in enumerate(x.rollout.codes[b].tolist()):
            for p, code in enumerate(said):
                for level in range(x.trie.levels):
                    may = legal(b, said[:p], code[:level])
                    assert set(masks[i, g, p, level].nonzero()[:, 0].tolist()) == may


def test_without_the_trie_anything_can_be_said():
    policy, task = next_item(mask="none")
    x = task.act(policy, STEP)
    assert x.masks(signal_of(x, [0])) is None
    assert (x.rollout.items < 0).any()  # and some of it is no item


@pytest.mark.parametrize("mask", ["trie", "none"])
def test_items_can_be_asked_for_their_reward_and_their_log_probability(mask):
    policy, task = next_item(mask=mask)
    x = task.act(policy, STEP)
    items = torch.arange(2 * CFG.contexts).view(CFG.contexts, 2)
    assert torch.equal(x.reward(items), worth(x.batch, items))
    assert torch.equal(x.rewards, worth(x.batch, x.rollout.items[..., 0]))
    legal = catalogue(x.trie) if mask == "trie" else anything(x.trie)
    for b, row in enumerate(items.tolist()):
        for k, item in enumerate(row):
            each = tokens(policy, batch_in(x), x.trie, b, [x.trie.codes[item].tolist()], legal)
            # sums of float32 in another order
            assert x.logp(items)[b, k].item() == pytest.approx(sum(map(sum, each)).item(), abs=1e-5)


def test_training_sees_what_feedback_makes_of_the_gains_and_the_probe_sees_the_truth():
    policy, task = rankings()
    for probe, factor in ((False, 2), (True, 1)):
        x = task.act(policy, STEP, probe)
        source = task.probe if probe else task.contexts
        for row, user in enumerate(x.batch.user):
            place = [[1, 1], [2, 1], [1, 2]].index(x.batch.condition[row, 1:3].tolist())
            assert torch.equal(x.lists.gains[row], factor * source.gains[place, user])


def test_the_probe_asks_for_the_same_needs_at_every_step_and_training_does_not():
    policy, task = rankings()
    asked = [task.act(policy, step, probe=True).batch.condition for step in range(5)]
    assert all(torch.equal(asked[0], other) for other in asked)
    assert len({task.act(policy, step).batch.condition.numpy().tobytes() for step in range(5)}) > 1


@pytest.mark.parametrize(("count", "size"), [(1, 4), (2, 5), (3, 2)])
def test_rows_are_dealt_out_and_a_process_without_any_repeats_one_for_nothing(count, size):
    rows = torch.arange(size) + 10
    shares = [Share(count, rank).share(rows) for rank in range(count)]
    dealt = [row for part, weight in shares for row in part.tolist() if weight]
    assert sorted(dealt) == rows.tolist()
    assert all(len(part) and weight in (0, count) for part, weight in shares)


def test_lists_are_samples_and_have_an_entropy_whatever_the_rollouts_of_next_items_are():
    policy, task = rankings()
    task.cfg = replace(CFG, rollouts="beam")
    x, tally = task.act(policy, STEP), Tally(LOGGED)
    observe(tally, x, OBJECTIVES["list"].signal(x))
    assert "entropy" in tally.means()
