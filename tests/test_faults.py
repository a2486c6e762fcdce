"""Planted bugs: each is one line in a copy of the project, and must turn the test named beside it red."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

import pytest

from tests.faults import FORMULAS
from tests.kernel_faults import KERNELS
from tests.stage_faults import STAGES
from tests.wiring_faults import WIRES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
COPIES = 2  # that tests run in at the same time

FAULTS = FORMULAS | {
    name: (*fault, test)
    for test, faults in (STAGES | WIRES | KERNELS).items()
    for name, fault in faults.items()
}


class Copy:
    """A copy of the project, where tests run without plugins and with the fixed examples of CI.

    They run without kernels, as bugs are planted in their twins, and without bytecode, which would be taken
    for that of a source of the same size that changes within a second.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for part in ("minirec", "bench", "tests", "tutorials", "csrc"):
            ignored = shutil.ignore_patterns("__pycache__", "*.png", "*.md")
            shutil.copytree(ROOT / part, folder / part, ignore=ignored)
        shutil.copy(ROOT / "pyproject.toml", folder)
        flags = ("CI", "MINIREC_NO_EXT", "OMP_NUM_THREADS", "PYTEST_DISABLE_PLUGIN_AUTOLOAD")
        flags += ("PYTHONDONTWRITEBYTECODE",)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.forked"],
            cwd=folder,
            env=os.environ | dict.fromkeys(flags, "1") | {"PYTHONPATH": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def pytest(self, *tests: str) -> tuple[int, str]:
        """Run tests: the exit code of pytest, and what it said."""
        output = self.folder / "output"
        output.write_text("")
        print(output, *(f"tests/{test}" for test in tests), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline()), output.read_text()

    def outcome(self, name: str | None) -> tuple[int, str]:
        """What the tests say about a fault, or about no fault at all (None)."""
        if name is None:
            return self.pytest(*sorted({fault[3] for fault in FAULTS.values()}))
        file, right, wrong, test = FAULTS[name]
        path = self.folder / "minirec" / file
        text = path.read_text()
        path.write_text(text.replace(right, wrong))
        try:
            return self.pytest(test)
        finally:
            path.write_text(text)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What the tests say about every fault, and about no fault at all (None)."""
    copies, free = [Copy(tmp_path_factory.mktemp("copy")) for _ in range(COPIES)], Queue()
    for copy in copies:
        free.put(copy)

    def outcome(name: str | None) -> tuple[int, str]:
        copy = free.get()
        try:
            return copy.outcome(name)
        finally:
            free.put(copy)

    names = [None, *FAULTS]
    with ThreadPoolExecutor(COPIES) as pool:
        found = dict(zip(names, pool.map(outcome, names), strict=True))
    for copy in copies:
        copy.process.communicate()  # ends with its input
    return found


def test_without_a_fault_all_named_tests_pass(outcomes):
    code, said = outcomes[None]
    assert code == 0, said


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_bug_turns_its_test_red(outcomes, fault):
    file, right, _, test = FAULTS[fault]
    times = (ROOT / "minirec" / file).read_text().count(right)
    assert times == 1, f"{file} has this {times} times, and a fault changes one place: {right}"
    code, said = outcomes[fault]
    assert code == 1, said  # tests ran and one failed; 2 to 5 are errors of another kind
    assert "1 failed" in said
    by_assertion = rf"^FAILED tests/{re.escape(test)}.* - (AssertionError|assert |Failed: DID NOT RAISE)"
    assert re.search(by_assertion, said, re.MULTILINE), said
