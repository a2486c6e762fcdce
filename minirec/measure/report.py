"""The end of a run: a table for the terminal, report.md for people, report.json for programs."""

import json
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from platform import python_version
from shutil import get_terminal_size
from typing import Any

import torch

from minirec.data.dataset import Dataset, Examples
from minirec.errors import escaped
from minirec.files import atomic
from minirec.measure import metrics, pictures
from minirec.measure.baselines import FLOORS
from minirec.measure.evaluation import Result, summary
from minirec.objectives import OBJECTIVES
from minirec.records import PAD
from minirec.settings import Config, command_line

ENDLESS = sys.maxsize, 1  # the size of no terminal
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
LISTS = "ndcg@5 of rankings of closed sets, by need; the last was held out; popularity counts recent events"
METHODS = {name: floor.__doc__ for name, floor in FLOORS.items()} | {
    TRUTH: "the ranking by the world's own probabilities: nothing can be above it, so it is never bold.",
    "SASRec": "a transformer with one code per item, trained by cross-entropy.",
    SUPERVISED: "the policy over item codes, trained by NLL on clicks; every arm starts from it.",
    "random": "a random order.",
    "item mean": "items by their mean gain for the need, in training.",
    "list start": "the supervised policy, taught to emit lists in its own order; the arms start from it.",
    "list-wise supervised": "NLL on rankings by the gains that training sees, with the steps of an arm.",
    "list-level GRPO": "GRPO with one advantage for the whole list, from its NDCG.",
}


@dataclass(frozen=True)
class Results:
    """What a run, or an evaluation of one, came to."""

    methods: dict[str, Result]  # by what tables call them, floors first; the policy is "supervised"
    split: str  # that was evaluated
    arms: tuple[str, ...] = ()  # the methods that are arms of reinforcement learning
    lists: Sequence[Row] = ()  # a row per way of ranking closed sets
    notes: Words = ()  # what is to be said of reinforcement learning
    whole: int = 0  # contexts of the split, where these are a sample

    @property
    def rows(self) -> list[Row]:
        """A row per method: "method", "split" and what ``evaluation.summary`` gives."""
        return [{"method": name, "split": self.split, **summary(x)} for name, x in self.methods.items()]


def _cells(rows: Sequence[Row], columns: Words, bold: Words = ()) -> list[list[str]]:
    """Header and cells as text, blank where missing, bold where best; a column without cells is left out."""

    def cell(value: Any, best: Any) -> str:
        text = f"{value:.4f}" if isinstance(value, float) else escaped(str(value))
        return "" if value is None else f"**{text}**" if value == best else text

    columns = [name for name in columns if any(row.get(name) is not None for row in rows)]
    reached = [row for row in rows if row.get("method") != TRUTH]
    best = {name: max((row[name] for row in reached if name in row), default=None) for name in bold}
    return [columns, *([cell(row.get(name), best.get(name)) for name in columns] for row in rows)]


def say(*lines: str) -> None:
    """Print lines, and go on below where one is wider than the terminal."""
    wrapped = {"width": get_terminal_size(ENDLESS).columns, "subsequent_indent": "  "}
    for line in "\n".join(lines).split("\n"):
        print(textwrap.fill(line, **wrapped, break_on_hyphens=False), flush=True)


def table(rows: Sequence[Row], columns: Words) -> str:
    """Lay rows out as aligned plain text, words left, numbers right, in as many columns as have room."""
    padded, room = [], get_terminal_size(ENDLESS).columns + 2
    for column in zip(*_cells(rows, columns), strict=True):  # a name, and the cells below it
        size, words = max(map(len, column)), any(isinstance(row.get(column[0]), str) for row in rows)
        room -= size + 2
        if room < 0 and padded:
            break
        padded.append([cell.ljust(size) if words else cell.rjust(size) for cell in column])
    return "\n".join("  ".join(line).rstrip() for line in zip(*padded, strict=True))


def markdown(rows: Sequence[Row], columns: Words, bold: Words = ()) -> str:
    """Lay rows out as a Markdown table; in columns ``bold`` the largest is bold, the true law's never."""
    header, *body = _cells(rows, columns, bold)
    lines = ["| " + " | ".join(line) + " |" for line in (header, *body)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def differences(results: Results, seed: int) -> list[Row]:
    """Rows of DIFFERENCE: supervised minus floors and SASRec; arms minus supervised and its continuation."""
    methods, arms = results.methods, results.arms
    pairs = [(SUPERVISED, name) for name in methods if name not in (SUPERVISED, TRUTH, *arms)]
    pairs += [(arm, other) for other in (SUPERVISED, CONTINUED) for arm in arms if arm != other]
    pairs = [pair for pair in pairs if methods.keys() >= {*pair}]
    compared = []
    for metric in COMPARED:
        for pair in [pair for pair in pairs if all(metric in methods[name].values for name in pair)]:
            interval = metrics.paired_bootstrap(*(methods[name].values[metric] for name in pair), seed)
            compared.append(dict(zip(DIFFERENCE, (*pair, metric, *interval), strict=True)))
    return compared


def sentences(compared: list[Row]) -> list[str]:
    """Say in words which methods are above the supervised policy, and which it is above."""
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


def contexts(results: Results) -> str:
    """How many contexts were evaluated, how many targets are tied, and what floors were fitted on."""
    tied = next(iter(results.methods.values())).tied
    of = f" of {results.whole:,}, a random sample" if results.whole > len(tied) else ""
    share = f"{tied.double().mean():.1%} of the targets tied in time; " if tied.any() else ""
    known = "all before the targets" if results.split == "test" else "training"
    return f"{len(tied):,} contexts{of}; {share}floors fitted on {known}"


def text(results: Results, seed: int) -> str:
    """The report for the terminal: the tables, the intervals (``seed`` resamples), and what they say."""
    rows, compared = results.rows, differences(results, seed)
    parts = [f"{results.split} split, {contexts(results)}", table(rows, MAIN), table(rows, MORE)]
    for metric in COMPARED if compared else ():
        here = [row for row in compared if row["metric"] == metric]
        parts += [f"{metric}: differences, with 95 % intervals over contexts"]
        parts += [table(here, [name for name in DIFFERENCE if name != "metric"])]
    parts += ["\n".join(sentences(compared))]
    parts += [LISTS, table(results.lists, list(results.lists[0]))] if results.lists else []
    parts += ["\n".join(results.notes)]
    return "\n\n".join(filter(None, parts))


def _bullets(lines: Words) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _methods(names: Sequence[str]) -> str:
    """What methods are; of an arm it is the first line of the file of its objective."""
    arms = {each.title: sys.modules[each.signal.__module__].__doc__ for each in OBJECTIVES.values()}
    known = {name: (arms | METHODS).get(name.split(",")[0]) or "not described" for name in names}
    lines = {name: text.splitlines()[0] for name, text in known.items()}
    return _bullets([f"`{name}`: {line.removeprefix(f'{name}: ')}" for name, line in lines.items()])


def _page(
    results: Results, compared: list[Row], dataset: Dataset, cfg: Config, notes: Words, drawn: Words
) -> str:
    rows = results.rows
    kind = COUNTED if dataset.law is None else EXACT
    past = "may be recommended again" if cfg.keep_seen else "are taken out of every list"
    parts = [f"# Results on the {results.split} split"]
    parts += [f"{contexts(results)}. {kind} Items of the user's past {past}."]
    parts += [markdown(rows, MAIN, bold=RANKING), _bullets(sentences(compared))]
    parts += [markdown(rows, MORE, bold=MORE[1:])]
    against = "## Against each other", "Paired bootstrap over contexts, 95 % intervals."
    parts += [*against, markdown(compared, DIFFERENCE)] if compared else []
    if results.notes:
        parts += ["## Reinforcement learning", _bullets(results.notes)]
    parts += [LISTS, markdown(results.lists, list(results.lists[0]))] if results.lists else []
    data = [f"{len(dataset.users):,} users, {len(dataset.catalogue):,} items"]
    data += [f"{name}: {len(getattr(dataset, name)):,} contexts" for name in ("train", "valid", "test")]
    data += [line.strip() for note in notes for line in note.splitlines()]
    data += [f"{torch.get_num_threads()} CPU threads, torch {torch.__version__}, Python {python_version()}"]
    columns, every = set().union(*rows), metrics.DEFINITIONS.items()
    meanings = [f"`{name}`: {text}" for name, text in every if name.replace("@K", "@10") in columns]
    parts += [f"![{name}]({name})" for name in drawn]
    parts += ["## What the methods are", _methods([row["method"] for row in (*rows, *results.lists)])]
    parts += ["## What the columns mean", _bullets(meanings), "## Data and run", _bullets(data)]
    parts += ["To make it again:", f"```bash\n{command_line(cfg)}\n```"]
    return "\n\n".join(filter(None, parts))


def write(results: Results, dataset: Dataset, cfg: Config, seconds: float, notes: Words = ()) -> list[Path]:
    """Write report.json, report.md, lists.json if lists were ranked, and the pictures; returns the files."""
    folder, rows, compared = Path(cfg.out), results.rows, differences(results, cfg.seed)
    drawn, notes = pictures.draw(folder, rows, compared), [*notes, f"wall time {seconds:.0f} s"]
    pages = {"report.json": json.dumps(rows, indent=1)}
    pages["report.md"] = _page(results, compared, dataset, cfg, notes, [path.name for path in drawn])
    if results.lists:
        pages["lists.json"] = json.dumps(results.lists, indent=1)
    for name, page in pages.items():
        with atomic(folder / name) as file:
            file.write(f"{page}\n".encode())
    return [*(folder / name for name in pages), *drawn]


def write_predictions(path: Path, result: Result, dataset: Dataset, examples: Examples) -> None:
    """Write JSON lines, ``{"user": id, "items": [ids, best first]}``. Raises InputError if it cannot."""
    ids, users = dataset.catalogue.ids, dataset.users
    with atomic(path) as file:
        for user, items in zip(examples.user.tolist(), result.items.tolist(), strict=True):
            line = {"user": users[user], "items": [ids[item] for item in items if item != PAD]}
            file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
