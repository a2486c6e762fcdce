"""The end of a run: a table for the terminal, report.md for people, report.json for programs.

The rows stand in the order of the results, floors first. Where a floor or SASRec is above the supervised
policy on ndcg@10 or recall@10, a sentence says so.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from minirec.files import atomic
from minirec.measure.evaluation import Result, summary
from minirec.measure.metrics import DEFINITIONS, paired_bootstrap
from minirec.measure.pictures import pictures
from minirec.objectives import OBJECTIVES
from minirec.records import Dataset
from minirec.run.arms import Reinforced, title
from minirec.settings import Config

Row = dict[str, Any]

RANKING = ["hr@10", "recall@5", "ndcg@5", "recall@10", "ndcg@10", "mrr@10", "recall@50"]
MAIN = ["method", *RANKING, "coverage@10", "hallucination"]
SLICES = ["head recall@10", "mid recall@10", "tail recall@10", "tied recall@10", "tied ndcg@10"]
MORE = ["method", *SLICES, "pass@10", "pass@50"]
COMPARED = ("ndcg@10", "recall@10")
DIFFERENCE = ["method", "minus", "metric", "difference", "low", "high"]
SUPERVISED, CONTINUED, TRUTH = "supervised", title("continued"), "true law"
LISTS_SAY = "ndcg@5 of rankings of closed candidate sets, by need; the last need was held out of training"


def rows(results: dict[str, Result], split: str) -> list[Row]:
    """Summarise results.

    Args:
        results: by method name.
        split: the name of the split that was evaluated.

    Returns:
        A row per method, in order: ``method``, ``split`` and what ``evaluation.summary`` gives.
    """
    return [{"method": name, "split": split, **summary(result)} for name, result in results.items()]


def _cells(rows: list[Row], columns: Sequence[str]) -> list[list[str]]:
    """Header and cells as text; a column that no row has is left out."""
    columns = [name for name in columns if any(row.get(name) is not None for row in rows)]
    values = [[row.get(name) for name in columns] for row in rows]
    shown = [[f"{v:.4f}" if isinstance(v, float) else "" if v is None else str(v) for v in r] for r in values]
    return [columns, *shown]


def table(rows: list[Row], columns: Sequence[str]) -> str:
    """Lay rows out as aligned plain text: words to the left, numbers to the right.

    Args:
        rows: dicts; a missing value is left blank.
        columns: keys, in order; one that no row has is left out.

    Returns:
        The lines, header first; no trailing newline.

    >>> rows = [{"method": "markov", "hr@10": 0.25}, {"method": "supervised", "hr@10": 0.5}]
    >>> print(table(rows, ["method", "hr@10"]))
    method       hr@10
    markov      0.2500
    supervised  0.5000
    """
    cells = _cells(rows, columns)
    words = [any(isinstance(row.get(name), str) for row in rows) for name in cells[0]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        [c.ljust(w) if word else c.rjust(w) for c, w, word in zip(line, widths, words, strict=True)]
        for line in cells
    ]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def markdown(rows: list[Row], columns: Sequence[str], bold: Sequence[str] = ()) -> str:
    """Lay rows out as a Markdown table, with the largest number of some columns in bold.

    Args:
        rows, columns: as in ``table``.
        bold: the columns in which the largest number, with its equals, is bold.

    Returns:
        The lines; no trailing newline.

    >>> rows = [{"method": "markov", "hr@10": 0.25}, {"method": "supervised", "hr@10": 0.5}]
    >>> print(markdown(rows, ["method", "hr@10"], bold=["hr@10"]))
    | method | hr@10 |
    |---|---|
    | markov | 0.2500 |
    | supervised | **0.5000** |
    """
    header, *body = _cells(rows, columns)
    for j, name in enumerate(header):
        best = (
            max((row[name] for row in rows if row.get(name) is not None), default=None)
            if name in bold
            else None
        )
        for row, line in zip(rows, body, strict=True):
            if best is not None and row.get(name) == best:
                line[j] = f"**{line[j]}**"
    lines = ["| " + " | ".join(line) + " |" for line in (header, *body)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def differences(results: dict[str, Result], seed: int) -> list[Row]:
    """Compare methods: difference and 95 % interval over contexts.

    Args:
        results: by method name. The supervised policy is called "supervised", the arms of reinforcement
            learning as ``arms.label`` has it.
        seed: of the bootstrap.

    Returns:
        Rows with the columns of DIFFERENCE, per metric: the supervised policy minus every floor and SASRec,
        each arm minus the supervised policy, and minus supervised continued.

    Source: definition (metrics.paired_bootstrap).
    """
    arms = [name for name in results if name.startswith(tuple(map(title, OBJECTIVES)))]
    others = [name for name in results if name not in (SUPERVISED, TRUTH, *arms)]
    pairs = [(SUPERVISED, name) for name in others if SUPERVISED in results]
    pairs += [(arm, SUPERVISED) for arm in arms]
    pairs += [(arm, CONTINUED) for arm in arms if arm != CONTINUED and CONTINUED in arms]
    compared = []
    for metric in COMPARED:
        for name, other in pairs:
            interval = paired_bootstrap(results[name].values[metric], results[other].values[metric], seed)
            compared.append(dict(zip(DIFFERENCE, (name, other, metric, *interval), strict=True)))
    return compared


def sentences(compared: list[Row]) -> list[str]:
    """Say in words which methods are above the supervised policy, and which it is above.

    >>> row = dict(zip(DIFFERENCE, ("supervised", "item-kNN", "ndcg@10", -0.01, -0.02, 0.0), strict=True))
    >>> sentences([row])
    ['item-kNN is above the supervised policy on ndcg@10 by 0.0100 (95 % interval 0.0000 to 0.0200).']
    """
    said = []
    for metric in dict.fromkeys(row["metric"] for row in compared):
        here = [row for row in compared if row["metric"] == metric and row["method"] == SUPERVISED]
        below = [row["minus"] for row in here if row["difference"] > 0]
        if below:
            clear = all(row["low"] > 0 for row in here if row["difference"] > 0)
            doubt = "" if clear else ", though not every interval excludes 0"
            said.append(f"The supervised policy is above {', '.join(below)} on {metric}{doubt}.")
        for row in here:
            by, low, high = -row["difference"], 0.0 - row["high"], 0.0 - row["low"]
            if by >= 0:
                where = "above" if by else "level with"
                span = f" by {by:.4f} (95 % interval {low:.4f} to {high:.4f})" if by else ""
                said.append(f"{row['minus']} is {where} the supervised policy on {metric}{span}.")
    return said


def text(results: dict[str, Result], split: str, seed: int, reinforced: Reinforced | None = None) -> str:
    """The report for the terminal: the tables, the intervals, and what they say.

    Args:
        results: by method name, as in ``differences``.
        split: the name of the split that was evaluated.
        seed: of the bootstrap.
        reinforced: the arms of reinforcement learning.

    Returns:
        The lines; no trailing newline.
    """
    lines, compared = rows(results, split), differences(results, seed)
    parts = [f"{split} split, {lines[0]['contexts']:,} contexts", table(lines, MAIN), table(lines, MORE)]
    if compared:
        parts += [table(compared, DIFFERENCE), "\n".join(sentences(compared))]
    if reinforced and reinforced.lists:
        parts += [LISTS_SAY, table(reinforced.lists, list(reinforced.lists[0]))]
    if reinforced and reinforced.notes:
        parts += ["\n".join(reinforced.notes)]
    return "\n\n".join(parts)


def definitions(lines: list[Row]) -> str:
    """The definitions of the metrics that a report shows, as a Markdown list."""
    shown = {
        re.sub(r"@\d+$", "@K", name) if name not in DEFINITIONS else name for row in lines for name in row
    }
    return "\n".join(f"- `{name}`: {meaning}" for name, meaning in DEFINITIONS.items() if name in shown)


def _lists(reinforced: Reinforced | None) -> list[str]:
    if not reinforced:
        return []
    lists = reinforced.lists
    parts = ["## Reinforcement learning", "\n".join(f"- {note}" for note in reinforced.notes)]
    return parts + ([LISTS_SAY, markdown(lists, list(lists[0]))] if lists else [])


def _settings(cfg: Config) -> str:
    default, given = asdict(Config()), asdict(replace(cfg, out=""))
    flags = []
    for name, value in given.items():
        flag = name.replace("_", "-")
        if value != default[name]:
            flags.append(f"- `--{flag}`" if value is True else f"- `--{flag} {value}`")
    return "\n".join(flags) or "- none"


def _page(
    results: dict[str, Result],
    split: str,
    dataset: Dataset,
    cfg: Config,
    seconds: float,
    reinforced: Reinforced | None,
    notes: Sequence[str],
) -> str:
    lines, compared = rows(results, split), differences(results, cfg.seed)
    kind = (
        "Exact: hr, recall, ndcg and mrr are expectations over the true law of the simulated world."
        if dataset.law is not None
        else "Counted against the held-out targets, over the full catalogue."
    )
    past = "may be recommended again" if cfg.keep_seen else "are taken out of every list"
    data = [
        f"{len(dataset.users):,} users, {len(dataset.catalogue):,} items",
        *(f"{name}: {len(getattr(dataset, name)):,} contexts" for name in ("train", "valid", "test")),
        *(line.strip() for note in notes for line in note.splitlines()),
    ]
    run = [
        f"wall time {seconds:.0f} s, {torch.get_num_threads()} CPU threads",
        f"torch {torch.__version__}, Python {platform.python_version()}",
    ]
    parts = [
        f"# Results on the {split} split",
        f"{lines[0]['contexts']:,} contexts. {kind} Items of the user's past {past}.",
        markdown(lines, MAIN, bold=RANKING),
        "\n".join(f"- {sentence}" for sentence in sentences(compared)),
        markdown(lines, MORE, bold=[*SLICES, "pass@10", "pass@50"]),
        "## Against each other",
        "Paired bootstrap over contexts, 95 % intervals.",
        markdown(compared, DIFFERENCE),
        *_lists(reinforced),
        "## What the columns mean",
        definitions(lines),
        "## Data",
        "\n".join(f"- {line}" for line in data),
        "## Settings that differ from the defaults",
        _settings(cfg),
        "## Run",
        "\n".join(f"- {line}" for line in run),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def write(
    run: Path,
    results: dict[str, Result],
    split: str,
    dataset: Dataset,
    cfg: Config,
    seconds: float,
    notes: Sequence[str] = (),
    reinforced: Reinforced | None = None,
) -> list[Path]:
    """Write report.json, report.md, lists.json if lists were ranked, and with matplotlib the pictures.

    Args:
        run: the run folder; its metrics.jsonl gives the learning curve.
        results: by method name, floors first, as in ``differences``.
        split: the name of the split that was evaluated.
        dataset: for the data summary.
        cfg: the run's settings.
        seconds: wall time of the run.
        notes: further lines on the data, for example those of the log's reader and of the codes.
        reinforced: the arms of reinforcement learning.

    Returns:
        The files written.
    """
    lines = rows(results, split)
    pages = {
        "report.json": json.dumps(lines, indent=1) + "\n",
        "report.md": _page(results, split, dataset, cfg, seconds, reinforced, notes),
    }
    if reinforced and reinforced.lists:
        pages["lists.json"] = json.dumps(reinforced.lists, indent=1) + "\n"
    for name, page in pages.items():
        with atomic(run / name) as file:
            file.write(page.encode())
    return [*(run / name for name in pages), *pictures(run, lines)]
