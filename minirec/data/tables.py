"""Text files from strangers, read as streams: lines, rows and columns; each error names its file and line."""

import csv
import gzip
import math
import os
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path

from tqdm import tqdm

from minirec.errors import InputError, nearest

# The names by which a column is recognised, compared in lower case; of several, the first that a log has.
COLUMNS = {
    "user": ("user", "user_id", "userid", "visitorid", "reviewerid"),
    "item": ("item", "item_id", "itemid", "movieid", "movie_id", "parent_asin", "asin", "business_id"),
    "rating": ("rating", "stars", "overall"),
    "group": ("group", "invoice", "session", "session_id", "sessionid"),
    "time": ("time", "timestamp", "unixreviewtime", "timeframe", "date"),
}

LONGEST = 10_000_000  # bytes of a line, letters of a field
BAR = {"delay": 2, "leave": False, "disable": None}  # of the progress of reading


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


def rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Stream the rows of a table, header first, each with the line on which it starts; skip blank lines.

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
