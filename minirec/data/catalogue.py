"""What is known of the items besides the log: titles, topics, and attributes as vectors."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minirec.data import tables
from minirec.data.dataset import Catalogue
from minirec.errors import InputError
from minirec.records import PAD

TITLES = ("title", "movie_title", "name", "description")  # the first that a table has is shown to people
TOPICS = ("genres", "genre", "class", "topics", "topic", "categories", "category")  # columns
VOCABULARY = 2000  # attributes kept, the most frequent first


def make_catalogue(ids: list[str], path: Path | None = None, columns: str = "") -> Catalogue:
    """Make the catalogue of N external item ids, with the side information of a file where there is one.

    It is a json of item to a list of attributes, or to named values, or a table, whose item column is named
    by ``columns``, one of ``COLUMNS["item"]``, or the first. Words of a description are attributes, as are
    parts of other values, between ``|``, or spaces in a token_seq. InputError if broken or about other items.
    """
    if path is None:
        return Catalogue(ids)
    attributes, titles = _attributes(path, columns)
    if attributes.keys().isdisjoint(ids):
        wanted = f"ids such as '{ids[0]}' in its item column, or in the keys of a json"
        raise InputError(f"{path}: knows none of the log's {len(ids):,} items; expected {wanted}")
    known = [attributes.get(item, set()) for item in ids]
    shown = [titles.get(item, item) for item in ids] if titles else None
    return Catalogue(ids, shown, features(known), topics(known))


def topics(attributes: list[set[str]]) -> torch.Tensor | None:
    """Number N items' topics, such as ``genres=Drama``, by alphabet: (N, n) int64 with PAD; None if none."""
    chosen = [sorted(a for a in names if a.partition("=")[0].lower() in TOPICS) for names in attributes]
    number = {name: i for i, name in enumerate(sorted(set().union(*chosen)))}
    rows = [torch.tensor([number[name] for name in names]).long() for names in chosen]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD) if number else None


def features(attributes: list[set[str]]) -> torch.Tensor | None:
    """Turn the attributes of N items into vectors: multi-hot, weighted by idf, of unit length.

    Of the attributes that two items or more have, the ``VOCABULARY`` most frequent are kept. Returns (N, F)
    float32, a zero row where nothing is known; None when there is no such attribute. Source: definition.
    """
    counts = Counter(name for names in attributes for name in names)
    shared = sorted((name for name in counts if counts[name] > 1), key=lambda name: (-counts[name], name))
    vocabulary = {name: column for column, name in enumerate(shared[:VOCABULARY])}
    idf = np.log(sum(map(bool, attributes)) / np.array([counts[name] for name in vocabulary]))  # (F,)
    vectors = np.zeros((len(attributes), len(vocabulary)), dtype=np.float32)  # (N, F)
    for row, names in enumerate(attributes):
        known = sorted(vocabulary[name] for name in names if name in vocabulary)
        if (length := np.linalg.norm(idf[known])) > 0:  # an attribute that every item has has the idf 0
            vectors[row, known] = idf[known] / length
    return torch.from_numpy(vectors) if vocabulary else None


def read_json(path: Path) -> dict[str, Any]:
    """Read a json, an object of item to list; InputError if it is broken or no object."""
    try:
        content = json.loads("".join(tables.lines(path, tables.JSON_MOST, tables.JSON_MOST)))
    except (json.JSONDecodeError, RecursionError) as error:  # the second: nested too deeply
        raise InputError(f"{path}: {error}; expected json, an object of item to list") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}, line 1: expected an object of item to list, got {type(content).__name__}")
    return content


def words(path: Path, item: str, value: Any) -> list[str]:
    """The words and numbers of a list in a json; InputError if it is none."""
    if not isinstance(value, list) or not all(isinstance(part, (str, int, float)) for part in value):
        raise InputError(f"{path}, item '{item}': expected a list of words or numbers")
    return list(map(str, value))


def _from_json(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Stream a json of item to list, or to named values, as the rows of a table."""
    content = {}
    for item, value in read_json(path).items():
        named = value if isinstance(value, dict) else {"": words(path, item, value)}
        lists = {name: v if isinstance(v, list) else [v] for name, v in named.items() if v is not None}
        content[item] = {name: "|".join(words(path, item, v)) for name, v in lists.items()}
    names = list(dict.fromkeys(name for cells in content.values() for name in cells))
    yield 1, ["item", *names]
    yield from ((1, [item, *(cells.get(name, "") for name in names)]) for item, cells in content.items())


def _attributes(path: Path, columns: str) -> tuple[dict[str, set[str]], dict[str, str]]:
    """Read the attributes and the titles of a table's items; its rows of one item add up."""
    if tables.kind(path) == ".user":
        raise InputError(f"{path}: RecBole's table of users; expected that of items, .item")
    table = _from_json(path) if tables.kind(path) == ".json" else tables.rows(path)
    _, header = next(table)
    key = tables.find([tables.named(columns).get("item", "item"), *tables.COLUMNS["item"]], header) or 0
    title = tables.find(TITLES, header)
    types = next(tables.lines(path)).split("\t") if tables.kind(path) == ".item" else []
    spaced = {name.split(":")[0] for name in types if name.strip().endswith(":token_seq")}
    attributes, titles = defaultdict(set), {}
    for line, row in table:
        if not (item := row[key]):
            raise InputError(f"{path}, line {line}, column '{header[key]}': empty; expected an item id")
        known = attributes[item]
        if title is not None and row[title]:
            titles.setdefault(item, row[title])
        for position, (name, value) in enumerate(zip(header, row, strict=True)):
            if name.lower() == "description":  # free text: every word is an attribute
                known.update(re.findall(r"\w+", value.lower()))
            elif position not in (key, title):
                parts = value.split(" " if name in spaced else "|")
                known.update(f"{name}={part}" for part in parts if part)
    return attributes, titles
