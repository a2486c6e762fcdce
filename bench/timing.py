"""Time alternatives side by side, so that their ratio does not depend on what else the machine does."""

import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch


def medians(alternatives: dict[str, Callable[[], object]], rounds: int = 7) -> dict[str, float]:
    """Run every alternative once per round, in turn, after a round of warming up; median seconds by name."""
    seconds: dict[str, list[float]] = {name: [] for name in alternatives}
    for i in range(rounds + 1):
        for name, run in alternatives.items():
            start = time.perf_counter()
            run()
            if i:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def machine() -> str:
    """Processor, threads and versions, for the head of a result."""
    model = platform.processor() or "unknown processor"
    info = Path("/proc/cpuinfo")
    if info.is_file():
        model = next(
            (x.split(":")[1].strip() for x in info.read_text("utf-8").splitlines() if "model name" in x),
            model,
        )
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    return f"{model}, {torch.get_num_threads()} threads; {versions}"


def heading(name: str, title: str) -> list[str]:
    """The first lines of a result: its title, the command, and the machine."""
    command = "python -m " + " ".join([f"bench.{name}", *sys.argv[1:]])
    return [f"# {title}", "", f"`{command}`, {machine()}", ""]


def write(name: str, title: str, lines: list[str], result: str = "") -> None:
    """Print a result and keep it in bench/results, with the command and the machine."""
    page = "\n".join([*heading(name, title), *lines, ""])
    print(page)
    (Path(__file__).parent / "results" / f"{result or name}.md").write_text(page, "utf-8")
