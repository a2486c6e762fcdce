"""Real logs: from a file of events to a Dataset.

This file reads, gzipped or not, MovieLens ``ratings.csv``, RecBole ``.inter``, S3-Rec ``.txt`` (one user a
line, ``user item item ...`` in order of time), and any csv or tsv with named columns.
"""

import math
from array import array
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch

from minirec.data import catalogue, splits, tables, vectors
from minirec.data.dataset import Dataset
from minirec.errors import InputError
from minirec.settings import Config

NUMBERS = {  # columns of numbers: the least value, and what is said of a value that is not valid
    "time": (0, "is no valid time; expected a finite number, 0 or more, such as 964982703 (seconds)"),
    "rating": (-math.inf, "is no valid rating; expected a finite number such as 4.5"),
}


# The columns (E,) of E events: "user", "item" and, where the log has it, "group", rows in the lists of
# external ids, int64; where the log has them, "rating", float64, and "time", float64 in any unit: only order
# and equality of times are used.
Events = dict[str, np.ndarray]


def load(cfg: Config) -> tuple[Dataset, str]:
    """Read the log ``cfg.data``, clean it, and split it; return it, and what became of its events.

    Without ``cfg.items``, MovieLens' ``movies.csv`` is taken. Users and items are numbered by appearance.
    Raises InputError if a file or a setting is wrong.
    """
    path = Path(cfg.data)
    events, ids = read(path, cfg.columns)
    unique = without_duplicates(events)
    kept, ids = numbered(k_core(unique, cfg.core), ids)
    total, distinct, rest = (len(part["user"]) for part in (events, unique, kept))
    users, items = (len(ids[role]) for role in ("user", "item"))
    if min(users, items) < 2:
        left = f"{users} users and {items} items are left of {total:,} events with --core {cfg.core}"
        raise InputError(f"{path}: {left}; expected at least 2 of each: use a smaller --core or a larger log")
    line = timeline(kept, ids)
    parts = splits.split(line, cfg.split, cfg.history)
    made = catalogue.make_catalogue(ids["item"], _side_information(path, cfg.items), cfg.columns)
    unseen = items - len(vectors.training_events(parts[0])[1].unique())
    gone = f"{total - distinct:,} duplicates and {distinct - rest:,} outside the k-core dropped"
    left = f"{users:,} users, {items:,} items, {rest:,} events; {unseen:,} items never occur in training"
    order = f"{parts[2].tied.double().mean():.1%} of test targets have the time of the event before them"
    if line.time is None:
        order = "the log has no times: the order of its events in the file is taken for the order of time"
    more = {name: getattr(line, name) for name in ("rating", "time", "start")}
    more = {name: torch.from_numpy(column) for name, column in more.items() if column is not None}
    return Dataset(made, ids["user"], *parts, **more), f"{total:,} events read, {gone}; {left}\n{order}"


def read(path: Path, columns: str = "") -> tuple[Events, dict[str, list[str]]]:
    """Read a log's events in the order of the file, and its external ids; InputError if it is broken."""
    table = _sequences(path) if tables.kind(path) == ".txt" and not columns else tables.rows(path)
    _, header = next(table)
    where = tables.positions(path, header, columns)
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
            name, value = header[position], tables.shown(row[position])
            raise InputError(f"{path}, line {line}, column '{name}': {value} {error}") from None
    if not ids["user"]:
        raise InputError(f"{path}, line 2: a header and no events; expected one event per line")
    events = {role: np.array(column) for role, column in values.items()}
    return events, {role: list(names) for role, names in ids.items() if names}


def select(events: Events, rows: np.ndarray) -> Events:
    """Return some of the events, by mask or index."""
    return {role: column[rows] for role, column in events.items()}


def without_duplicates(events: Events) -> Events:
    """Keep one of the events that share user, item, time and group, the one rated lowest. Source: ours."""
    if "time" not in events:
        return events  # without times a repeat cannot be told from a duplicate
    keys = [events[role] for role in ("user", "item", "time", "group") if role in events]
    order = np.lexsort([events.get("rating", keys[0]), *keys])  # the order of the file changes nothing
    again = np.all([key[order][1:] == key[order][:-1] for key in keys], axis=0)
    return select(events, np.delete(np.arange(len(order)), order[1:][again]))


def k_core(events: Events, core: int) -> Events:
    """Keep the largest part of a log, perhaps none, in which every user and item has ``core`` events or more.

    As is usual, this filter depends on later events too; nothing after it does. Source: definition.
    """
    while True:
        fewest = np.min([np.bincount(column)[column] for column in (events["user"], events["item"])], axis=0)
        if (fewest >= core).all():
            return events
        events = select(events, fewest >= core)


def numbered(events: Events, ids: dict[str, list[str]]) -> tuple[Events, dict[str, list[str]]]:
    """Number what has ids anew by first appearance, and forget the ids of those without events."""
    new, left = {}, {}
    for role, names in ids.items():
        old, first, inverse = np.unique(events[role], return_index=True, return_inverse=True)
        order = first.argsort()
        new[role], left[role] = order.argsort()[inverse], [names[code] for code in old[order]]
    return events | new, left


def timeline(events: Events, ids: dict[str, list[str]]) -> splits.Timeline:
    """Sort the events of users who are numbered without a gap by user and time. Source: ours.

    A user's events at one time are in random order, by a hash of user and item, as the order of a file, often
    by item, tells what comes next; those of one group stay together. Without times it is the order of time.
    """
    keys = [events["user"]]  # the last leads; equals stay in the order of the file
    if "time" in events:
        keys = [*_ties(events, ids), events["time"], *keys]
    events = select(events, np.lexsort(keys))
    count = np.bincount(events["user"])
    stop = count.cumsum()
    return splits.Timeline(events["item"], stop - count, stop, *map(events.get, ("time", "group", "rating")))


def _ties(events: Events, ids: dict[str, list[str]]) -> list[np.ndarray]:
    """Sort keys for ties in time: when their group began, then numbers drawn for their group and item."""
    hashed = {}
    for role in ids:
        digests = (blake2b(name.encode(), digest_size=8).digest() for name in ids[role])
        hashed[role] = np.frombuffer(b"".join(digests), "<u8")[events[role]]
    drawn = [hashed["user"] ^ hashed[role] for role in ("item", "group") if role in ids]
    for odd in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB):  # as SplitMix64 mixes: each user has an own order
        drawn = [(number ^ (number >> np.uint64(32))) * np.uint64(odd) for number in drawn]
    if "group" in ids:
        began = np.full(len(ids["group"]), events["time"].max())
        np.minimum.at(began, events["group"], events["time"])
        drawn.append(began[events["group"]])
    return drawn


def _side_information(log: Path, items: str) -> Path | None:
    if items:
        return Path(items)
    names = ("movies.csv", "movies.csv.gz") if log.name in ("ratings.csv", "ratings.csv.gz") else ()
    return next((path for path in map(log.with_name, names) if path.is_file()), None)


class _Ids(dict[str, int]):
    """External id to number, by first appearance."""

    def __missing__(self, name: str) -> int:
        if not name:
            raise ValueError("is empty; expected an id")
        return self.setdefault(name, len(self))


def _number(least: float, fault: str, text: str) -> float:
    with suppress(ValueError):
        if math.isfinite(number := float(text)) and number >= least:
            return number
    raise ValueError(fault)


def _sequences(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Stream the events of sequences as the rows of a table of users and items."""
    wanted = "expected one user a line: user item item .."
    users: set[str] = set()
    yield 1, ["user", "item"]
    rows = ((line, words) for line, text in enumerate(tables.lines(path), 1) if (words := text.split()))
    for line, (user, *items) in rows:
        if not items or user in users:
            fault = "was on a line before" if items else "has no items"
            raise InputError(f"{path}, line {line}: user {tables.shown(user)} {fault}; {wanted}")
        users.add(user)
        yield from ((line, [user, item]) for item in items)
    if not users:
        raise InputError(f"{path}, line 1: the file is empty; {wanted}")
