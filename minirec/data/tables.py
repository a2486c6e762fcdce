"""Files from strangers, read as streams: lines, rows and columns; logs of every format are one table.

Each error names its file and line.
"""

import csv
import gzip
import json
import math
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from io import BufferedReader
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from minirec.errors import InputError, nearest

# The names by which a column is recognised, compared in lower case; of several, the first that a log has.
COLUMNS = {
    "user": ("user", "user_id", "userid", "visitorid", "reviewerid"),
    "item": ("item", "item_id", "itemid", "movieid", "movie_id", "parent_asin", "asin", "business_id"),
    "rating": ("rating", "stars", "overall"),
    "group": ("group", "invoice", "session", "session_id", "sessionid"),
    "time": ("time", "timestamp", "unixreviewtime", "timeframe", "date", "event_time", "created_at"),
}

LONGEST = 10_000_000  # bytes of a line, letters of a field
JSON_MOST = 1 << 26  # bytes of a json, unpacked; as objects they take up to thirty times that
BAR = {"delay": 2, "leave": False, "disable": None}  # of the progress of reading
SAMPLE = 100  # rows by which columns without names are recognised, objects whose keys are columns
Rows = Iterator[tuple[int, list[str]]]  # each with the line on which it starts

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


def kind(path: Path) -> str:
    """Return the suffix that says what a file is, such as ``.txt`` of ``Beauty.txt.gz``."""
    return Path(path.name.removesuffix(".gz").removesuffix(".zip")).suffix


def shown(text: str) -> str:
    """Quote a piece of input for an error message, shortened to 40 characters."""
    return repr(text if len(text) <= 40 else text[:37] + "...")


def lines(path: Path, limit: int = LONGEST, most: float = math.inf) -> Iterator[str]:
    """Stream the lines with their ends of a UTF-8 file, as it is, gzipped, or alone in a zip; show progress.

    Raises InputError if it is broken, if a line is over ``limit`` bytes, or all, unpacked, over ``most``.
    """
    number = size = 0
    try:
        with path.open("rb") as raw, tqdm(desc=path.name, unit="B", unit_scale=True, **BAR) as bar:
            stream, bar.total, start = raw, os.fstat(raw.fileno()).st_size, raw.peek(4)[:4]
            if start[:2] == b"\x1f\x8b":
                stream = BufferedReader(gzip.GzipFile(fileobj=raw))
            elif start == b"PK\3\4":
                archive = zipfile.ZipFile(raw)
                names = [n for n in archive.namelist() if n[-1] != "/" and not n.startswith("__MACOSX")]
                if len(names) != 1:
                    among = ", ".join(names[:20])
                    raise InputError(f"{path}: a zip of several files; unpack the log from among {among}")
                stream = archive.open(names[0])
            for number, line in enumerate(iter(lambda: stream.readline(limit), b""), start=1):
                if b"\0" in line:
                    raise InputError(f"{path}, line {number}: binary, or UTF-16 (iconv -f UTF-16 converts)")
                if len(line) == limit and not line.endswith(b"\n"):
                    raise InputError(f"{path}, line {number}: over {limit:,} bytes; expected shorter lines")
                if (size := size + len(line)) > most:
                    raise InputError(f"{path}: over {most:,} bytes when unpacked; expected a smaller file")
                if number % 4096 == 0:
                    bar.update(raw.tell() - bar.n)
                yield line.decode("utf-8" if number > 1 else "utf-8-sig")
        return
    except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, RuntimeError) as error:
        fault = f", after line {number}: packed data is damaged or cut off ({error}); fetch the file again"
    except UnicodeDecodeError as error:
        fault = f", line {number}, byte {error.start + 1}: not UTF-8; save the file as UTF-8"
    except OSError as error:  # missing, a directory, no permission
        fault = f": {error.strerror or error}; expected a readable text file"
    raise InputError(f"{path}{fault}")


def rows(path: Path) -> Rows:
    """Stream the rows of a table, header first; skip blank lines.

    What the first row has most of separates columns: tab, comma, semicolon, ``::``, or else a space. A quote
    in quotes is doubled, or a backslash precedes it. With ``::`` and in RecBole's ``.inter`` and ``.item``,
    whose types (``id:token``) are cut, quotes are letters. Raises InputError if broken or empty.
    """
    first, text = next(filter(str.strip, lines(path)), ""), lines(path)
    if "\r" in first.rstrip("\r\n"):
        raise InputError(f"{path}, line 1: lines end in CR alone; save the file with LF or CR LF")
    csv.field_size_limit(LONGEST)
    if (atomic := kind(path) in (".inter", ".item")) and "\t" not in first and " " in first:
        raise InputError(f"{path}, line 1: no tab in {shown(first)}; {kind(path)} is separated by tabs")
    delimiter = next(filter(first.count, sorted(("\t", ",", ";", "::"), key=first.count, reverse=True)), " ")
    if double := delimiter == "::":  # csv knows delimiters of one letter
        text, delimiter = (line.replace("::", "\t") for line in text), "\t"
    elif not atomic:  # but a backslash before a quote that ends a field is a letter
        escape = re.compile(rf'\\"(?!{delimiter}(?! )|\r?\n|$)')
        text = (escape.sub('""', line) if '\\"' in line else line for line in text)
    quoting, width, line = csv.QUOTE_NONE if atomic or double else csv.QUOTE_MINIMAL, 0, 1
    reader = csv.reader(text, delimiter=delimiter, quoting=quoting, strict=True)
    try:
        for row in reader:
            if not width and "".join(row).strip():
                width, row = len(row), [name.split(":")[0] if atomic else name.strip() for name in row]
            if width and row and len(row) != width:
                raise InputError(f"{path}, line {line}: {len(row)} columns; expected {width} as before")
            if width and row:
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}, line {line}: {error}; expected a csv row with matched quotes") from None
    if not width:
        raise InputError(f"{path}, line 1: the file is empty; expected a header and rows")


def named(columns: str) -> dict[str, str]:
    """Read the setting ``--columns``, pairs ``role=name`` separated by commas: role to column name."""
    pairs: dict[str, str] = {}
    for pair in filter(None, columns.split(",")):
        role, equals, name = map(str.strip, pair.partition("="))
        if not (name or (equals and role not in ("user", "item"))):
            raise InputError(f"--columns: '{pair}' is no pair; for example user=user_id,item=item_id")
        if role not in COLUMNS:
            raise InputError(f"--columns: unknown role '{role}'{nearest(role, COLUMNS)}")
        pairs[role] = name
    return pairs


def find(names: Iterable[str], header: list[str]) -> int | None:
    """Find the position of the first name that a header has, whatever the case; None if it has none."""
    lower = [column.lower() for column in header]
    return next((lower.index(name.lower()) for name in names if name.lower() in lower), None)


def recognised(header: list[str], columns: str = "") -> dict[str, str]:
    """Find the columns that ``COLUMNS`` knows and the setting ``columns`` does not name: role to name."""
    free = [name for name in header if name not in named(columns).values()]
    return {role: free[at] for role, names in COLUMNS.items() if (at := find(names, free)) is not None}


def positions(path: Path, header: list[str], columns: str) -> dict[str, int]:
    """Find a log's columns, named or in ``COLUMNS``: role to place. InputError if there is no such column."""
    wanted = recognised(header, columns) | named(columns)
    wanted = {role: wanted[role] for role in COLUMNS if wanted.get(role)}
    for role, name in wanted.items():
        if name not in header:
            raise InputError(f"{path}, line 1: no column '{name}' for {role}{nearest(name, header)}")
        if header.count(name) > 1:
            raise InputError(f"{path}, line 1: several columns are called '{name}'; rename all but one")
    for role, other in {"user": wanted.get("group", ".."), "item": ".."}.items():  # sessions may be users
        if role not in wanted:
            fault = f"no {role} column in {shown(', '.join(header))}; name it by --columns {role}={other}"
            raise InputError(f"{path}, line 1: {fault}")
    return {role: header.index(name) for role, name in wanted.items()}


def table(path: Path, columns: str = "") -> tuple[list[str], dict[str, int], Rows, list[str]]:
    """Open a log: its columns, role to place, rows with lines, notes; InputError if broken or unclear."""
    notes, rows = [], _reader(path, columns)
    _, header = next(rows)
    given, value = named(columns).values(), rf"-?\d[\d.e+]*|{DATE}"
    position = any(name.isdigit() and name not in header for name in given)
    if not recognised(header) and (position or any(re.fullmatch(value, cell) for cell in header)):
        sample = [(1, header), *islice(rows, SAMPLE - 1)]
        columns, rows = _by_position(path, [row for _, row in sample], columns), chain(sample, rows)
        header = [str(at) for at in range(len(header))]
        notes = [f"no names of columns, so the first line is an event; taken by position: {columns}"]
    where = positions(path, header, columns)
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
    if kind(path) == ".parquet":
        return _keyed(_parquet(path))
    if path.name.removesuffix(".gz").endswith(".inter.json"):  # MiniOneRec's: user to items in order
        users = _object(path, 1, "".join(lines(path, JSON_MOST, JSON_MOST)))
        if not all(isinstance(items, list) for items in users.values()):
            raise InputError(f"{path}: expected an object of user to list of items")
        return _keyed((1, {"user": user, "item": item}) for user, items in users.items() for item in items)
    first = next(filter(str.strip, lines(path)), "")
    if first.lstrip().startswith(("{", "[")):
        texts = ((line, text) for line, text in enumerate(lines(path), 1) if text.strip())
        return _keyed((line, _object(path, line, text, _flat)) for line, text in texts)
    is_table = re.search(r"[\t,;]|::|:token|^$", first) or recognised(first.split())
    return rows(path) if columns or is_table else _sequences(path)


def _by_position(path: Path, sample: list[list[str]], columns: str) -> str:
    """Complete the setting ``columns`` for columns without names; InputError if no layout is sure."""
    first, given, texts = sample[0], named(columns), [" ".join(map(str.strip, row)) for row in sample]
    sure = [layout for layout, form in LAYOUTS.items() if all(re.fullmatch(form, text) for text in texts)]
    free = [at for at in range(len(first)) if str(at) not in given.values()]
    time = [at for at in free if re.fullmatch(TIME, first[at])][-1:]
    ids = [at for at in range(len(first)) if at not in time][:2]
    (layout,) = sure or [",".join(map("{}={}".format, ("user", "item", "time"), ids + time))]
    if not (sure or given.keys() >= {"user", "item"}):
        values = ", ".join(f"{at} is {shown(cell)}" for at, cell in enumerate(first[:8]))
        fault = f"values and no names ({values}); name columns by position, as in --columns {layout}"
        raise InputError(f"{path}, line 1: {fault}")
    free_roles = {role: at for role, at in named(layout).items() if at not in given.values()}
    return ",".join(f"{role}={at}" for role, at in (free_roles | given).items())


def _sequences(path: Path) -> Rows:
    """Stream the events of lines of a user and items as the rows of a table."""
    users: set[str] = set()
    several = again = False
    yield 1, ["user", "item"]
    rows = ((line, words) for line, text in enumerate(lines(path), 1) if (words := text.split()))
    for line, (user, *items) in rows:
        several, again = several or len(items) > 1, again or user in users
        if not items or (several and again):
            fault = "has several lines, and lines have several items" if items else "has no items"
            wanted = "expected lines of a user and items, or of an event, or --columns user=0,item=1,time=2"
            raise InputError(f"{path}, line {line}: user {shown(user)} {fault}; {wanted}")
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
        yield from enumerate(tqdm(rows, path.name, file.metadata.num_rows, unit=" rows", **BAR), 1)
    except ImportError:
        raise InputError(f"{path}: parquet is read by pyarrow; pip install pyarrow") from None
    except (ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path}: {str(error).splitlines()[0]}; expected a parquet file") from None
