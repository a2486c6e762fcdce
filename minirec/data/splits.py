"""Every user's events in order of time, cut into training, validation and test without a leak.

A split is two cuts per user: before the first lies training, between them the validation target set, after
the second the test target set. A history is everything before its targets.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from minirec.data.dataset import Examples
from minirec.errors import InputError
from minirec.records import CONDITION, PAD

Ints = np.ndarray  # of int64
Cuts = tuple[Ints, Ints]  # (U,) first validation target, (U,) first test target; both = stop: training only


@dataclass(frozen=True)
class Timeline:
    """The events of all users, one user after another, each in order of time."""

    item: Ints  # (E,)
    start: Ints  # (U,) each user's first event
    stop: Ints  # (U,) one past the last; every user has an event
    time: np.ndarray | None = None  # (E,) int64 or float64
    group: Ints | None = None  # (E,)
    rating: np.ndarray | None = None  # (E,) float64


def leave_last_out(line: Timeline) -> Cuts:
    """Cut off the last of three events or more for test, the last but one for validation. Source: SASRec."""
    enough = line.stop - line.start >= 3
    return line.stop - 2 * enough, line.stop - enough


def leave_last_group_out(line: Timeline) -> Cuts:
    """Cut off the last group for test and the one before for validation, for users of three groups or more.

    A group is an unbroken run of one group id. An id that comes back later opens a new group, or a history
    would hold events later than its targets. Raises InputError if the log has no groups. Source: ours.
    """
    if line.group is None:
        raise InputError("--split group: the log has no group column; name it by --columns ..,group=..")
    first = np.union1d(line.start, 1 + np.flatnonzero(np.diff(line.group)))  # (groups,) where each begins
    before, after = np.searchsorted(first, line.start), np.searchsorted(first, line.stop)  # (U,)
    enough = after - before >= 3
    return tuple(np.where(enough, first[after - k], line.stop) for k in (2, 1))  # index -1: unused


def global_time(line: Timeline) -> Cuts:
    """Cut all users at the same two moments: when 80 % and 90 % of the events have happened.

    An event at the moment of a cut comes after it. Raises InputError if the log has no times. Source: ours.
    """
    if line.time is None:
        raise InputError("--split time: the log has no times; name their column by --columns ..,time=..")
    cuts = np.sort(line.time)[[int(share * len(line.time)) for share in (0.8, 0.9)]]
    return tuple(line.start + np.add.reduceat(line.time < cut, line.start, dtype=np.int64) for cut in cuts)


SPLITS = {"last": leave_last_out, "group": leave_last_group_out, "time": global_time}


def windows(start: Ints, stop: Ints, size: int) -> tuple[Ints, Ints, Ints]:
    """Cut sequences ``start:stop`` (U,) into windows of at most ``size``: each one's sequence, start, stop.

    All windows of a sequence but its first are full. Returns (W,) int64 each. Source: ours.
    """
    count = -(-(stop - start) // size)  # (U,) rounded up
    owner = np.repeat(np.arange(len(start)), count)  # (W,)
    steps = np.cumsum(count)[owner] - 1 - np.arange(len(owner))  # windows that follow in the same sequence
    end = stop[owner] - steps * size
    return owner, np.maximum(start[owner], end - size), end


def target_sets(item: Ints, start: Ints, stop: Ints) -> torch.Tensor:
    """Collect the items of slices ``start:stop`` (B,) as sets (B, n), padded with PAD. Source: definition."""
    sets = (list(dict.fromkeys(item[a:b].tolist())) for a, b in zip(start, stop, strict=True))
    return pad_sequence([torch.tensor(row).long() for row in sets], batch_first=True, padding_value=PAD)


def split(line: Timeline, name: str, history: int) -> tuple[Examples, Examples, Examples]:
    """Make the training, validation and test examples of a log; ``name`` is a key of ``SPLITS``.

    Training examples are windows of at most ``history`` + 1 items. A user is in validation or test when there
    is something before the cut and something after it. Raises InputError if a part is empty.
    """
    valid, test = SPLITS[name](line)
    owner, start, stop = windows(line.start, valid, history + 1)
    parts = {"training": (owner, start, stop, stop)}  # user, history start:stop, target set stop:end
    for use, cut, end in (("validation", valid, test), ("test", test, line.stop)):
        user = np.flatnonzero((line.start < cut) & (cut < end))  # (B,)
        parts[use] = user, line.start[user], cut[user], end[user]
    time, made = np.arange(len(line.item)) if line.time is None else line.time, []
    for use, (user, start, stop, end) in parts.items():
        if not len(user):
            raise InputError(f"--split {name}: no {use} example is left; use a longer log or another --split")
        tied = np.append(time[1:] == time[:-1], False)[stop - 1] & (stop < end)
        condition = np.zeros((len(user), len(CONDITION)), dtype=np.int64)  # the next item, no need, no period
        columns = line.item, start, stop, user, condition, target_sets(line.item, stop, end), tied
        made.append(Examples(*map(torch.as_tensor, columns)))
    return tuple(made)
