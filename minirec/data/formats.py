"""Logs of every format as one table: its columns, which of them have a role, its rows with their lines."""

import json
import re
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from minirec.data import tables
from minirec.data.catalogue import JSON_MOST
from minirec.errors import InputError

SAMPLE = 100  # rows by which columns without names are recognised, objects whose keys are columns
Rows = Iterator[tuple[int, list[str]]]

IDS, AMAZON = r"\d+ \d+", r"A[\dA-Z]{10,20} [\dA-Z]{10}"  # user and item
RATING, DATE = r"(-?\d(\.\d*)?|10(\.0*)?)", r"\d{4}-\d\d-\d\d([T ].*)?"
TIME = rf"([89]\d{{8}}(\.\d*)?|\d{{10,19}}(\.\d*)?|{DATE})"  # 8e8 seconds: the year 1995
LAYOUTS = {  # columns without names, by what all their rows hold; a person is asked for any other
    "user=0,item=1": IDS,
    "user=0,item=1,time=2": f"{IDS} {TIME}",
    "user=0,item=1,rating=2": f"{IDS} {RATING}",
    "user=0,item=1,rating=2,time=3": f"({IDS}|{AMAZON}) {RATING} {TIME}",
    "user=1,item=0,rating=2,time=3": f"[\\dA-Z]{{10}} A[\\dA-Z]{{10,20}} {RATING} {TIME}",  # Amazon, later
}


def table(path: Path, columns: str = "") -> tuple[list[str], dict[str, int], Rows, list[str]]:
    """Open a log: its columns, role to place, rows with lines, notes; InputError if broken or unclear."""
    notes, rows = [], _reader(path, columns)
    _, header = next(rows)
    given, value = tables.named(columns).values(), rf"-?\d[\d.e+]*|{DATE}"
    position = any(name.isdigit() and name not in header for name in given)
    if not tables.recognised(header) and (position or any(re.fullmatch(value, cell) for cell in header)):
        sample = [(1, header), *islice(rows, SAMPLE - 1)]
        columns, rows = _by_position(path, [row for _, row in sample], columns), chain(sample, rows)
        header = [str(at) for at in range(len(header))]
        notes = [f"no names of columns, so the first line is an event; taken by position: {columns}"]
    where = tables.positions(path, header, columns)
    user, item = header[where["user"]], header[where["item"]]
    if (past := f"{item}_list") in header:  # RecBole's
        notes = [f"of each user the longest row is taken, '{past}' and then '{item}'"]
        longest: dict[str, tuple[int, list[str]]] = {}
        for line, row in rows:
            name, items = row[where["user"]], [*row[header.index(past)].split(), row[where["item"]]]
            if len(items) >= len(longest.get(name, (0, []))[1]):
                longest[name] = line, items
        rows = ((line, [name, item]) for name, (line, items) in longest.items() for item in items)
        header, where = [user, item], {"user": 0, "item": 1}
    return header, where, rows, notes


def _reader(path: Path, columns: str) -> Rows:
    """The rows of a file, first those of its columns' names, or of its first event."""
    if tables.kind(path) == ".parquet":
        return _keyed(_parquet(path))
    if path.name.removesuffix(".gz").endswith(".inter.json"):  # MiniOneRec's: user to items in order
        users = _object(path, 1, "".join(tables.lines(path, JSON_MOST, JSON_MOST)))
        if not all(isinstance(items, list) for items in users.values()):
            raise InputError(f"{path}: expected an object of user to list of items")
        return _keyed((1, {"user": user, "item": item}) for user, items in users.items() for item in items)
    first = next(filter(str.strip, tables.lines(path)), "")
    if first.lstrip().startswith(("{", "[")):
        texts = ((line, text) for line, text in enumerate(tables.lines(path), 1) if text.strip())
        return _keyed((line, _object(path, line, text, _flat)) for line, text in texts)
    is_table = re.search(r"[\t,;]|::|:token|^$", first) or tables.recognised(first.split())
    return tables.rows(path) if columns or is_table else _sequences(path)


def _by_position(path: Path, sample: list[list[str]], columns: str) -> str:
    """Complete the setting ``columns`` for columns without names; InputError if no layout is sure."""
    first, given, texts = sample[0], tables.named(columns), [" ".join(map(str.strip, row)) for row in sample]
    sure = [layout for layout, form in LAYOUTS.items() if all(re.fullmatch(form, text) for text in texts)]
    free = [at for at in range(len(first)) if str(at) not in given.values()]
    time = [at for at in free if re.fullmatch(TIME, first[at])][-1:]
    ids = [at for at in range(len(first)) if at not in time][:2]
    (layout,) = sure or [",".join(map("{}={}".format, ("user", "item", "time"), ids + time))]
    if not (sure or given.keys() >= {"user", "item"}):
        values = ", ".join(f"{at} is {tables.shown(cell)}" for at, cell in enumerate(first[:8]))
        fault = f"values and no names ({values}); name columns by position, as in --columns {layout}"
        raise InputError(f"{path}, line 1: {fault}")
    free_roles = {role: at for role, at in tables.named(layout).items() if at not in given.values()}
    return ",".join(f"{role}={at}" for role, at in (free_roles | given).items())


def _sequences(path: Path) -> Rows:
    """Stream the events of lines of a user and items as the rows of a table."""
    users: set[str] = set()
    several = again = False
    yield 1, ["user", "item"]
    rows = ((line, words) for line, text in enumerate(tables.lines(path), 1) if (words := text.split()))
    for line, (user, *items) in rows:
        several, again = several or len(items) > 1, again or user in users
        if not items or (several and again):
            fault = "has several lines, and lines have several items" if items else "has no items"
            wanted = "expected lines of a user and items, or of an event, or --columns user=0,item=1,time=2"
            raise InputError(f"{path}, line {line}: user {tables.shown(user)} {fault}; {wanted}")
        users.add(user)
        yield from ((line, [user, item]) for item in items)


def _object(path: Path, line: int, text: str, make: Callable = dict) -> dict:
    try:
        return {**json.loads(text, object_pairs_hook=make)}
    except (ValueError, TypeError, RecursionError) as error:  # the last two: no object, nested too deeply
        raise InputError(f"{path}, line {line}: {error}; expected a json object, one a line") from None


def _flat(pairs: list[tuple[str, Any]]) -> dict:
    """Make an object of its pairs, in which what inner objects hold has names such as ``key.key``."""
    parts = ((f"{key}.", part) if isinstance(part, dict) else (key, {"": part}) for key, part in pairs)
    return {key + name: inner for key, part in parts for name, inner in part.items()}


def _keyed(objects: Iterator[tuple[int, dict]]) -> Rows:
    """Stream objects as the rows of a table; what one does not have is empty."""
    sample = list(islice(objects, SAMPLE))
    header = list(dict.fromkeys(name for _, row in sample for name in row))
    yield 1, header
    yield from ((line, [str(row.get(name, "")) for name in header]) for line, row in chain(sample, objects))


def _parquet(path: Path) -> Iterator[tuple[int, dict]]:
    try:
        from pyarrow import ArrowException, parquet

        file = parquet.ParquetFile(path)
        rows = (row for batch in file.iter_batches() for row in batch.to_pylist())
        yield from enumerate(tqdm(rows, path.name, file.metadata.num_rows, unit=" rows", **tables.BAR), 1)
    except ImportError:
        raise InputError(f"{path}: parquet is read by pyarrow; pip install pyarrow") from None
    except (ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path}: {str(error).splitlines()[0]}; expected a parquet file") from None
