"""Reading a csv of ten million events: time, and the most memory that the process held."""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from bench.timing import write

EVENTS, USERS, ITEMS = 10_000_000, 200_000, 50_000
CHUNK = 100_000  # events written at once

READ = """
import resource, sys, time
from pathlib import Path
from minirec.data import logs

def peak():
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, on macOS bytes
    return used / (2**20 if sys.platform == "darwin" else 2**10)

before, start, busy = peak(), time.perf_counter(), time.process_time()
events, _, notes = logs.read(Path(sys.argv[1]))
seconds, busy = time.perf_counter() - start, time.process_time() - busy
size = sum(column.nbytes for column in events.values()) / 2**20
print(len(events["user"]), seconds, busy, before, peak(), size)
"""


def make(path: Path) -> None:
    """Write a log in MovieLens' layout, the times in order."""
    random = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        file.write("userId,movieId,rating,timestamp\n")
        for start in range(0, EVENTS, CHUNK):
            users, items = random.integers(USERS, size=CHUNK), random.integers(ITEMS, size=CHUNK)
            ratings = random.integers(1, 11, size=CHUNK) / 2
            rows = zip(
                users.tolist(), items.tolist(), ratings.tolist(), range(start, start + CHUNK), strict=True
            )
            file.writelines(
                f"{user},{item},{rating},{964982703 + time}\n" for user, item, rating, time in rows
            )


def main() -> None:
    """Write the log to a temporary folder, read it in a process of its own, and keep what that took."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ratings.csv"
        make(path)
        size = path.stat().st_size / 2**20
        answer = subprocess.run(
            [sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=True
        )
    count, seconds, busy, before, peak, columns = map(float, answer.stdout.split())
    assert count == EVENTS
    lines = [
        f"{EVENTS:,} events of {USERS:,} users and {ITEMS:,} items, with times: {size:,.0f} MiB of csv.",
        "",
        "| seconds | of them on the processor | MiB before | MiB at most | MiB of the four columns |",
        "|---|---|---|---|---|",
        f"| {seconds:.0f} | {busy:.0f} | {before:.0f} | {peak:.0f} | {columns:.0f} |",
    ]
    write("reading", "Reading a large log", lines)


if __name__ == "__main__":
    main()
