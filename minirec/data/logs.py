"""Real logs: from a file of events to a Dataset.

This file reads, gzipped or not, MovieLens ``ratings.csv``, RecBole ``.inter``, S3-Rec ``.txt`` (one user a
line, ``user item item ...`` in order of time), and any csv or tsv with named columns.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from minirec.data.catalogue import make_catalogue
from minirec.data.dataset import Dataset
from minirec.data.splits import Floats, Ints, Timeline, split
from minirec.data.tables import kind, lines, positions, rows, shown
from minirec.data.vectors import training_events
from minirec.errors import InputError
from minirec.settings import Config

TIME_FAULT = "is no valid time; expected a finite number, 0 or more, such as 964982703"
NUMBERS = {  # columns of numbers: the least value, an example, and what is said of a value that is not valid
    "time": (0, "expected a time such as 964982703 (seconds)", TIME_FAULT),
    "rating": (-math.inf, "for example 4.5", "is not finite; expected a number such as 4.5"),
}


@dataclass(frozen=True)
class Events:
    """E events; the lists hold the external ids of users and items."""

    users: list[str]
    items: list[str]
    user: Ints  # (E,) row in users
    item: Ints  # (E,) row in items
    time: Floats | None = None  # (E,) any unit; only order and equality are used
    rating: Floats | None = None  # (E,)
    group: Ints | None = None  # (E,) numbered by first appearance

    def __len__(self) -> int:
        return len(self.user)

    def select(self, rows: Ints) -> Events:
        """Return some of the events, by mask or index; the lists of ids stay whole."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("users", "items")}
        return replace(self, **{name: None if a is None else a[rows] for name, a in arrays.items()})


@dataclass(frozen=True)
class Summary:
    """What became of the events of a log."""

    read: int  # events in the file
    duplicates: int  # dropped: the same user, item, time and group again
    dropped: int  # dropped by the k-core filter
    events: int  # left
    users: int
    items: int
    unseen: int  # items that never occur in training

    def __str__(self) -> str:
        gone = f"{self.duplicates:,} duplicates and {self.dropped:,} outside the k-core dropped"
        left = f"{self.users:,} users, {self.items:,} items, {self.events:,} events"
        return f"{self.read:,} events read, {gone}; {left}; {self.unseen:,} items never occur in training"


def load(cfg: Config) -> tuple[Dataset, Summary]:
    """Read the log ``cfg.data``, clean it, and split it; raises InputError if a file or a setting is wrong.

    Without ``cfg.items``, MovieLens' ``movies.csv`` is taken. Users and items are numbered by appearance.
    """
    path = Path(cfg.data)
    events = read(path, cfg.columns)
    unique = without_duplicates(events)
    kept = numbered(k_core(unique, cfg.core))
    users, items = len(kept.users), len(kept.items)
    if users < 2 or items < 2:
        left = f"{users} users and {items} items are left of {len(events):,} events with --core {cfg.core}"
        raise InputError(f"{path}: {left}; expected at least 2 of each: use a smaller --core or a larger log")
    line = timeline(kept)
    train, valid, test = split(line, cfg.split, cfg.history)
    catalogue = make_catalogue(kept.items, _side_information(path, cfg.items), cfg.columns)
    unseen = items - len(training_events(train)[1].unique())
    duplicates, dropped = len(events) - len(unique), len(unique) - len(kept)
    summary = Summary(len(events), duplicates, dropped, len(kept), users, items, unseen)
    rating, time = (None if a is None else torch.from_numpy(a) for a in (line.rating, line.time))
    return Dataset(catalogue, kept.users, train, valid, test, rating=rating, time=time), summary


def read(path: Path, columns: str = "") -> Events:
    """Read the events of a log in the order of the file; raises InputError if it is broken."""
    table = _sequences(path) if kind(path) == ".txt" and not columns else rows(path)
    _, header = next(table)
    where = positions(path, header, columns)
    ids = {role: _Ids() for role in ("user", "item", "group")}
    convert = {role: names.__getitem__ for role, names in ids.items()}
    convert |= {role: partial(_number, *limits) for role, limits in NUMBERS.items()}
    values = {role: array("d" if role in NUMBERS else "q") for role in where}
    plan = [(position, convert[role], values[role].append) for role, position in where.items()]
    for line, row in table:
        try:
            for position, value_of, append in plan:
                append(value_of(row[position]))
        except ValueError as error:
            name, value = header[position], shown(row[position])
            raise InputError(f"{path}, line {line}, column '{name}': {value} {error}") from None
    if not ids["user"]:
        raise InputError(f"{path}, line 2: a header and no events; expected one event per line")
    return Events(list(ids["user"]), list(ids["item"]), **{role: np.array(v) for role, v in values.items()})


def without_duplicates(events: Events) -> Events:
    """Drop events with the user, item, time and group of an earlier one in the file. Source: ours."""
    if events.time is None:
        return events  # without times a repeat cannot be told from a duplicate
    keys = [k for k in (events.user, events.item, events.time, events.group) if k is not None]
    order = np.lexsort(keys)  # stable, so the first of equals is the first in the file
    again = np.all([key[order][1:] == key[order][:-1] for key in keys], axis=0)
    return events.select(np.delete(np.arange(len(events)), order[1:][again]))


def k_core(events: Events, core: int) -> Events:
    """Keep the largest part of a log, perhaps none, in which every user and item has ``core`` events or more.

    As is usual, this filter depends on later events too; nothing after it does. Source: definition.
    """
    while True:
        users, items = np.bincount(events.user), np.bincount(events.item)
        keep = (users[events.user] >= core) & (items[events.item] >= core)
        if keep.all():
            return events
        events = events.select(keep)


def numbered(events: Events) -> Events:
    """Number users and items anew by first appearance, and forget those without events."""
    user, users = _by_appearance(events.user, events.users)
    item, items = _by_appearance(events.item, events.items)
    return replace(events, user=user, item=item, users=users, items=items)


def timeline(events: Events) -> Timeline:
    """Sort the events by user and time. Source: ours.

    A user's events at one time keep the order of the file, but those of one group stay together. Without
    times the order of the file is the order of time, whatever the groups.
    """
    keys = [] if events.time is None else [k for k in (events.group, events.time) if k is not None]
    events = events.select(np.lexsort([*keys, events.user]))  # the last key leads; stable
    users = np.arange(len(events.users))
    start, stop = (np.searchsorted(events.user, users, side) for side in ("left", "right"))
    return Timeline(events.item, start, stop, events.time, events.group, events.rating)


def _side_information(log: Path, items: str) -> Path | None:
    if items:
        return Path(items)
    names = ("movies.csv", "movies.csv.gz") if log.name in ("ratings.csv", "ratings.csv.gz") else ()
    return next((path for path in map(log.with_name, names) if path.is_file()), None)


def _by_appearance(codes: Ints, names: list[str]) -> tuple[Ints, list[str]]:
    old, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return np.argsort(order)[inverse], [names[code] for code in old[order]]


class _Ids(dict[str, int]):
    """External id to number, by first appearance."""

    def __missing__(self, name: str) -> int:
        if not name:
            raise ValueError("is empty; expected an id")
        self[name] = number = len(self)
        return number


def _number(least: float, example: str, fault: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"is not a number; {example}") from None
    if not math.isfinite(number) or number < least:
        raise ValueError(fault)
    return number


def _sequences(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Stream the events of sequences as the rows of a table of users and items."""
    wanted = "expected one user a line: user item item .."
    users: set[str] = set()
    yield 1, ["user", "item"]
    for line, text in enumerate(lines(path), start=1):
        user, *items = text.split() or [""]
        if not user:
            continue
        if not items or user in users:
            fault = "was on a line before" if items else "has no items"
            raise InputError(f"{path}, line {line}: user {shown(user)} {fault}; {wanted}")
        users.add(user)
        yield from ((line, [user, item]) for item in items)
    if not users:
        raise InputError(f"{path}, line 1: the file is empty; {wanted}")
