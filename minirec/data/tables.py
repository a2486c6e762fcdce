"""Text files from strangers: lines, rows and columns, each error with its file and line.

A file is read as a stream, so an endless line or a packed bomb ends in an error and not in a full memory.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import zlib
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from minirec.errors import InputError, nearest

# The names by which a column is recognised when --columns is absent, compared in lower case.
COLUMNS = {
    "user": ("user", "user_id", "userid"),
    "item": ("item", "item_id", "itemid", "movieid", "movie_id"),
    "time": ("time", "timestamp"),
    "rating": ("rating",),
    "group": ("group", "invoice", "session"),
}
LINE_LIMIT = 10_000_000  # bytes


def kind(path: Path) -> str:
    """Return the suffix that says what a file is, a trailing ``.gz`` aside.

    >>> kind(Path("Beauty.txt.gz"))
    '.txt'
    """
    return Path(path.name.removesuffix(".gz")).suffix


def shown(text: str) -> str:
    """Quote a piece of input for an error message, shortened to 40 characters."""
    return repr(text if len(text) <= 40 else text[:37] + "...")


def lines(path: Path, limit: int = LINE_LIMIT) -> Iterator[str]:
    """Stream the lines of a UTF-8 text file; gzip is recognised by its first two bytes.

    Args:
        path: the file.
        limit: longest line, in bytes.

    Returns:
        The lines, each with its line end.

    Raises:
        InputError: the file cannot be opened, is not UTF-8 text, is damaged, or has an endless line.
    """
    done = 0
    try:
        with path.open("rb") as raw:
            packed = raw.peek(2)[:2] == b"\x1f\x8b"
            stream = BufferedReader(gzip.GzipFile(fileobj=raw)) if packed else raw
            while line := stream.readline(limit):
                if b"\0" in line:
                    raise InputError(f"{path}, line {done + 1}: a binary file; expected text in UTF-8")
                if len(line) == limit and not line.endswith(b"\n"):
                    raise InputError(
                        f"{path}, line {done + 1}: no line end within {limit:,} bytes; expected shorter lines"
                    )
                yield line.decode("utf-8" if done else "utf-8-sig")
                done += 1
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path}, after line {done}: the gzip data is damaged or cut off ({error}); fetch the file again"
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}, line {done + 1}, byte {error.start + 1}: not UTF-8; save the file as UTF-8"
        ) from None
    except OSError as error:  # missing, a directory, no permission
        raise InputError(f"{path}: {error.strerror or error}; expected a readable text file") from None


def rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Stream the rows of a table; the first is the header, and every row is as wide as it.

    Tab, comma or semicolon: whichever the header has most of. In RecBole's atomic files (``.inter``,
    ``.item``) quotes are letters, and the types in the header (``user_id:token``) are left out.

    Args:
        path: the file; blank lines are skipped.

    Returns:
        Pairs of the line number on which a row starts, and its fields.

    Raises:
        InputError: what ``lines`` raises, an empty file, a row of another width, or broken quotes.
    """
    text = lines(path)
    first = next(text, "")
    atomic = kind(path) in (".inter", ".item")
    reader = csv.reader(
        itertools.chain([first], text),
        delimiter=max("\t,;", key=first.count),
        quoting=csv.QUOTE_NONE if atomic else csv.QUOTE_MINIMAL,
        strict=True,
    )
    width, line = 0, 1
    try:
        for row in reader:
            if row and not width:
                width = len(row)
                yield line, [name.split(":")[0] if atomic else name.strip() for name in row]
            elif row and len(row) != width:
                raise InputError(
                    f"{path}, line {line}: {len(row)} columns; expected {width} as in the header"
                )
            elif row:
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}, line {line}: {error}; expected a csv row with matched quotes") from None
    if not width:
        raise InputError(f"{path}, line 1: the file is empty; expected a header and rows")


def named(columns: str) -> dict[str, str]:
    """Read the setting ``--columns``.

    Args:
        columns: ``role=name`` pairs separated by commas.

    Returns:
        Role to column name.

    Raises:
        InputError: not such pairs, or an unknown role.

    >>> named("user=who,item=what")
    {'user': 'who', 'item': 'what'}
    >>> named("users=who")
    Traceback (most recent call last):
    minirec.errors.InputError: --columns: unknown role 'users'; did you mean user?
    """
    pairs: dict[str, str] = {}
    for pair in filter(None, columns.split(",")):
        role, equals, name = (part.strip() for part in pair.partition("="))
        if not equals or not name:
            raise InputError(f"--columns: '{pair}' is no pair; for example user=user_id,item=item_id")
        if role not in COLUMNS:
            raise InputError(f"--columns: unknown role '{role}'{nearest(role, COLUMNS)}")
        pairs[role] = name
    return pairs


def positions(path: Path, header: list[str], columns: str) -> dict[str, int]:
    """Find the columns of a log.

    Args:
        path: the file, for messages.
        header: its column names.
        columns: the setting ``--columns``; when it is empty the names in ``COLUMNS`` are looked for.

    Returns:
        Role to position in the row; ``user`` and ``item`` are always there.

    Raises:
        InputError: a named column is missing, or no user or item column is found.

    >>> positions(Path("ratings.csv"), ["userId", "movieId", "rating", "timestamp"], "")
    {'user': 0, 'item': 1, 'time': 3, 'rating': 2}
    """
    found: dict[str, int] = {}
    for role, name in named(columns).items():
        if name not in header:
            raise InputError(f"{path}, line 1: no column '{name}' for {role}{nearest(name, header)}")
        found[role] = header.index(name)
    if not columns:
        lower = [name.lower() for name in header]
        for role, names in COLUMNS.items():
            there = [lower.index(name) for name in names if name in lower]
            if there:
                found[role] = there[0]
    for role in ("user", "item"):
        if role not in found:
            given = shown(", ".join(header))
            raise InputError(f"{path}, line 1: no {role} column in {given}; name it by --columns {role}=..")
    return found
