"""Time alternatives side by side, so that their ratio does not depend on what else the machine does."""

import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch


def wall(run: Callable[[], object]) -> float:
    """Seconds of a run by the clock of the process."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def turns(
    alternatives: dict[str, Callable[[], object]],
    rounds: int = 7,
    clock: Callable[[Callable[[], object]], float] = wall,
) -> dict[str, list[float]]:
    """Run every alternative once per round, in turn, after a round of warming up; seconds of each round."""
    seconds: dict[str, list[float]] = {name: [] for name in alternatives}
    for i in range(rounds + 1):
        for name, run in alternatives.items():
            value = clock(run)
            if i:
                seconds[name].append(value)
    return seconds


def medians(
    alternatives: dict[str, Callable[[], object]],
    rounds: int = 7,
    clock: Callable[[Callable[[], object]], float] = wall,
) -> dict[str, float]:
    """The median seconds of ``turns``, by name."""
    return {name: statistics.median(values) for name, values in turns(alternatives, rounds, clock).items()}


def caches(folder: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> dict[str, int]:
    """KiB of the first processor's caches for data, by level: "L1", "L2", "L3"; empty where Linux is not."""
    found = {}
    for cache in sorted(folder.glob("index*")):
        kind, level, size = ((cache / name).read_text("utf-8").strip() for name in ("type", "level", "size"))
        if kind != "Instruction":
            found[f"L{level}"] = int(size.removesuffix("K"))
    return found


def machine() -> str:
    """Processor, threads, caches and versions, for the head of a result."""
    model = platform.processor() or "unknown processor"
    info = Path("/proc/cpuinfo")
    if info.is_file():
        model = next(
            (x.split(":")[1].strip() for x in info.read_text("utf-8").splitlines() if "model name" in x),
            model,
        )
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    sizes = ", ".join(f"{name} {size:,} KiB" for name, size in caches().items()) or "unknown"
    return f"{model}, {torch.get_num_threads()} threads; caches: {sizes}; {versions}"


def heading(name: str, title: str) -> list[str]:
    """The first lines of a result: its title, the command, and the machine."""
    command = "python -m " + " ".join([f"bench.{name}", *sys.argv[1:]])
    return [f"# {title}", "", f"`{command}`, {machine()}", ""]


def write(name: str, title: str, lines: list[str], result: str = "") -> None:
    """Print a result and keep it in bench/results, with the command and the machine."""
    page = "\n".join([*heading(name, title), *lines, ""])
    print(page)
    (Path(__file__).parent / "results" / f"{result or name}.md").write_text(page, "utf-8")
