import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minirec.data.dataset import Examples, contexts, leave_fresh
from minirec.records import PAD
from minirec.tasks import step_rows


def windows(log, size):
    """Training sequences: every user's events in windows of at most ``size``, one after another."""
    events, cuts = [], []
    for user, items in enumerate(log):
        for first in range(0, len(items), size):
            begin = len(events) + first
            cuts.append((begin, len(events) + min(first + size, len(items)), user))
        events += items
    start, stop, user = torch.tensor(cuts, dtype=torch.int64).view(-1, 3).T
    condition = torch.zeros(len(cuts), 4, dtype=torch.int64)
    condition[:, 3] = user % 5  # something of the user's own
    return Examples(
        events=torch.tensor(events, dtype=torch.int64),
        start=start,
        stop=stop,
        user=10 + user,
        condition=condition,
        targets=torch.empty(len(cuts), 0, dtype=torch.int64),
        tied=torch.zeros(len(cuts), dtype=torch.bool),
    )


logs = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=9), min_size=1, max_size=6)
sizes = st.integers(1, 5)


def as_rows(examples):
    keys = zip(examples.user.tolist(), examples.start.tolist(), examples.stop.tolist(), strict=True)
    return list(keys)


@given(log=logs, size=sizes, share=st.floats(0, 0.9), seed=st.integers(0, 99))
def test_fresh_users_are_whole_and_with_the_others_they_are_all(log, size, share, seed):
    train = windows(log, size)
    rest, fresh = leave_fresh(train, share, seed)
    assert sorted(as_rows(rest) + as_rows(fresh)) == sorted(as_rows(train))
    assert not set(rest.user.tolist()) & set(fresh.user.tolist())
    assert len(set(fresh.user.tolist())) == round(share * len(log))
    for part in (rest, fresh):  # in the order they came in, so that windows stay together
        assert as_rows(part) == sorted(as_rows(part))
        assert part.events is train.events
    again = leave_fresh(train, share, seed)
    assert as_rows(again[1]) == as_rows(fresh)


def test_other_seeds_leave_other_users():
    train = windows([[1, 2, 3]] * 40, 2)
    chosen = {tuple(leave_fresh(train, 0.25, seed)[1].user.tolist()) for seed in range(5)}
    assert len(chosen) == 5


@given(log=logs, size=sizes)
def test_every_item_but_a_users_first_is_a_target_once_with_its_whole_past(log, size):
    found = contexts(windows(log, size))
    expected = [(10 + u, items[:k], items[k]) for u, items in enumerate(log) for k in range(1, len(items))]
    assert found.targets.shape == (len(expected), 1)
    for i, (user, past, target) in enumerate(expected):
        assert found.user[i] == user
        assert found.events[found.start[i] : found.stop[i]].tolist() == past
        assert found.targets[i].tolist() == [target]
        assert found.condition[i].tolist() == [0, 0, 0, (user - 10) % 5]


@given(log=logs, size=sizes, share=st.floats(0, 0.9), seed=st.integers(0, 9))
def test_contexts_of_some_users_never_reach_into_another_user(log, size, share, seed):
    found = contexts(leave_fresh(windows(log, size), share, seed)[1])
    for i, user in enumerate(found.user.tolist()):
        items, length = log[user - 10], int(found.lengths[i])
        assert items[: length + 1] == found.events[found.start[i] : found.stop[i] + 1].tolist()
    per_user = torch.bincount(found.user, minlength=10 + len(log))[10:].tolist()
    assert all(count in (0, len(items) - 1) for count, items in zip(per_user, log, strict=True))


def test_a_batch_of_contexts_shows_the_latest_items_and_what_was_seen_before():
    found = contexts(windows([[1, 2, 3, 4, 5]], 2))
    batch = found.batch(torch.tensor([3, 0]), history=2)
    assert batch.history.tolist() == [[3, 4], [1, PAD]]
    assert batch.seen.tolist() == [[1, 2, 3, 4], [1, PAD, PAD, PAD]]
    assert batch.targets.tolist() == [[5], [2]]


@given(data=st.data(), count=st.integers(1, 30), seed=st.integers(0, 99))
def test_the_steps_of_a_pass_cover_distinct_contexts_and_leave_out_less_than_a_batch(data, count, seed):
    size = data.draw(st.integers(1, count))
    steps = count // size
    for start in (0, steps):  # the first and the second pass
        rows = torch.cat([step_rows(count, size, seed, start + i) for i in range(steps)]).tolist()
        assert len(set(rows)) == len(rows) == steps * size > count - size
        assert set(rows) <= set(range(count))


@pytest.mark.parametrize("other", [{"step": 7}, {"seed": 2}])
def test_steps_depend_on_seed_and_pass_and_on_nothing_else(other):
    arguments = {"count": 21, "size": 3, "seed": 1, "step": 0}
    rows = step_rows(**arguments)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        assert torch.equal(step_rows(**arguments), rows)
    assert not torch.equal(step_rows(**(arguments | other)), rows)


def test_the_contexts_of_a_step_are_the_same_in_every_release():
    rows = [step_rows(5, 2, seed=1, step=step).tolist() for step in (0, 1, 2)]
    assert rows == [[4, 2], [1, 0], [3, 4]]
