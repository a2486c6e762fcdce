"""The book: pages stand for their sources, chapters import only what was introduced, exact values hold."""

import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("jupytext", reason="the tools of the book are not installed: pip install -e '.[book]'")

from tutorials import build

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("chapter", build.chapters(), ids=lambda path: path.stem)
def test_a_page_stands_for_its_source_and_for_the_library_that_it_shows(chapter):
    assert build.stale(chapter) == []


def test_chapters_import_only_what_was_introduced():
    assert build.unknown_imports() == []


def test_a_page_is_stale_when_the_library_that_it_shows_has_changed(monkeypatch):
    chapter = next(c for c in build.chapters() if build.shown_blocks(c.with_suffix(".md").read_text()))
    monkeypatch.setattr(build.book, "source", lambda thing: ("something else\n", "", 1))
    assert build.stale(chapter)


def test_a_function_of_a_kernel_is_shown_whole_and_missed_when_it_is_gone():
    path = "csrc/ladder/swap_ndcg.cu"
    text, _, line = build.book.source(build.find(f"{path} ladder_closed"))
    lines = (ROOT / path).read_text().splitlines()
    assert lines[line - 1 : line - 1 + text.count("\n")] == text.splitlines()
    assert text.startswith("__global__ void ladder_closed(")
    assert (text.count("{"), text.endswith("\n}\n")) == (text.count("}"), True)
    with pytest.raises(LookupError):
        build.book.source((path, "ladder_gone"))


def test_all_chapters_run_and_their_exact_values_are_those_on_the_pages():
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tutorials.build", "--check"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


EXERCISES = [f"ch{number:02}_{kind}" for number in (*range(2, 9), 10) for kind in ("build", "bug")]


def outcomes(tmp_path_factory, folder):
    """By exercise, whether each of its tests passes on what the folder has."""
    report = tmp_path_factory.mktemp("exercises") / "report.xml"
    command = [sys.executable, "-m", "pytest", "tutorials/exercises", f"--junitxml={report}", "-q"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "EXERCISES": folder}
    subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
    found = defaultdict(list)
    for case in ElementTree.parse(report).iter("testcase"):
        passed = all(case.find(word) is None for word in ("failure", "error", "skipped"))
        for used in case.iter("property"):
            found[used.get("value")].append(passed)
    return found


@pytest.fixture(scope="module")
def stubs(tmp_path_factory):
    return outcomes(tmp_path_factory, "exercises")


@pytest.fixture(scope="module")
def solutions(tmp_path_factory):
    return outcomes(tmp_path_factory, "solutions")


@pytest.mark.parametrize("name", EXERCISES)
def test_a_stub_fails_its_tests_and_the_solution_passes_them(name, stubs, solutions):
    assert False in stubs[name]
    assert solutions[name]
    assert all(solutions[name])


def test_what_a_code_host_cannot_show_is_found():
    wide, narrow = "x" * (build.WIDTH + 1), "x" * build.WIDTH
    assert build.wide(f"prose {wide}\n\n```python\n{narrow}\n{wide}\n```\n\n    {narrow}\n") == [
        wide,
        f"    {narrow}",
    ]
    assert build.fragile("$a_1 + b$, `$a * b$`, $a\\, b$ and $p^*$") == ["$a\\, b$", "$p^*$"]
    assert build.fragile("one line $a +\nb$ and another") == ["one line $a +", "b$ and another"]
