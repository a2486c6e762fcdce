"""Values by seed, kept as JSON beside the table that is made of them."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor


def keep(out: Path, raw: dict, page: Callable[[dict], list[str]]) -> None:
    """Write what a bench measured to OUT.json, and the table of it to OUT.md."""
    out.with_suffix(".json").write_text(json.dumps(raw, separators=(",", ":")) + "\n", "utf-8")
    text = table(out.with_suffix(".json"), page)
    print(text)
    out.with_suffix(".md").write_text(text, "utf-8")


def table(kept: Path, page: Callable[[dict], list[str]]) -> str:
    """The table again, from a file that ``keep`` wrote."""
    raw = json.loads(kept.read_text("utf-8"))
    return "\n".join([*raw["head"], *page(raw)]) + "\n"


def sparse(values: Tensor) -> dict[str, float]:
    """The values (users,) that are not 0, by row, as most users have no hit."""
    return {str(row): round(value, 6) for row, value in enumerate(values.tolist()) if value}


def dense(kept: dict[str, float], users: int) -> Tensor:
    """The values (users,) again.

    >>> dense(sparse(torch.tensor([0.0, 0.5, 0.0])), 3).tolist()
    [0.0, 0.5, 0.0]
    """
    values = torch.zeros(users, dtype=torch.float64)
    values[[int(row) for row in kept]] = torch.tensor(list(kept.values()), dtype=torch.float64)
    return values


def means(lines: list[dict[str, float]], names: Iterable[str]) -> dict[str, float]:
    """The mean of each number over the lines of metrics that have it.

    >>> means([{"step": 1, "silent": 0.5}, {"step": 2, "silent": 1.0}], ["silent", "mixed"])
    {'silent': 0.75}
    """
    values = {name: [line[name] for line in lines if name in line] for name in names}
    return {name: sum(numbers) / len(numbers) for name, numbers in values.items() if numbers}
