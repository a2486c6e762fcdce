"""Splits: what each cuts off, and that nothing later reaches an example."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minirec.data import splits
from minirec.data.dataset import Examples
from minirec.data.vectors import training_events
from minirec.errors import InputError
from minirec.records import PAD


def line_of(*users: list[tuple[int, float, int]]) -> splits.Timeline:
    """A Timeline of (item, time, group) events per user."""
    size = np.cumsum([len(events) for events in users])
    item, time, group = (np.array(column) for column in zip(*(e for u in users for e in u), strict=True))
    return splits.Timeline(item, np.r_[0, size[:-1]], size, time.astype(float), group)


def shown(examples: Examples) -> list[tuple]:
    """Each example as (user, history, target set)."""
    rows = zip(
        *(getattr(examples, f).tolist() for f in ("user", "start", "stop", "targets")),
        strict=True,
    )
    return [(u, examples.events[a:b].tolist(), [t for t in s if t != PAD]) for u, a, b, s in rows]


LONG = [(10 + i, i, i // 2) for i in range(6)]  # items 10..15 at times 0..5 in groups 0 0 1 1 2 2
SHORT = [(20, 6, 7), (21, 6, 7)]


def test_leave_last_out():
    train, valid, test = (shown(part) for part in splits.split(line_of(LONG, SHORT), "last", 50))
    assert train == [(0, [10, 11, 12, 13], []), (1, [20, 21], [])]  # two events: training only
    assert valid == [(0, [10, 11, 12, 13], [14])]
    assert test == [(0, [10, 11, 12, 13, 14], [15])]


def test_leave_last_group_out():
    train, valid, test = (shown(part) for part in splits.split(line_of(LONG, SHORT), "group", 50))
    assert train == [(0, [10, 11], []), (1, [20, 21], [])]
    assert valid == [(0, [10, 11], [12, 13])]
    assert test == [(0, [10, 11, 12, 13], [14, 15])]


def test_one_group_id_in_two_users_or_resumed_later_opens_a_new_group():
    first = [(i, i, g) for i, g in enumerate([1, 1, 2, 1, 1])]
    second = [(5, 9, 1), (6, 10, 1), (7, 11, 3), (8, 12, 4)]
    _, valid, test = (shown(part) for part in splits.split(line_of(first, second), "group", 50))
    assert valid == [(0, [0, 1], [2]), (1, [5, 6], [7])]
    assert test == [(0, [0, 1, 2], [3, 4]), (1, [5, 6, 7], [8])]


def test_global_time():
    # ten events; the eighth and ninth in order of time are at 8 and 9
    first = [(0, 0, 0), (1, 1, 0), (2, 2, 0), (3, 3, 0), (4, 8, 0)]
    second = [(5, 4, 0), (6, 5, 0), (7, 6, 0), (8, 7, 0), (9, 9, 0)]
    train, valid, test = (shown(part) for part in splits.split(line_of(first, second), "time", 50))
    assert train == [(0, [0, 1, 2, 3], []), (1, [5, 6, 7, 8], [])]
    assert valid == [(0, [0, 1, 2, 3], [4])]
    assert test == [(1, [5, 6, 7, 8], [9])]


def test_ties_are_marked_where_the_target_begins():
    early, late = (
        [(0, 0, 0), (1, 1, 0), (2, 1, 0), (3, 2, 0)],
        [(0, 0, 0), (1, 1, 0), (2, 2, 0), (3, 2, 0)],
    )
    train, valid, test = splits.split(line_of(early, late), "last", 50)
    assert valid.tied.tolist() == [True, False]
    assert test.tied.tolist() == [False, True]
    assert not train.tied.any()


def test_what_the_policy_is_told():
    train, _, test = splits.split(line_of(LONG), "last", 50)
    for part in (train, test):
        assert part.condition.shape == (len(part), 4)
        assert not part.condition.any()
    assert train.targets.shape == (1, 0)


def test_a_split_needs_its_column():
    line = splits.Timeline(np.arange(4), np.array([0]), np.array([4]))
    for name, column in (("group", "group="), ("time", "time=")):
        with pytest.raises(InputError, match=rf"--split {name}: .*{column}"):
            splits.split(line, name, 50)
    assert not splits.split(line, "last", 50)[2].tied.any()


def test_an_empty_part_is_an_error():
    with pytest.raises(InputError, match="--split last: no validation example is left"):
        splits.split(line_of(SHORT), "last", 50)
    with pytest.raises(InputError, match="--split time: no training example is left"):
        splits.split(line_of([(i, 3, 0) for i in range(9)]), "time", 50)


@given(st.lists(st.integers(0, 25), min_size=1, max_size=6), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_windows_tile_the_sequences(lengths, size):
    stop = np.cumsum(lengths)
    owner, begin, end = splits.windows(stop - lengths, stop, size)
    for user, length in enumerate(lengths):
        mine = np.concatenate(
            [[], *(np.arange(a, b) for a, b in zip(begin, end, strict=True) if b <= stop[user])]
        )
        mine = mine[mine >= stop[user] - length]
        assert mine.tolist() == list(range(stop[user] - length, stop[user]))
        assert (owner == user).sum() == -(-length // size)
    assert ((end - begin >= 1) & (end - begin <= size)).all()


@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=8), min_size=1, max_size=5))
@settings(max_examples=40, deadline=None)
def test_target_sets_are_sets_in_order(sets):
    stop = np.cumsum([len(s) for s in sets])
    found = splits.target_sets(np.concatenate(sets), np.r_[0, stop[:-1]], stop)
    assert [[t for t in row if t != PAD] for row in found.tolist()] == [list(dict.fromkeys(s)) for s in sets]
    assert found.shape[1] == max(len(set(s)) for s in sets)


# --- no leak

EVENT = st.tuples(st.integers(0, 9), st.integers(0, 30), st.integers(0, 2))
USERS = st.lists(st.lists(EVENT, min_size=1, max_size=12), min_size=1, max_size=4)


def sorted_line(users: list[list[tuple[int, int, int]]]) -> splits.Timeline:
    return line_of(*(sorted(events, key=lambda event: event[1]) for events in users))


def split_or_skip(line: splits.Timeline, name: str) -> tuple[Examples, Examples, Examples]:
    try:
        return splits.split(line, name, 4)
    except InputError:
        assume(False)  # too short a log for this split
        raise


@pytest.mark.parametrize("name", splits.SPLITS)
@given(users=USERS)
@settings(max_examples=30, deadline=None)
def test_every_history_precedes_its_targets(name, users):
    line = sorted_line(users)
    train, valid, test = split_or_skip(line, name)
    for part in (valid, test):
        for user, start, stop, targets in zip(part.user, part.start, part.stop, part.targets, strict=True):
            assert start == line.start[user]  # the whole past, without a gap
            later = line.item[stop : line.stop[user]]
            assert line.time[:stop][start:].max() <= line.time[stop : line.stop[user]].min()
            assert {int(t) for t in targets if t != PAD} <= set(later.tolist())
    first = {int(u): int(stop) for u, stop in zip(valid.user, valid.stop, strict=True)}
    for user, stop in zip(train.user.tolist(), train.stop.tolist(), strict=True):
        assert stop <= first.get(user, line.stop[user])
    if name == "time":
        moment = min(line.time[part.stop].min() for part in (valid, test))
        held = max(line.time[a:b].max() for a, b in zip(train.start, train.stop, strict=True))
        assert held < moment  # across all users


@pytest.mark.parametrize("name", splits.SPLITS)
@given(users=USERS, data=st.data())
@settings(max_examples=30, deadline=None)
def test_a_later_event_never_changes_an_earlier_example(name, users, data):
    line = sorted_line(users)
    train, valid, test = split_or_skip(line, name)
    held = np.concatenate(  # every test target
        [np.arange(a, line.stop[u]) for u, a in zip(test.user, test.stop.tolist(), strict=True)]
    )
    item = line.item.copy()
    item[held] = data.draw(st.lists(st.integers(0, 99), min_size=len(held), max_size=len(held)))
    other = splits.Timeline(item, line.start, line.stop, line.time, line.group)
    changed = splits.split(other, name, 4)
    assert shown(changed[0]) == shown(train)
    assert shown(changed[1]) == shown(valid)
    assert [row[:2] for row in shown(changed[2])] == [row[:2] for row in shown(test)]  # histories


def test_floors_and_vectors_see_across_windows():
    """The windows into which a long sequence is cut for the policy are one sequence for what counts."""
    train, _, _ = splits.split(line_of([(i, i, 0) for i in range(9)]), "last", 2)
    assert len(train) == 3  # seven items in windows of at most three
    user, item = training_events(train)
    assert user.tolist() == [0] * 7
    assert item.tolist() == list(range(7))


@pytest.mark.parametrize("name", ["last", "group"])
@given(users=USERS, more=st.lists(EVENT, min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_another_users_later_events_change_nothing(name, users, more):
    parts = split_or_skip(sorted_line(users), name)
    again = splits.split(sorted_line([*users, [(i, 100 + t, g) for i, t, g in more]]), name, 4)
    for before, after in zip(parts, again, strict=True):
        assert [row for row in shown(after) if row[0] < len(users)] == shown(before)


@given(users=USERS)
@settings(max_examples=30, deadline=None)
def test_without_the_last_event_the_test_example_is_the_validation_example(users):
    line = sorted_line(users)
    _, valid, _ = split_or_skip(line, "last")
    shorter = sorted_line([sorted(u, key=lambda e: e[1])[: -1 if len(u) > 3 else None] for u in users])
    _, _, earlier = split_or_skip(shorter, "last")
    cut = {u for u, events in enumerate(users) if len(events) > 3}
    assert [row for row in shown(earlier) if row[0] in cut] == [row for row in shown(valid) if row[0] in cut]
