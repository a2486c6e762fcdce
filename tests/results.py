"""Reads numbers out of bench/results/*.md, for what is held against them."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
NUMBER = re.compile(r"(?<![\w.])[+-]?(?:\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?|\.\d+)")


def numbers(text):
    """The numbers of a text: (as they are written, value)."""
    return [(token, float(token.replace(",", ""))) for token in NUMBER.findall(text)]


def result(name):
    return (ROOT / "bench" / "results" / f"{name}.md").read_text()


def table(name, *words):
    """The first table of a result with these words in its heading or first line: row -> column -> numbers.

    A column's name that comes again has a 2 behind it.
    """
    heading, before, columns, rows = "", "", None, {}
    for line in result(name).splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("#"):
            heading = line
        elif line.startswith("|") and columns and not line.startswith("|---"):
            values = [[value for _, value in numbers(cell)] for cell in cells]
            rows[cells[0]] = dict(zip(columns, values, strict=True))
        elif line.startswith("|") and not before.startswith("|"):
            if all(word in heading + line for word in words):
                columns = [cell + " 2" * (cell in cells[:i]) for i, cell in enumerate(cells)]
        elif rows and not line:
            break
        before = line
    return rows


def said(name, pattern):
    """The numbers of a result at a pattern's groups."""
    groups = re.search(pattern, result(name), re.S).groups()
    return [value for group in groups for _, value in numbers(group)]


def parts(row, *columns):
    """The first number of each column of a row."""
    return [row[column][0] for column in columns]


def apart(a, b, *columns):
    """How far two rows are apart, by column."""
    return [a[column][0] - b[column][0] for column in columns]
