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

from minirec.errors import InputError
from minirec.files import atomic
from minirec.measure.baselines import FLOORS
from minirec.objectives import OBJECTIVES

Rows = list[dict[str, Any]]

OUTCOMES = {"all_zero": "all-zero", "mixed": "mixed", "all_hit": "all-hit"}
STAGES = {"sampled": [*OUTCOMES], "after repair": [f"repaired_{name}" for name in OUTCOMES]}


def lines_of(run: Path) -> Rows:
    """Read a run's metrics.jsonl; empty where there is none. Raises InputError if it is damaged."""
    log = run / "metrics.jsonl"
    try:
        return [json.loads(line) for line in log.read_text("utf-8").splitlines()] if log.is_file() else []
    except ValueError as error:
        raise InputError(f"{log}: {error}; expected an object of JSON a line") from None


def curve(lines: Rows, *names: str) -> list[list[float]]:
    """The values of each name on the lines of metrics that have all of them."""
    return [[line[name] for line in lines if line.keys() >= {*names}] for name in names]


def draw(run: Path, rows: Rows, arms: Sequence[str] = ()) -> list[Path]:
    """Draw the pictures of a run that there is data for; ``arms`` names the rows that RL trained."""
    if importlib.util.find_spec("matplotlib") is None:
        return []
    logs = {name: lines for name in OBJECTIVES if (lines := lines_of(run / name))}
    figures = {"methods.png": _methods(rows, arms), "learning.png": _learning(lines_of(run))}
    figures |= {"arms.png": logs and _arms(logs), "groups.png": _groups(logs.get("recast", []))}
    drawn = [run / name for name, figure in figures.items() if figure]
    for path in drawn:
        with atomic(path) as file:
            figures[path.name].savefig(file, format="png")
    return drawn


def _panels(rows: int, columns: int, width: float, height: float, **options: Any) -> tuple[Any, Any]:
    """A figure, and its panels as (rows, columns) axes; width and height are those of a panel in inches."""
    from matplotlib.figure import Figure

    figure = Figure((columns * width, rows * height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def _methods(rows: Rows, arms: Sequence[str]) -> Any:
    figure, [[axes]] = _panels(1, 1, 6, 0.8 + 0.4 * len(rows))
    known = dict.fromkeys(FLOORS, "tab:gray") | {"true law": "tab:green"} | dict.fromkeys(arms, "tab:orange")
    values = {row["method"]: row["ndcg@10"] for row in rows if "ndcg@10" in row}
    bars = axes.barh([*values], [*values.values()], color=[known.get(name, "tab:blue") for name in values])
    axes.bar_label(bars, fmt="%.4f", padding=3)
    axes.invert_yaxis()
    axes.set(xmargin=0.15, xlabel=f"ndcg@10, {rows[0]['split']}")
    return figure


def _learning(lines: Rows) -> Any:
    labels = {"nll": "training NLL, nats per item", "ndcg@10": "validation ndcg@10"}
    drawn = {label: points for name, label in labels.items() if (points := curve(lines, "epoch", name))[0]}
    if not drawn:
        return None
    figure, [panels] = _panels(1, len(drawn), 3.5, 3)
    for axes, (label, points) in zip(panels, drawn.items(), strict=True):
        axes.plot(*points, marker=".")
        axes.set(xlabel="epoch", ylabel=label)
    return figure


def _arms(logs: dict[str, Rows]) -> Any:
    """One row of panels per kind of arm: validation on the left; on the right an arm's exact value as a line
    and the estimate from its rollouts, with two standard errors, as points."""
    judged = {name: "ndcg@5" if OBJECTIVES[name].lists else "ndcg@10" for name in logs}
    figure, panels = _panels(len({*judged.values()}), 2, 4, 3.2)
    for (left, right), metric in zip(panels, dict.fromkeys(judged.values()), strict=True):
        for i, name in enumerate(name for name in logs if judged[name] == metric):
            lines, colour, title = logs[name], f"C{i}", OBJECTIVES[name].title
            left.plot(*curve(lines, "step", metric), marker=".", color=colour, label=title)
            right.plot(*curve(lines, "step", "exact_reward"), color=colour, label=title)
            *points, errors = curve(lines, "step", "estimate", "estimate_error")
            right.errorbar(*points, [2 * error for error in errors], fmt=".", color=colour)
        left.set(xlabel="batches of rollouts", ylabel=f"validation {metric}")
        right.set(xlabel="batches of rollouts", ylabel="the arm's own reward: exact (line), estimate")
        left.legend(fontsize="small")
    return figure


def _groups(lines: Rows) -> Any:
    drawn = {stage: points for stage, names in STAGES.items() if (points := curve(lines, "step", *names))[0]}
    if not drawn:
        return None
    figure, [panels] = _panels(1, len(drawn), 3.5, 3, sharey=True)
    for axes, (stage, points) in zip(panels, drawn.items(), strict=True):
        axes.stackplot(*points, labels=OUTCOMES.values())
        axes.set(xlabel="batches of rollouts", ylabel="share of groups", title=stage, ylim=(0, 1))
    panels[0].legend(fontsize="small", loc="lower left")
    return figure
