"""The pictures of a run; nothing is drawn where matplotlib is missing.

methods.png    ndcg@10 by method
learning.png   supervised training
arms.png       reinforcement learning: validation, and the exact value beside its estimate
groups.png     what groups of rollouts hold, before and after ReCast's repair
"""

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minirec.files import atomic
from minirec.measure.evaluation import FLOORS
from minirec.objectives import OBJECTIVES

OUTCOMES = ("all_zero", "mixed", "all_hit")


def lines_of(run: Path) -> list[dict[str, Any]]:
    """Read a run's metrics.jsonl; empty where there is none."""
    log = run / "metrics.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []


def curve(lines: list[dict[str, Any]], x: str, y: str) -> tuple[list[float], list[float]]:
    """The values of x and of y on the lines of metrics that have both."""
    both = [line for line in lines if x in line and y in line]
    return [line[x] for line in both], [line[y] for line in both]


def pictures(run: Path, rows: list[dict[str, Any]], arms: Sequence[str] = ()) -> list[Path]:
    """Draw the pictures of a run folder that there is something to draw for; returns the files.

    The report's rows, and which of their methods are arms of reinforcement learning.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return []
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    logs = {name: lines for name in OBJECTIVES if (lines := lines_of(run / name))}
    drawn = {
        "methods.png": _methods(rows, arms),
        "learning.png": _learning(lines_of(run)),
        "arms.png": _arms(logs),
        "groups.png": _groups(logs.get("recast", [])),
    }
    figures = {name: figure for name, figure in drawn.items() if figure is not None}
    for name, figure in figures.items():
        with atomic(run / name) as file:
            FigureCanvasAgg(figure).print_png(file)
    return [run / name for name in figures]


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure((width, height), layout="constrained")


def _methods(rows: list[dict[str, Any]], arms: Sequence[str]) -> Any:
    figure = _figure(6, 0.8 + 0.4 * len(rows))
    axes = figure.add_subplot()
    known = dict.fromkeys(FLOORS, "tab:gray") | {"true law": "tab:green"}
    known |= dict.fromkeys(arms, "tab:orange")
    names = [row["method"] for row in rows]
    colours = [known.get(name, "tab:blue") for name in names]
    bars = axes.barh(names, [row["ndcg@10"] for row in rows], color=colours)
    axes.bar_label(bars, fmt="%.4f", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel(f"ndcg@10, {rows[0]['split']}")
    return figure


def _learning(lines: list[dict[str, Any]]) -> Any:
    panels = {"nll": "training NLL, nats per item", "ndcg@10": "validation ndcg@10"}
    drawn = {label: points for name, label in panels.items() if (points := curve(lines, "epoch", name))[0]}
    if not drawn:
        return None
    figure = _figure(3.5 * len(drawn), 3)
    for axes, (label, points) in zip(
        figure.subplots(1, len(drawn), squeeze=False)[0], drawn.items(), strict=True
    ):
        axes.plot(*points, marker=".")
        axes.set(xlabel="epoch", ylabel=label)
    return figure


def _arms(logs: dict[str, list[dict[str, Any]]]) -> Any:
    """One row of panels per kind of arm: validation on the left; on the right an arm's exact value as a line
    and the estimate from its rollouts, with two standard errors, as points."""
    kinds = [[name for name in logs if OBJECTIVES[name].lists == lists] for lists in (False, True)]
    kinds = [kind for kind in kinds if kind]
    if not kinds:
        return None
    figure = _figure(8, 3.2 * len(kinds))
    for (left, right), kind in zip(figure.subplots(len(kinds), 2, squeeze=False), kinds, strict=True):
        metric = "ndcg@5" if OBJECTIVES[kind[0]].lists else "ndcg@10"
        for i, name in enumerate(kind):
            lines, colour, title = logs[name], f"C{i}", OBJECTIVES[name].title
            left.plot(*curve(lines, "step", metric), marker=".", color=colour, label=title)
            right.plot(*curve(lines, "step", "exact_reward"), color=colour, label=title)
            seen = [line for line in lines if "estimate_error" in line]
            right.errorbar(
                [line["step"] for line in seen],
                [line["estimate"] for line in seen],
                [2 * line["estimate_error"] for line in seen],
                fmt=".",
                color=colour,
            )
        left.set(xlabel="batches of rollouts", ylabel=f"validation {metric}")
        right.set(xlabel="batches of rollouts", ylabel="the arm's own reward: exact (line), estimate")
        left.legend(fontsize="small")
    return figure


def _groups(lines: list[dict[str, Any]]) -> Any:
    lines = [line for line in lines if "all_zero" in line]
    if not lines:
        return None
    parts = {"sampled": "", "after repair": "repaired_"}
    parts = {stage: prefix for stage, prefix in parts.items() if prefix + "all_zero" in lines[0]}
    figure = _figure(3.5 * len(parts), 3)
    panels = figure.subplots(1, len(parts), sharey=True, squeeze=False)[0]
    for axes, (stage, prefix) in zip(panels, parts.items(), strict=True):
        shares = [[line.get(prefix + name, 0.0) for line in lines] for name in OUTCOMES]
        axes.stackplot(
            [line["step"] for line in lines], shares, labels=[n.replace("_", "-") for n in OUTCOMES]
        )
        axes.set(xlabel="batches of rollouts", ylabel="share of groups", title=stage, ylim=(0, 1))
    panels[0].legend(fontsize="small", loc="lower left")
    return figure
