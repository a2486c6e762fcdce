"""The end of a run: a table for the terminal, report.md for people, report.json for programs.

The lists of a policy are written from here too, as JSON lines.
Where a floor or SASRec is above the supervised policy on ndcg@10 or recall@10, a sentence says so.
"""

import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from minirec.data.dataset import Dataset, Examples
from minirec.errors import escaped
from minirec.files import atomic
from minirec.measure import metrics, pictures
from minirec.measure.evaluation import Result, summary
from minirec.objectives import OBJECTIVES
from minirec.records import PAD
from minirec.settings import Config

Row = dict[str, Any]
Words = Sequence[str]

RANKING = ["hr@10", "recall@5", "ndcg@5", "recall@10", "ndcg@10", "mrr@10", "recall@50"]
MAIN = ["method", *RANKING, "coverage@10", "hallucination"]
SLICES = [f"{part} recall@10" for part in (*metrics.BUCKETS, "tied")]
MORE = ["method", *SLICES, "tied ndcg@10", "pass@10", "pass@50"]
COMPARED = ("ndcg@10", "recall@10")
DIFFERENCE = ["method", "minus", "metric", "difference", "low", "high"]
SUPERVISED, CONTINUED, TRUTH = "supervised", OBJECTIVES["continued"].title, "true law"
EXACT = "Exact: hr, recall, ndcg and mrr are expectations over the true law of the simulated world."
COUNTED = "Counted against the held-out targets, over the full catalogue."
LISTS = "ndcg@5 of rankings of closed candidate sets, by need; the last need was held out of training"


@dataclass(frozen=True)
class Results:
    """What a run, or an evaluation of one, came to."""

    methods: dict[str, Result]  # by what tables call them, floors first; the policy is "supervised"
    split: str  # that was evaluated
    arms: tuple[str, ...] = ()  # the methods that are arms of reinforcement learning
    lists: Sequence[Row] = ()  # a row per way of ranking closed sets
    notes: Words = ()  # what is to be said of reinforcement learning

    @property
    def rows(self) -> list[Row]:
        """A row per method: "method", "split" and what ``evaluation.summary`` gives."""
        return [{"method": name, "split": self.split, **summary(x)} for name, x in self.methods.items()]


def _cell(value: Any, best: Any = None) -> str:
    """A value as text, blank where it is missing, bold where it is the best."""
    text = f"{value:.4f}" if isinstance(value, float) else escaped(str(value))
    return "" if value is None else f"**{text}**" if value == best else text


def _cells(rows: Sequence[Row], columns: Words, bold: Words = ()) -> list[list[str]]:
    """Header and cells as text; a column that no row has is left out."""
    values = {name: [row[name] for row in rows if row.get(name) is not None] for name in columns}
    best = {name: max(values[name], default=None) for name in bold}
    columns = [name for name in columns if values[name]]
    return [columns, *([_cell(row.get(name), best.get(name)) for name in columns] for row in rows)]


def table(rows: Sequence[Row], columns: Words) -> str:
    """Lay rows out as aligned plain text: words to the left, numbers to the right, missing values blank.

    >>> rows = [{"method": "markov", "hr@10": 0.25}, {"method": "supervised", "hr@10": 0.5}]
    >>> print(table(rows, ["method", "hr@10"]))
    method       hr@10
    markov      0.2500
    supervised  0.5000
    """
    padded = []
    for column in zip(*_cells(rows, columns), strict=True):  # a name, and the cells below it
        width, words = max(map(len, column)), any(isinstance(row.get(column[0]), str) for row in rows)
        padded.append([cell.ljust(width) if words else cell.rjust(width) for cell in column])
    return "\n".join("  ".join(line).rstrip() for line in zip(*padded, strict=True))


def markdown(rows: Sequence[Row], columns: Words, bold: Words = ()) -> str:
    """Lay rows out as a Markdown table; in the columns ``bold`` the largest number, with its equals, is bold.

    >>> rows = [{"method": "markov", "hr@10": 0.25}, {"method": "supervised", "hr@10": 0.5}]
    >>> print(markdown(rows, ["method", "hr@10"], bold=["hr@10"]))
    | method | hr@10 |
    |---|---|
    | markov | 0.2500 |
    | supervised | **0.5000** |
    """
    header, *body = _cells(rows, columns, bold)
    lines = ["| " + " | ".join(line) + " |" for line in (header, *body)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def differences(results: Results, seed: int) -> list[Row]:
    """Compare methods: difference and 95 % interval over contexts, rows with the columns of DIFFERENCE.

    These are supervised minus each floor and SASRec, each arm minus supervised, and supervised continued.
    """
    methods, arms = results.methods, results.arms
    pairs = [(SUPERVISED, name) for name in methods if name not in (SUPERVISED, TRUTH, *arms)]
    pairs += [(arm, other) for other in (SUPERVISED, CONTINUED) for arm in arms if arm != other]
    pairs = [pair for pair in pairs if methods.keys() >= {*pair}]
    compared = []
    for metric in COMPARED:
        for pair in pairs:
            interval = metrics.paired_bootstrap(*(methods[name].values[metric] for name in pair), seed)
            compared.append(dict(zip(DIFFERENCE, (*pair, metric, *interval), strict=True)))
    return compared


def sentences(compared: list[Row]) -> list[str]:
    """Say in words which methods are above the supervised policy, and which it is above.

    >>> row = dict(zip(DIFFERENCE, ("supervised", "item-kNN", "ndcg@10", -0.01, -0.02, 0.0), strict=True))
    >>> sentences([row])
    ['item-kNN is above the supervised policy on ndcg@10 by 0.0100 (95 % interval 0.0000 to 0.0200).']
    """
    lines = []
    for metric in COMPARED:
        here = [row for row in compared if row["metric"] == metric and row["method"] == SUPERVISED]
        below = [row for row in here if row["difference"] > 0]
        if below:
            names = ", ".join(row["minus"] for row in below)
            doubt = "" if all(row["low"] > 0 for row in below) else ", though not every interval excludes 0"
            lines.append(f"The supervised policy is above {names} on {metric}{doubt}.")
        for row in here:
            by, low, high = -row["difference"], 0.0 - row["high"], 0.0 - row["low"]
            if by >= 0:
                where = "above" if by else "level with"
                span = f" by {by:.4f} (95 % interval {low:.4f} to {high:.4f})" if by else ""
                lines.append(f"{row['minus']} is {where} the supervised policy on {metric}{span}.")
    return lines


def text(results: Results, seed: int) -> str:
    """The report for the terminal: the tables, the intervals (``seed`` resamples), and what they say."""
    rows, compared = results.rows, differences(results, seed)
    parts = [f"{results.split} split, {_contexts(rows[0])}", table(rows, MAIN), table(rows, MORE)]
    parts += [table(compared, DIFFERENCE), "\n".join(sentences(compared)), *_lists(results, table)]
    return "\n\n".join(part for part in (*parts, "\n".join(results.notes)) if part)


def _contexts(row: Row) -> str:
    tied = f", {row['tied share']:.1%} of them with the target tied in time" if "tied share" in row else ""
    return f"{row['contexts']:,} contexts{tied}"


def _lists(results: Results, draw: Callable[[Sequence[Row], Words], str]) -> list[str]:
    return [LISTS, draw(results.lists, list(results.lists[0]))] if results.lists else []


def _bullets(lines: Words) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _settings(cfg: Config) -> list[str]:
    default = asdict(Config(out=cfg.out, given=cfg.given, resume=cfg.resume))
    changed = {name.replace("_", "-"): value for name, value in asdict(cfg).items() if value != default[name]}
    return [f"`--{flag}`" if value is True else f"`--{flag} {value}`" for flag, value in changed.items()]


def _page(results: Results, dataset: Dataset, cfg: Config, seconds: float, notes: Words) -> str:
    rows, compared = results.rows, differences(results, cfg.seed)
    kind = COUNTED if dataset.law is None else EXACT
    past = "may be recommended again" if cfg.keep_seen else "are taken out of every list"
    parts = [f"# Results on the {results.split} split"]
    parts += [f"{_contexts(rows[0])}. {kind} Items of the user's past {past}."]
    parts += [markdown(rows, MAIN, bold=RANKING), _bullets(sentences(compared))]
    parts += [markdown(rows, MORE, bold=MORE[1:]), "## Against each other"]
    parts += ["Paired bootstrap over contexts, 95 % intervals.", markdown(compared, DIFFERENCE)]
    if results.notes:
        parts += ["## Reinforcement learning", _bullets(results.notes)]
    parts += _lists(results, markdown)
    data = [f"{len(dataset.users):,} users, {len(dataset.catalogue):,} items"]
    data += [f"{name}: {len(getattr(dataset, name)):,} contexts" for name in ("train", "valid", "test")]
    data += [line.strip() for note in notes for line in note.splitlines()]
    machine = [f"wall time {seconds:.0f} s, {torch.get_num_threads()} CPU threads"]
    machine += [f"torch {torch.__version__}, Python {platform.python_version()}"]
    columns, every = set().union(*rows), metrics.DEFINITIONS.items()
    meanings = [f"`{name}`: {text}" for name, text in every if name.replace("@K", "@10") in columns]
    parts += ["## What the columns mean", _bullets(meanings), "## Data", _bullets(data)]
    parts += ["## Settings that differ from the defaults", _bullets(_settings(cfg) or ["none"])]
    parts += ["## Run", _bullets(machine)]
    return "\n\n".join(part for part in parts if part)


def write(results: Results, dataset: Dataset, cfg: Config, seconds: float, notes: Words = ()) -> list[Path]:
    """Write report.json, report.md, lists.json if lists were ranked, and the pictures; returns the files."""
    folder, rows = Path(cfg.out), results.rows
    pages = {"report.json": json.dumps(rows, indent=1)}
    pages["report.md"] = _page(results, dataset, cfg, seconds, notes)
    if results.lists:
        pages["lists.json"] = json.dumps(results.lists, indent=1)
    for name, page in pages.items():
        with atomic(folder / name) as file:
            file.write(f"{page}\n".encode())
    return [*(folder / name for name in pages), *pictures.draw(folder, rows, results.arms)]


def write_predictions(path: Path, result: Result, dataset: Dataset, examples: Examples) -> None:
    """Write JSON lines, ``{"user": id, "items": [ids, best first]}``. Raises InputError if it cannot."""
    ids, users = dataset.catalogue.ids, dataset.users
    with atomic(path) as file:
        for user, items in zip(examples.user.tolist(), result.items.tolist(), strict=True):
            line = {"user": users[user], "items": [ids[item] for item in items if item != PAD]}
            file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
