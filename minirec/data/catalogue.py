"""What is known of the items besides the log: titles, topics, and attributes as vectors."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from minirec.data.dataset import Catalogue
from minirec.data.tables import COLUMNS, kind, lines, named, rows
from minirec.errors import InputError
from minirec.records import PAD

TITLES = ("title", "movie_title", "name", "description")  # the first that a table has is shown to people
TOPICS = ("genres", "genre", "topics", "topic", "categories", "category")  # columns
TEXT = "description"  # free text: every word is an attribute
VOCABULARY = 2000  # attributes kept, the most frequent first
JSON_LIMIT = 1 << 30  # bytes; a json file is often one single line

Attributes = dict[str, set[str]]  # external item id to its attributes


def describe(ids: list[str], path: Path | None = None, columns: str = "") -> Catalogue:
    """Make the catalogue of a log, with the side information of a file where there is one.

    Args:
        ids: N external item ids.
        path: a json of item to a list of attributes, or a csv with a row per item; either gzipped or not.
            In a csv a title (or else a description) is the item's title, each word of a description is an
            attribute, and so is each value of the other columns, values separated by ``|``. The values of
            the columns in ``TOPICS`` are the item's topics too.
        columns: the setting ``--columns``, for the name of the item column; by default it is one of
            ``COLUMNS["item"]``, or the first column.

    Returns:
        A Catalogue; an item that the file lacks keeps its id as title and a zero vector.

    Raises:
        InputError: the file is broken, or knows none of the items.
    """
    if path is None:
        return Catalogue(ids)
    titles: dict[str, str] = {}
    attributes = _from_json(path) if kind(path) == ".json" else _from_table(path, columns, titles)
    if not any(item in attributes for item in ids):
        raise InputError(
            f"{path}: knows none of the log's {len(ids):,} items; expected ids such as '{ids[0]}' in "
            + ("its keys" if kind(path) == ".json" else "its item column")
        )
    known = [attributes.get(item, set()) for item in ids]
    shown = [titles.get(item, item) for item in ids] if titles else None
    return Catalogue(ids, shown, features(known), topics(known))


def topics(attributes: list[set[str]]) -> Tensor | None:
    """Number the topics among the items' attributes, such as ``genres=Drama``, in alphabetical order.

    Args:
        attributes: N sets.

    Returns:
        (N, n) int64, padded with PAD; None when no column in ``TOPICS`` is among them.

    >>> topics([{"genre=war", "genre=drama"}, {"year=1990"}, {"genre=war"}])
    tensor([[ 0,  1],
            [-1, -1],
            [ 1, -1]])
    """
    own = [sorted(name for name in names if name.partition("=")[0].lower() in TOPICS) for names in attributes]
    number = {name: i for i, name in enumerate(sorted(set().union(*own)))}
    width = max(map(len, own))
    rows = [[number[name] for name in names] + [PAD] * (width - len(names)) for names in own]
    return torch.tensor(rows) if number else None


def features(attributes: list[set[str]]) -> Tensor | None:
    """Turn sets of attributes into vectors: multi-hot, weighted by idf, of unit length.

    Args:
        attributes: N sets; an attribute counts when at least two items have it, and the ``VOCABULARY`` most
            frequent are kept, equal ones in alphabetical order.

    Returns:
        (N, F) float32, a zero row where nothing is known; None when no two items share an attribute.

    Source: definition; idf = log(items with attributes / items with this attribute).

    >>> features([{"red", "wool"}, {"red", "silk"}, {"wool"}, set()])
    tensor([[0.7071, 0.7071],
            [1.0000, 0.0000],
            [0.0000, 1.0000],
            [0.0000, 0.0000]])
    """
    counts = Counter(name for names in attributes for name in names)
    shared = sorted((name for name in counts if counts[name] > 1), key=lambda name: (-counts[name], name))
    vocabulary = {name: column for column, name in enumerate(shared[:VOCABULARY])}
    if not vocabulary:
        return None
    described = sum(bool(names) for names in attributes)
    idf = np.log(described / np.array([counts[name] for name in vocabulary]))  # (F,)
    vectors = np.zeros((len(attributes), len(vocabulary)), dtype=np.float32)  # (N, F)
    for row, names in enumerate(attributes):
        known = sorted(vocabulary[name] for name in names if name in vocabulary)
        length = np.linalg.norm(idf[known])
        if length > 0:  # an attribute that every item has says nothing: its idf is 0
            vectors[row, known] = idf[known] / length
    return torch.from_numpy(vectors)


def _from_json(path: Path) -> Attributes:
    try:
        content = json.loads("".join(lines(path, JSON_LIMIT)))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}, line {error.lineno}, column {error.colno}: {error.msg}; expected json"
        ) from None
    except RecursionError:
        raise InputError(f"{path}, line 1: nested too deeply; expected an object of item to list") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}, line 1: expected an object of item to list, got {type(content).__name__}")
    for item, values in content.items():
        if not isinstance(values, list) or not all(isinstance(value, (str, int)) for value in values):
            raise InputError(f"{path}, item '{item}': expected a list of words or numbers")
    return {item: {str(value) for value in values} for item, values in content.items()}


def _from_table(path: Path, columns: str, titles: dict[str, str]) -> Attributes:
    table = rows(path)
    _, header = next(table)
    lower = [name.lower() for name in header]
    wanted = (named(columns).get("item", "").lower(), *COLUMNS["item"])
    key = next((lower.index(name) for name in wanted if name in lower), 0)
    title = next((lower.index(name) for name in TITLES if name in lower), None)
    attributes: Attributes = {}
    for line, row in table:
        if not row[key]:
            raise InputError(f"{path}, line {line}, column '{header[key]}': empty; expected an item id")
        own = attributes.setdefault(row[key], set())
        if title is not None and row[title]:
            titles.setdefault(row[key], row[title])
        for position, value in enumerate(row):
            if lower[position] == TEXT:
                own.update(re.findall(r"\w+", value.lower()))
            elif position not in (key, title):
                own.update(f"{header[position]}={part}" for part in value.split("|") if part)
    return attributes
