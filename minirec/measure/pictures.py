"""The pictures of a run; nothing is drawn where matplotlib is missing.

methods.png    ndcg@10 by method, and the differences with their intervals
learning.png   supervised training
arms.png       reinforcement learning: validation, and the exact value beside its estimate
groups.png     what groups of rollouts hold, before and after ReCast's repair
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

from minirec.errors import InputError
from minirec.files import atomic
from minirec.measure.baselines import FLOORS
from minirec.objectives import OBJECTIVES
from minirec.settings import read

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


def draw(run: Path, rows: Rows, compared: Rows) -> list[Path]:
    """Draw the pictures of a run that there is data for: its table, and the differences of its methods."""
    if importlib.util.find_spec("matplotlib") is None:
        return []
    logs = {name: lines for name in OBJECTIVES if (lines := lines_of(run / name))}
    scales = {n: "NDCG" if OBJECTIVES[n].lists else read(run / n / "config.json").reward for n in logs}
    figures = {"methods.png": _methods(rows, compared), "learning.png": _learning(lines_of(run))}
    figures |= {"arms.png": logs and _arms(logs, scales), "groups.png": _groups(logs.get("recast", []))}
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


def _methods(rows: Rows, compared: Rows) -> Any:
    compared = [row for row in compared if row["metric"] == "ndcg@10"]
    arms = [row for row in compared if row["method"] != "supervised"]
    figure, [panels] = _panels(1, 1 + bool(compared), 6, 0.8 + 0.4 * max(len(rows), len(arms)))
    known = dict.fromkeys(FLOORS, "tab:gray") | {row["method"]: "tab:orange" for row in arms}
    values = {row["method"]: row["ndcg@10"] for row in rows if "ndcg@10" in row}
    colours = [(known | {"true law": "tab:green"}).get(name, "tab:blue") for name in values]
    panels[0].bar_label(panels[0].barh([*values], [*values.values()], color=colours), fmt="%.4f", padding=3)
    panels[0].set(xlim=(0, 1.25 * max(values.values())), xlabel=f"ndcg@10, {rows[0]['split']}")
    for row in arms or compared:
        name, ends = f"{row['method']} minus {row['minus']}", [row[x] for x in ("low", "difference", "high")]
        panels[-1].plot(ends, [name] * 3, "C0|-")
        panels[-1].set(xlabel="difference of ndcg@10, 95 % interval")
        panels[-1].locator_params(axis="x", nbins=5)
    for axes in panels:
        axes.invert_yaxis()
        axes.axvline(0, color="tab:gray", linewidth=0.8)
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
    figure.suptitle("supervised")
    return figure


def _arms(logs: dict[str, Rows], scales: dict[str, str]) -> Any:
    """One row of panels per kind of reward: validation on the left; on the right an arm's exact value as a
    line and the estimate from its rollouts, with two standard errors, as points."""
    figure, panels = _panels(len({*scales.values()}), 2, 4, 3.2)
    for (left, right), scale in zip(panels, dict.fromkeys(scales.values()), strict=True):
        metric = "ndcg@5" if scale == "NDCG" else "ndcg@10"
        for name in (name for name in logs if scales[name] == scale):
            lines, colour, title = logs[name], f"C{[*logs].index(name)}", OBJECTIVES[name].title
            left.plot(*curve(lines, "step", metric), marker=".", color=colour, label=title)
            right.plot(*curve(lines, "step", "exact_reward"), color=colour, label=title)
            *points, errors = curve(lines, "step", "estimate", "estimate_error")
            right.errorbar(*points, [2 * error for error in errors], fmt=".", color=colour)
        left.set(xlabel="batches of rollouts", ylabel=f"validation {metric}")
        right.set(xlabel="batches of rollouts", ylabel=f"reward ({scale})", title="exact (line) and estimate")
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
    figure.suptitle("ReCast: what its groups hold")
    return figure
