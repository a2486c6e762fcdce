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
from tests.stage_faults import STAGES
from tests.wiring_faults import WIRES

ROOT = Path(__file__).parent.parent
COPIES = 2  # that tests run in at the same time

FAULTS = FORMULAS | {
    name: (*fault, test) for test, faults in (STAGES | WIRES).items() for name, fault in faults.items()
}


def pytest_of(copy: Path, *tests: str) -> subprocess.CompletedProcess:
    """Run tests of a copy, with the fixed examples of CI and without plugins: most of the time is start.

    Without kernels too, as bugs are planted in their twins."""
    fixed = {
        "CI": "true",
        "MINIREC_NO_EXT": "1",
        "OMP_NUM_THREADS": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests],
        cwd=copy,
        env=os.environ | fixed | {"PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What the tests say about every fault, and about no fault at all (None)."""
    copies: Queue[Path] = Queue()
    for _ in range(COPIES):
        copy = tmp_path_factory.mktemp("copy")
        for part in ("minirec", "tests"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        copies.put(copy)

    def outcome(name: str | None) -> subprocess.CompletedProcess:
        copy = copies.get()
        try:
            if name is None:
                return pytest_of(copy, *sorted({f"tests/{fault[3]}" for fault in FAULTS.values()}))
            file, right, wrong, test = FAULTS[name]
            path = copy / "minirec" / file
            text = path.read_text()
            path.write_text(text.replace(right, wrong))
            try:
                return pytest_of(copy, f"tests/{test}")
            finally:
                path.write_text(text)
        finally:
            copies.put(copy)

    with ThreadPoolExecutor(COPIES) as pool:
        names = [None, *FAULTS]
        return dict(zip(names, pool.map(outcome, names), strict=True))


def test_without_a_fault_all_named_tests_pass(outcomes):
    assert outcomes[None].returncode == 0, outcomes[None].stdout


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_bug_turns_its_test_red(outcomes, fault):
    file, right, _, test = FAULTS[fault]
    times = (ROOT / "minirec" / file).read_text().count(right)
    assert times == 1, f"{file} has this {times} times, and a fault changes one place: {right}"
    done = outcomes[fault]
    assert done.returncode == 1, done.stdout  # tests ran and one failed; 2 to 5 are errors of another kind
    assert "1 failed" in done.stdout
    by_assertion = rf"^FAILED tests/{re.escape(test)}.* - (AssertionError|assert )"
    assert re.search(by_assertion, done.stdout, re.MULTILINE), done.stdout
