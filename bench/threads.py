"""What waiting threads cost: supervised training of the tiny size, alone and beside other work.

How threads wait is read when torch is imported, so every measurement is a process of its own.
"""

import os
import statistics
import subprocess
import sys

from bench.timing import write

WAYS = {  # what is imported first, and how many threads there are
    "1 thread, the default at this size": ("minirec", 1),
    "2 threads that wait passively, as minirec asks them to": ("minirec", 2),
    "2 threads that wait as OpenMP has it": ("torch", 2),
}
STEPS, ROUNDS = 20, 3  # as many steps again come before, to warm up
WORK = """
import tempfile
import time
from dataclasses import replace

from minirec.run import folder, machine
from minirec.run.training import Supervised
from minirec.settings import TINY

with tempfile.TemporaryDirectory() as out:
    cfg = replace(TINY, out=out + "/run", keep_seen=True, device="cpu", threads={threads})
    processes = machine.join(cfg)
    with folder.begun([cfg]):
        training = Supervised(folder.open_run(cfg, processes))
        for step in range(2 * {steps}):
            if step == {steps}:
                start = time.perf_counter()
            training.update()
        print((time.perf_counter() - start) / {steps})
"""
BUSY = "import torch\na = torch.rand(500, 500)\nwhile True: a @ a"


def step(first: str, threads: int) -> float:
    """Seconds of a step of training, in a process of its own."""
    code = f"import {first}\n" + WORK.format(threads=threads, steps=STEPS)
    unset = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    return float(
        subprocess.run([sys.executable, "-c", code], env=unset, stdout=subprocess.PIPE, check=True).stdout
    )


def measure(busy: int) -> dict[str, float]:
    """Median seconds of a step by way, in turn, beside as many busy processes of one thread."""
    one = os.environ | {"OMP_NUM_THREADS": "1"}
    others = [subprocess.Popen([sys.executable, "-c", BUSY], env=one) for _ in range(busy)]
    try:
        rounds = [{name: step(*way) for name, way in WAYS.items()} for _ in range(ROUNDS)]
    finally:
        for other in others:
            other.kill()
    return {name: statistics.median(seconds[name] for seconds in rounds) for name in WAYS}


def main() -> None:
    """Measure alone, and beside one busy process per core."""
    cores, load = os.cpu_count() or 1, os.getloadavg()[0]
    alone, beside = measure(0), measure(cores)
    lines = [
        f"A step of supervised training under `--tiny`, median of {ROUNDS} processes of {STEPS} steps each."
    ]
    lines += [
        f"{cores} cores; the load before was {load:.2f}. Busy: {cores} more processes of one thread.",
        "",
    ]
    lines += ["| | ms alone | ratio | ms, busy | ratio |", "|---|---|---|---|---|"]
    base = next(iter(WAYS))
    for name in WAYS:
        cells = [f"{1000 * x[name]:.0f} | {x[name] / x[base]:.2f}" for x in (alone, beside)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    write("threads", "Threads that wait", lines)


if __name__ == "__main__":
    main()
