"""The end of a run: a table for the terminal, report.md for people, report.json for programs, pictures.

The rows stand in the order of the results, floors first. Where a method is above the policy on ndcg@10 or
recall@10, a sentence says so.
"""

from __future__ import annotations

import importlib.util
import json
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from minirec.config import Config
from minirec.evaluate import FLOORS, Result, summary
from minirec.files import atomic
from minirec.metrics import DEFINITIONS, paired_bootstrap
from minirec.records import Dataset

Row = dict[str, Any]

RANKING = ["hr@10", "recall@5", "ndcg@5", "recall@10", "ndcg@10", "mrr@10", "recall@50"]
MAIN = ["method", *RANKING, "coverage@10", "hallucination"]
SLICES = ["head recall@10", "mid recall@10", "tail recall@10", "tied recall@10", "tied ndcg@10"]
MORE = ["method", *SLICES, "pass@10", "pass@50"]
COMPARED = ("ndcg@10", "recall@10")
DIFFERENCE = ["policy minus", "metric", "difference", "low", "high"]


def rows(results: dict[str, Result], split: str) -> list[Row]:
    """Summarise results.

    Args:
        results: by method name.
        split: the name of the split that was evaluated.

    Returns:
        A row per method, in order: ``method``, ``split`` and what ``evaluate.summary`` gives.
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

    >>> rows = [{"method": "markov", "hr@10": 0.25}, {"method": "policy", "hr@10": 0.5}]
    >>> print(table(rows, ["method", "hr@10"]))
    method   hr@10
    markov  0.2500
    policy  0.5000
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

    >>> rows = [{"method": "markov", "hr@10": 0.25}, {"method": "policy", "hr@10": 0.5}]
    >>> print(markdown(rows, ["method", "hr@10"], bold=["hr@10"]))
    | method | hr@10 |
    |---|---|
    | markov | 0.2500 |
    | policy | **0.5000** |
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
    """Compare the policy with every other method: difference and 95 % interval over contexts.

    Args:
        results: by method name; the policy is the one called "policy".
        seed: of the bootstrap.

    Returns:
        A row per metric and method but "true law", with the columns of DIFFERENCE; empty without a policy.

    Source: definition (metrics.paired_bootstrap).
    """
    if "policy" not in results:
        return []
    policy, compared = results["policy"].values, []
    for metric in COMPARED:
        for name, other in results.items():
            if name not in ("policy", "true law"):
                interval = paired_bootstrap(policy[metric], other.values[metric], seed)
                compared.append(dict(zip(DIFFERENCE, (name, metric, *interval), strict=True)))
    return compared


def sentences(compared: list[Row]) -> list[str]:
    """Say in words which methods are above the policy, and which it is above.

    >>> row = dict(zip(DIFFERENCE, ("item-kNN", "ndcg@10", -0.01, -0.02, 0.0), strict=True))
    >>> sentences([row])
    ['item-kNN is above the policy on ndcg@10 by 0.0100 (95 % interval 0.0000 to 0.0200).']
    """
    said = []
    for metric in dict.fromkeys(row["metric"] for row in compared):
        here = [row for row in compared if row["metric"] == metric]
        below = [row["policy minus"] for row in here if row["difference"] > 0]
        if below:
            clear = all(row["low"] > 0 for row in here if row["difference"] > 0)
            doubt = "" if clear else ", though not every interval excludes 0"
            said.append(f"The policy is above {', '.join(below)} on {metric}{doubt}.")
        for row in here:
            by, low, high = -row["difference"], 0.0 - row["high"], 0.0 - row["low"]
            if by >= 0:
                where = "above" if by else "level with"
                span = f" by {by:.4f} (95 % interval {low:.4f} to {high:.4f})" if by else ""
                said.append(f"{row['policy minus']} is {where} the policy on {metric}{span}.")
    return said


def text(results: dict[str, Result], split: str, seed: int) -> str:
    """The report for the terminal: the tables, the intervals, and what they say.

    Args:
        results: by method name; the policy is the one called "policy".
        split: the name of the split that was evaluated.
        seed: of the bootstrap.

    Returns:
        The lines; no trailing newline.
    """
    lines, compared = rows(results, split), differences(results, seed)
    parts = [f"{split} split, {lines[0]['contexts']:,} contexts", table(lines, MAIN), table(lines, MORE)]
    if compared:
        parts += [table(compared, DIFFERENCE), "\n".join(sentences(compared))]
    return "\n\n".join(parts)


def definitions(lines: list[Row]) -> str:
    """The definitions of the metrics that a report shows, as a Markdown list."""
    shown = {
        re.sub(r"@\d+$", "@K", name) if name not in DEFINITIONS else name for row in lines for name in row
    }
    return "\n".join(f"- `{name}`: {meaning}" for name, meaning in DEFINITIONS.items() if name in shown)


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
        "## The policy against the others",
        "Paired bootstrap over contexts, 95 % intervals.",
        markdown(compared, DIFFERENCE),
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
) -> list[Path]:
    """Write report.json, report.md and, where matplotlib is importable, the pictures.

    Args:
        run: the run folder; its metrics.jsonl gives the learning curve.
        results: by method name, floors first; the policy is the one called "policy".
        split: the name of the split that was evaluated.
        dataset: for the data summary.
        cfg: the run's settings.
        seconds: wall time of the run.
        notes: further lines on the data, for example those of the log's reader and of the codes.

    Returns:
        The files written.
    """
    lines = rows(results, split)
    pages = {
        "report.json": json.dumps(lines, indent=1) + "\n",
        "report.md": _page(results, split, dataset, cfg, seconds, notes),
    }
    for name, page in pages.items():
        with atomic(run / name) as file:
            file.write(page.encode())
    return [*(run / name for name in pages), *pictures(run, lines)]


def pictures(run: Path, lines: list[Row]) -> list[Path]:
    """Draw ndcg@10 by method, and the learning curves of metrics.jsonl; nothing without matplotlib.

    Args:
        run: the run folder. Lines of its metrics.jsonl with ``epoch`` and ``nll`` or ``ndcg@10`` are drawn.
        lines: the report's rows.

    Returns:
        The files written: methods.png, and learning.png where there is a curve.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return []
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figures = {"methods.png": Figure((6, 0.8 + 0.4 * len(lines)), layout="constrained")}
    axes = figures["methods.png"].add_subplot()
    known = dict.fromkeys(FLOORS, "tab:gray") | {"true law": "tab:green"}
    colours = [known.get(row["method"], "tab:blue") for row in lines]
    bars = axes.barh([row["method"] for row in lines], [row["ndcg@10"] for row in lines], color=colours)
    axes.bar_label(bars, fmt="%.4f", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel(f"ndcg@10, {lines[0]['split']}")

    log = run / "metrics.jsonl"
    points = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    curves = {
        name: [(point["epoch"], point[name]) for point in points if "epoch" in point and name in point]
        for name in ("nll", "ndcg@10")
    }
    if any(curves.values()):
        figures["learning.png"] = Figure((7, 3), layout="constrained")
        labels = ("training NLL, nats per item", "validation ndcg@10")
        panels = figures["learning.png"].subplots(1, 2)
        for panel, curve, label in zip(panels, curves.values(), labels, strict=True):
            panel.plot(*zip(*curve, strict=True), marker=".") if curve else panel.set_axis_off()
            panel.set(xlabel="epoch", ylabel=label)
    for name, figure in figures.items():
        with atomic(run / name) as file:
            FigureCanvasAgg(figure).print_png(file)
    return [run / name for name in figures]
