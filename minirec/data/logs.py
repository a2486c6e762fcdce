"""Real logs: from a file of events to a Dataset.

Read by this file, gzipped or not: MovieLens ``ratings.csv``, RecBole ``.inter``, S3-Rec ``.txt`` (one user a
line: ``user item item ...`` in order of time), and any csv or tsv with named columns.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from minirec.data import catalogue, splits
from minirec.data.dataset import Dataset
from minirec.data.tables import kind, lines, positions, rows, shown
from minirec.data.vectors import training_events
from minirec.errors import InputError
from minirec.settings import Config

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Events:
    """E events; users, items and groups are numbers, and the lists hold their external ids."""

    users: list[str]
    items: list[str]
    user: Ints  # (E,) row in users
    item: Ints  # (E,) row in items
    time: Floats | None = None  # (E,) any unit; only order and equality are used
    rating: Floats | None = None  # (E,)
    group: Ints | None = None  # (E,) numbered by first appearance

    def __len__(self) -> int:
        return len(self.user)

    def select(self, rows: NDArray) -> Events:
        """Return some of the events, by mask or index; the lists of ids stay as they are."""
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

    def describe(self) -> str:
        """Say it in one line."""
        return (
            f"{self.read:,} events read, {self.duplicates:,} duplicates and {self.dropped:,} outside the "
            f"k-core dropped; {self.users:,} users, {self.items:,} items, {self.events:,} events; "
            f"{self.unseen:,} items never occur in training"
        )


def load(cfg: Config) -> tuple[Dataset, Summary]:
    """Read a log, clean it, and split it.

    Args:
        cfg: uses ``data``, ``columns``, ``items``, ``split``, ``core`` and ``history``. Without ``items``
            a ``movies.csv`` that lies beside MovieLens' ``ratings.csv`` is taken.

    Returns:
        The Dataset and the counts of what was kept. Users and items are numbered by first appearance in
        the file among the kept events.

    Raises:
        InputError: anything wrong with the files or the settings, in one line.
    """
    path = Path(cfg.data)
    events = read(path, cfg.columns)
    unique = without_duplicates(events)
    kept = numbered(k_core(unique, cfg.core))
    if len(kept.users) < 2 or len(kept.items) < 2:
        raise InputError(
            f"{path}: {len(kept.users)} users and {len(kept.items)} items are left of {len(events):,} events "
            f"with --core {cfg.core}; expected at least 2 of each: use a smaller --core or a larger log"
        )
    line = timeline(kept)
    train, valid, test = splits.split(line, cfg.split, cfg.history)
    items = catalogue.describe(kept.items, _side_information(path, cfg.items), cfg.columns)
    summary = Summary(
        read=len(events),
        duplicates=len(events) - len(unique),
        dropped=len(unique) - len(kept),
        events=len(kept),
        users=len(kept.users),
        items=len(kept.items),
        unseen=len(kept.items) - len(training_events(train)[1].unique()),
    )
    rating, time = (None if a is None else torch.from_numpy(a) for a in (line.rating, line.time))
    return Dataset(items, kept.users, train, valid, test, rating=rating, time=time), summary


def read(path: str | Path, columns: str = "") -> Events:
    """Read a log as it stands.

    Args:
        path: the file. A ``.txt`` is read as S3-Rec sequences unless ``columns`` is given, anything else
            as a table with a header.
        columns: the setting ``--columns``, for example ``user=customer,item=sku,time=at``; when it is empty
            the names in ``tables.COLUMNS`` are looked for.

    Returns:
        The events in the order of the file.

    Raises:
        InputError: the file is broken; names the line and the column.
    """
    path = Path(path)
    return _sequences(path) if kind(path) == ".txt" and not columns else _table(path, columns)


def without_duplicates(events: Events) -> Events:
    """Drop events with the same user, item, time and group as an earlier one in the file.

    Without times nothing is dropped: a repeat cannot be told from a duplicate.

    Source: ours.
    """
    if events.time is None:
        return events
    keys = [k for k in (events.user, events.item, events.time, events.group) if k is not None]
    order = np.lexsort(keys)  # stable, so the first of equals is the first in the file
    again = np.all([key[order][1:] == key[order][:-1] for key in keys], axis=0)
    keep = np.ones(len(events), dtype=bool)
    keep[order[1:][again]] = False
    return events.select(keep)


def k_core(events: Events, core: int) -> Events:
    """Keep the largest part of a log in which every user and item has at least ``core`` events.

    Args:
        events: the log.
        core: the least number of events; 0 keeps all.

    Returns:
        The events left, perhaps none.

    Source: definition (the filter is repeated until nothing changes). As everywhere in the field it looks at
    the whole log: which users and items remain depends on later events too. After it, nothing else does.
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


def timeline(events: Events) -> splits.Timeline:
    """Sort the events by user and time.

    A user's events at one time keep the order of the file, but those of one group stay together. Without
    times the order of the file is the order of time, whatever the groups.

    Args:
        events: the log.

    Returns:
        The Timeline: items, times, groups and ratings (E,), and where each user's events start and stop.

    Source: ours.
    """
    keys = [] if events.time is None else [k for k in (events.group, events.time) if k is not None]
    events = events.select(np.lexsort([*keys, events.user]))  # the last key leads; stable
    users = np.arange(len(events.users))
    start, stop = (np.searchsorted(events.user, users, side) for side in ("left", "right"))
    return splits.Timeline(events.item, start, stop, events.time, events.group, events.rating)


def _side_information(log: Path, items: str) -> Path | None:
    if items:
        return Path(items)
    beside = [log.with_name(name) for name in ("movies.csv", "movies.csv.gz")]
    movielens = log.name in ("ratings.csv", "ratings.csv.gz")
    return next((path for path in beside if movielens and path.is_file()), None)


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


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError("is not a number; for example 4.5") from None
    if not abs(number) < float("inf"):  # NaN fails too
        raise ValueError("is not finite; expected a number such as 4.5")
    return number


def _time(text: str) -> float:
    try:
        time = float(text)
    except ValueError:
        raise ValueError("is not a number; expected a time such as 964982703 (seconds)") from None
    if not 0 <= time < float("inf"):  # NaN fails too
        raise ValueError("is no valid time; expected a finite number, 0 or more, such as 964982703")
    return time


def _table(path: Path, columns: str) -> Events:
    table = rows(path)
    _, header = next(table)
    where = positions(path, header, columns)
    ids = {role: _Ids() for role in ("user", "item", "group")}
    convert: dict[str, Callable[[str], float]] = {"time": _time, "rating": _number}
    convert |= {role: known.__getitem__ for role, known in ids.items()}
    values = {role: array("q" if role in ids else "d") for role in where}
    plan = [(position, convert[role], values[role].append) for role, position in where.items()]
    position = 0
    for line, row in table:
        try:
            for position, value_of, append in plan:
                append(value_of(row[position]))
        except ValueError as error:
            name, value = header[position], shown(row[position])
            raise InputError(f"{path}, line {line}, column '{name}': {value} {error}") from None
    if not values["user"]:
        raise InputError(f"{path}, line 2: a header and no events; expected one event per line")
    return Events(list(ids["user"]), list(ids["item"]), **{role: np.array(v) for role, v in values.items()})


def _sequences(path: Path) -> Events:
    users, items = _Ids(), _Ids()
    user, item = array("q"), array("q")
    for line, text in enumerate(lines(path), start=1):
        name, *sequence = text.split() or [""]
        if not name:
            continue
        if not sequence or name in users:
            fault = f"user {shown(name)} " + ("has no items" if not sequence else "was on a line before")
            raise InputError(f"{path}, line {line}: {fault}; expected one user a line: user item item ..")
        user.extend([users[name]] * len(sequence))
        item.extend(items[name] for name in sequence)
    if not user:
        raise InputError(f"{path}, line 1: the file is empty; expected one user a line: user item item ..")
    return Events(list(users), list(items), np.array(user), np.array(item))
