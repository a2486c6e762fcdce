"""Text files from strangers, read as streams: lines, rows and columns; each error names its file and line."""

import csv
import gzip
import itertools
import math
import zlib
from collections.abc import Iterable, Iterator
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

LONGEST = 10_000_000  # bytes of a line, letters of a field


def kind(path: Path) -> str:
    """Return the suffix that says what a file is, such as ``.txt`` of ``Beauty.txt.gz``."""
    return Path(path.name.removesuffix(".gz")).suffix


def shown(text: str) -> str:
    """Quote a piece of input for an error message, shortened to 40 characters."""
    return repr(text if len(text) <= 40 else text[:37] + "...")


def lines(path: Path, limit: int = LONGEST, most: float = math.inf) -> Iterator[str]:
    """Stream the lines with their ends of a UTF-8 file, gzipped or not.

    Raises InputError if it is broken, if a line has no end within ``limit`` bytes, or if all lines together,
    unpacked, are over ``most`` bytes.
    """
    number = size = 0
    try:
        with path.open("rb") as raw:
            stream = BufferedReader(gzip.GzipFile(fileobj=raw)) if raw.peek(2)[:2] == b"\x1f\x8b" else raw
            for number, line in enumerate(iter(lambda: stream.readline(limit), b""), start=1):
                if b"\0" in line:
                    raise InputError(f"{path}, line {number}: a binary file; expected text in UTF-8")
                if len(line) == limit and not line.endswith(b"\n"):
                    raise InputError(f"{path}, line {number}: over {limit:,} bytes; expected shorter lines")
                if (size := size + len(line)) > most:
                    raise InputError(f"{path}: over {most:,} bytes when unpacked; expected a smaller file")
                yield line.decode("utf-8" if number > 1 else "utf-8-sig")
        return
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        fault = f", after line {number}: the gzip data is damaged or cut off ({error}); fetch the file again"
    except UnicodeDecodeError as error:
        fault = f", line {number}, byte {error.start + 1}: not UTF-8; save the file as UTF-8"
    except OSError as error:  # missing, a directory, no permission
        fault = f": {error.strerror or error}; expected a readable text file"
    raise InputError(f"{path}{fault}")


def rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Stream the rows of a table, header first, each with the line on which it starts; skip blank lines.

    The delimiter is what line 1 has most of: tab, comma or semicolon. In RecBole's ``.inter`` and ``.item``
    quotes are letters, and types (``id:token``) are cut. Raises InputError if broken or empty.
    """
    text = lines(path)
    first = next(text, "")
    if "\r" in first.rstrip("\r\n"):
        raise InputError(f"{path}, line 1: lines end in CR alone; save the file with LF or CR LF")
    csv.field_size_limit(LONGEST)
    atomic = kind(path) in (".inter", ".item")
    delimiter = max("\t,;", key=first.count)
    quoting = csv.QUOTE_NONE if atomic else csv.QUOTE_MINIMAL
    reader = csv.reader(itertools.chain([first], text), delimiter=delimiter, quoting=quoting, strict=True)
    width, line = 0, 1
    try:
        for row in reader:
            if row and not width:
                width, row = len(row), [name.split(":")[0] if atomic else name.strip() for name in row]
            if row and len(row) != width:
                raise InputError(f"{path}, line {line}: {len(row)} columns; expected {width} like the header")
            if row:
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}, line {line}: {error}; expected a csv row with matched quotes") from None
    if not width:
        raise InputError(f"{path}, line 1: the file is empty; expected a header and rows")


def named(columns: str) -> dict[str, str]:
    """Read the setting ``--columns``, pairs ``role=name`` separated by commas: role to column name.

    >>> named("user=who,item=what")
    {'user': 'who', 'item': 'what'}
    >>> named("users=who")
    Traceback (most recent call last):
    minirec.errors.InputError: --columns: unknown role 'users'; did you mean user?
    """
    pairs: dict[str, str] = {}
    for pair in filter(None, columns.split(",")):
        role, _, name = (part.strip() for part in pair.partition("="))
        if not name:
            raise InputError(f"--columns: '{pair}' is no pair; for example user=user_id,item=item_id")
        if role not in COLUMNS:
            raise InputError(f"--columns: unknown role '{role}'{nearest(role, COLUMNS)}")
        pairs[role] = name
    return pairs


def find(names: Iterable[str], header: list[str]) -> int | None:
    """Find the position of the first name that a header has, whatever the case; None if it has none."""
    lower = [column.lower() for column in header]
    return next((lower.index(name.lower()) for name in names if name.lower() in lower), None)


def positions(path: Path, header: list[str], columns: str) -> dict[str, int]:
    """Find the columns of a log, by the setting ``columns`` or else ``COLUMNS``: role to position in the row.

    Raises InputError if a named column is missing, or if there is no user or item column.

    >>> positions(Path("ratings.csv"), ["userId", "movieId", "rating", "timestamp"], "")
    {'user': 0, 'item': 1, 'time': 3, 'rating': 2}
    """
    found = {role: find(names, header) for role, names in COLUMNS.items()}
    wanted = named(columns) or {role: header[at] for role, at in found.items() if at is not None}
    for role, name in wanted.items():
        if name not in header:
            raise InputError(f"{path}, line 1: no column '{name}' for {role}{nearest(name, header)}")
        if header.count(name) > 1:
            raise InputError(f"{path}, line 1: several columns are called '{name}'; rename all but one")
    for role in ("user", "item"):
        if role not in wanted:
            given = shown(", ".join(header))
            raise InputError(f"{path}, line 1: no {role} column in {given}; name it by --columns {role}=..")
    return {role: header.index(name) for role, name in wanted.items()}
