"""Real logs: from a file of events, of any format in ``tables.py``, to a Dataset."""

import re
from array import array
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from functools import partial
from hashlib import blake2b
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from minirec.data import catalogue, splits, tables, vectors
from minirec.data.dataset import Dataset
from minirec.errors import InputError
from minirec.settings import Config

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
MISSING = {"", "NA", "N/A", "NULL", "null", "None", "nan", "NaN", "\\N"}  # what files say where no id is

# The columns (E,) of E events: "user", "item" and perhaps "group", places in the lists of ids, int64; perhaps
# "rating", float64, and "time" in any unit, int64, or float64 where one has a fraction: only order counts.
Events = dict[str, np.ndarray]


def load(cfg: Config) -> tuple[Dataset, str]:
    """Read the log ``cfg.data``, clean it, and split it; return it, and what became of its events.

    Without ``cfg.items``, MovieLens' ``movies.csv`` is taken. Raises InputError if a file or flag is wrong.
    """
    path = Path(cfg.data)
    events, ids, notes = read(path, cfg.columns)
    unique = without_duplicates(events)
    kept, ids = numbered(k_core(unique, cfg.core), ids)
    total, distinct, rest = (len(part["user"]) for part in (events, unique, kept))
    users, items = (len(ids[role]) for role in ("user", "item"))
    if min(users, items) < 2:
        left = f"{users} users and {items} items are left of {total:,} events with --core {cfg.core}"
        raise InputError(f"{path}: {left}; expected at least 2 of each: use a smaller --core or a larger log")
    line = timeline(kept, ids)
    parts = splits.split(line, cfg.split, cfg.history)
    beside = ("movies.csv", "movies.csv.gz") if path.name.removesuffix(".gz") == "ratings.csv" else ()
    side = Path(cfg.items) if cfg.items else next(filter(Path.is_file, map(path.with_name, beside)), None)
    made = catalogue.make_catalogue(ids["item"], side, cfg.columns)
    unseen = items - len(vectors.training_events(parts[0])[1].unique())
    gone = f"{total - distinct:,} duplicates and {distinct - rest:,} outside the k-core dropped"
    left = f"{users:,} users, {items:,} items, {rest:,} events; {unseen:,} items never occur in training"
    order = f"{parts[2].tied.double().mean():.1%} of test targets have the time of the event before them"
    if line.time is None:
        order = "the log has no times: the order of its events in the file is taken for the order of time;"
        order += " where a column has them, --columns user=..,item=..,time=.. names it"
    more = {name: vars(line)[name] for name in ("rating", "time", "start")}
    more = {name: torch.from_numpy(column) for name, column in more.items() if column is not None}
    summary = "\n".join([f"{total:,} events read, {gone}; {left}", order, *notes])
    return Dataset(made, ids["user"], *parts, **more), summary


def read(path: Path, columns: str = "", times: str = "q") -> tuple[Events, dict[str, list[str]], list[str]]:
    """Read a log's events in the order of the file, its external ids, and notes on how it was read.

    InputError if broken, or if most events lack a user or item. ``times`` is "d" where one has fractions.
    """
    header, where, rows, notes = tables.table(path, columns)
    if (first := next(rows, None)) is None:
        raise InputError(f"{path}, line 2: a header and no events; expected one event per line")
    dated = "time" in where and "-" in first[1][where["time"]][1:]  # all times are dates, or all numbers
    ids = {role: _Ids() for role in ("user", "item", "group")}
    convert = {role: names.__getitem__ for role, names in ids.items()}
    convert |= {"rating": partial(_number, -(2**63)), "time": _date if dated else partial(_number, 0)}
    values = {role: array({"rating": "d", "time": times}.get(role, "q")) for role in where}
    plan = [(position, convert[role], values[role].append) for role, position in where.items()]
    gone, lost = 0, ""
    for line, row in chain([first], rows):
        try:
            for position, value_of, append in plan:
                append(value_of(row[position]))
        except TypeError:  # int64 takes no fraction
            return read(path, columns, "d")
        except ValueError as error:
            place = f"line {line}, column '{header[position]}': {tables.shown(row[position])}"
            if position not in (where["user"], where["item"]):
                role = next(role for role, at in where.items() if at == position)
                raise InputError(f"{path}, {place} {error}; --columns {role}= leaves it off") from None
            del values["user"][len(values["item"]) :]  # of an event without an item
            gone, lost = gone + 1, lost or place
    rest = len(values["item"])
    missing = f"{gone:,} of {gone + rest:,} events have no user or no item (first {lost})"
    if gone > rest:
        other = f"user={header[where['group']]}" if "group" in where else "user=..,item=.."
        raise InputError(f"{path}: {missing}; name other columns, such as --columns {other}")
    events = {role: np.frombuffer(column, column.typecode) for role, column in values.items()}
    notes += [f"{missing}; they are dropped"] if gone else []
    return events, {role: list(names) for role, names in ids.items() if names}, notes


def without_duplicates(events: Events) -> Events:
    """Keep one of the events that share user, item, time and group, the one rated lowest. Source: ours."""
    if "time" not in events:
        return events  # without times a repeat cannot be told from a duplicate
    keys = [events[role] for role in ("user", "item", "time", "group") if role in events]
    order = np.lexsort([events.get("rating", keys[0]), *keys])  # the order of the file changes nothing
    again = np.all([key[order][1:] == key[order][:-1] for key in keys], axis=0)
    return {role: np.delete(column, order[1:][again]) for role, column in events.items()}


def k_core(events: Events, core: int) -> Events:
    """Keep the largest part, perhaps none, with ``core`` events of each user and item. Source: definition."""
    while True:  # as is usual, this filter depends on later events too; nothing after it does
        fewest = np.min([np.bincount(column)[column] for column in (events["user"], events["item"])], axis=0)
        if (fewest >= core).all():
            return events
        events = {role: column[fewest >= core] for role, column in events.items()}


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
    if "time" in events:  # ties: by when their group began, then by numbers drawn for their group and item
        hashed = {}
        for role in ids:
            digests = (blake2b(name.encode(), digest_size=8).digest() for name in ids[role])
            hashed[role] = np.frombuffer(b"".join(digests), "<u8")[events[role]]
        drawn = [hashed["user"] ^ hashed[role] for role in ("item", "group") if role in ids]
        for odd in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB):  # as SplitMix64: each user has an own order
            drawn = [(number ^ (number >> np.uint64(32))) * np.uint64(odd) for number in drawn]
        if "group" in ids:
            began = np.full(len(ids["group"]), events["time"].max())
            np.minimum.at(began, events["group"], events["time"])
            drawn.append(began[events["group"]])
        keys = [*drawn, events["time"], *keys]
    order = np.lexsort(keys)
    events = {role: column[order] for role, column in events.items()}
    count = np.bincount(events["user"])
    stop = count.cumsum()
    return splits.Timeline(events["item"], stop - count, stop, *map(events.get, ("time", "group", "rating")))


class _Ids(dict[str, int]):
    """External id to number, by first appearance; ValueError where the file says that there is none."""

    def __missing__(self, name: str) -> int:
        if (bare := name.strip()) in MISSING:
            raise ValueError("is no id")
        return self[bare] if bare != name else self.setdefault(name, len(self))


def _number(least: float, text: str) -> float:
    try:
        number = int(text) if text.isdigit() else float(text)
    except ValueError:
        number = float("nan")
    if least <= number < 2**63:  # not so NaN
        return int(number) if number == int(number) else number
    raise ValueError("is no valid number; expected a finite one, as time 0 or more")


def _date(text: str) -> int:
    """Read an ISO date as microseconds since 1970, of UTC where it names no zone."""
    with suppress(ValueError):
        text = re.sub(r" ?(Z|UTC)$", "+00:00", text.strip())  # Python 3.10 knows neither, and wants the colon
        date = datetime.fromisoformat(re.sub(r"([+-]\d\d)(\d\d)$", r"\1:\2", text))
        if (date := date.replace(tzinfo=date.tzinfo or timezone.utc)) >= EPOCH:
            return (date - EPOCH) // timedelta(microseconds=1)
    wanted = "expected such as 2014-04-07T10:51:09Z, from 1970 on"
    raise ValueError(f"is no valid date; {wanted}")
