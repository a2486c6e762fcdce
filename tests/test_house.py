"""The house rules that a program can check: lint, format, docstrings, and the README's own words."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import minirec

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("arguments", [["check"], ["format", "--check"]])
def test_ruff(arguments):
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *arguments, "."], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", sorted((ROOT / "minirec").rglob("*.py")), ids=lambda path: path.stem)
def test_public_functions_have_docstrings(path):
    tree = ast.parse(path.read_text())
    owners = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]
    for node in [child for owner in owners for child in owner.body]:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path.name}:{node.lineno} {node.name} has no docstring"


@pytest.mark.parametrize("path", sorted((ROOT / "minirec").rglob("*.py")), ids=lambda path: path.stem)
def test_functions_of_two_parameters_document_them_and_what_they_return(path):
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            a, doc = node.args, ast.get_docstring(node) or ""
            if len([*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]) < 2:
                continue
            nothing = node.returns and ast.unparse(node.returns) == "None"
            assert "Args:" in doc, f"{path.name}:{node.lineno} {node.name} has no Args"
            gives = nothing or "Returns:" in doc or "Yields:" in doc
            assert gives, f"{path.name}:{node.lineno} {node.name} has no Returns"


def test_the_reading_order_names_every_file():
    files = {path.stem for path in (ROOT / "minirec").glob("*.py")} - {"__init__", "errors"}
    words = set(re.findall(r"\w+", minirec.__doc__))
    assert files <= words, files - words
    assert all(f"minirec/{name}.py" in README or f"`{name}" in README for name in files)


def commands(block):
    """The commands of a code block of the README, with continued lines joined."""
    return [line for line in block.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The README's first command without its setting up, in an empty folder."""
    folder = tmp_path_factory.mktemp("readme")
    line = next(line for line in README.splitlines() if line.endswith("minirec.train --tiny"))
    run(line.split("&&")[-1].strip(), folder)
    return folder


def run(line, folder):
    words = [sys.executable if "python" in Path(word).name else word for word in shlex.split(line)]
    done = subprocess.run(
        words,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_first_run_beats_every_floor_and_prints_what_the_readme_shows(tiny):
    report = (tiny / "runs/tiny/report.md").read_text()
    assert "The supervised policy is above popularity, markov, item-kNN" in report
    shown = README.split("<!-- tiny -->")[1]
    header, *body = shown[shown.index("method ") :].splitlines()
    for row in json.loads((tiny / "runs/tiny/report.json").read_text()):
        line = next(line for line in body if line.startswith(row["method"]))
        values = dict(zip(header.split()[1:], line.removeprefix(row["method"]).split(), strict=False))
        # What is counted is the same everywhere, to the four digits shown. Training adds up float32 in
        # another order on another machine; that may move less than the distance to the floor beneath.
        counted = row["method"] in ("popularity", "markov", "item-kNN", "true law")
        tolerance = 6e-5 if counted else 0.015
        assert float(values["ndcg@10"]) == pytest.approx(row["ndcg@10"], abs=tolerance)


def test_the_commands_of_the_readme_run(tiny):
    lines = [line for block in re.findall(r"```bash\n(.*?)```", README, re.S) for line in commands(block)]
    mine = [line for line in lines if "--run runs/tiny" in line]
    assert len(mine) >= 3
    for line in mine:
        run(line, tiny)


def test_the_python_of_the_readme_runs(tiny):
    for block in re.findall(r"```python\n(.*?)```", README, re.S):
        script = tiny / "snippet.py"
        script.write_text(block)
        assert run("python snippet.py", tiny).strip()
