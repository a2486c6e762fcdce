"""The house rules that a program can check: lint, format, docstrings, and the README's own words."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import minirec

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PATHS = sorted((ROOT / "minirec").rglob("*.py"))


@pytest.mark.parametrize("arguments", [["check"], ["format", "--check"]])
def test_ruff(arguments):
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *arguments, "."], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


# The house: what may import what, and how large its rooms may be

FILES = {path.relative_to(ROOT / "minirec").with_suffix("").as_posix(): path for path in PATHS}
FILES.pop("__init__")  # it names the others, and loads a run
FILES = {name.removesuffix("/__init__"): path for name, path in FILES.items()}  # a folder by its own name
GROUND = {"errors", "files", "noise", "settings"}
CORE = {"records", "trie", "policy", "rollout", "rewards", "tasks", "loop"}
COMMANDS = {"train", "evaluate", "recommend", "ops/__main__"}
LISTED = re.findall(r"^    (\S.*)$", minirec.__doc__, re.MULTILINE)
ORDER = [word for line in LISTED for word in line.split("  ") if word in FILES]  # the one place of the order


def imported(source, names):
    """The files of minirec that a source imports when it is loaded or later, but for annotations."""
    nodes = [ast.parse(source)]
    found = set()
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        nodes += ast.iter_child_nodes(node)
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "minirec":
            package = "/".join(node.module.split(".")[1:])
            inside = [f"{package}/{alias.name}".strip("/") for alias in node.names]
            inside = [name for name in inside if "/_" not in name]  # what is compiled is no file of these
            found |= {name if name in names else package for name in inside}
        if isinstance(node, ast.Import):
            dotted = [alias.name.split(".") for alias in node.names]
            found |= {"/".join(parts[1:]) for parts in dotted if parts[0] == "minirec"}
    return found - {""}


def kind(name):
    """The room of a file: ground, core, command, or its folder."""
    rooms = {"ground": GROUND, "core": CORE, "command": COMMANDS}
    head = name.split("/")[0]
    room = next((room for room, names in rooms.items() if name in names), head)
    return "core" if room == "objectives" else room


MAY = {
    "ground": {"ground"},
    "ops": {"ground", "ops"},
    "core": {"ground", "ops", "core"},
    "data": {"ground", "core", "data"},
    "models": {"ground", "core", "data", "models"},
    "measure": {"ground", "core", "ops", "data", "models", "measure"},
    "run": {"ground", "core", "data", "models", "measure", "run"},
    "command": {"ground", "core", "data", "models", "measure", "run", "ops"},
}  # nothing may import a command


def wrong_imports(sources):
    """Every import that goes in a wrong direction: "a -> b"."""
    return [
        f"{name} -> {other}"
        for name, source in sources.items()
        for other in sorted(imported(source, sources))
        if kind(other) not in MAY[kind(name)]
    ]


def early_imports(sources, order):
    """Every import of a file that comes later in an order: "a -> b"."""
    place = {name: i for i, name in enumerate(order)}
    return [
        f"{name} -> {other}"
        for name, source in sources.items()
        for other in sorted(imported(source, sources))
        if place[other] > place[name]
    ]


SOURCES = {name: path.read_text() for name, path in FILES.items() if path.read_text().strip()}


def test_imports_go_in_the_directions_of_the_house():
    assert wrong_imports(SOURCES) == []
    planted = SOURCES | {"loop": SOURCES["loop"] + "\nfrom minirec.measure import exact\n"}
    assert wrong_imports(planted) == ["loop -> measure/exact"]
    planted = SOURCES | {"measure/exact": "def f():\n    from minirec.run.folder import load\n"}
    assert wrong_imports(planted) == ["measure/exact -> run/folder"]
    planted = SOURCES | {"run/lists": "import minirec.train\n"}
    assert wrong_imports(planted) == ["run/lists -> train"]


def test_the_reading_order_names_every_file_once_and_no_file_imports_a_later_one():
    folders = {name for name, text in SOURCES.items() if not re.search(r"^(from|import) ", text, re.M)}
    assert sorted(ORDER) == sorted(SOURCES.keys() - folders)
    assert early_imports(SOURCES, [*sorted(folders), *ORDER]) == []
    a, b = ORDER.index("policy"), ORDER.index("rollout")
    exchanged = [*ORDER[:a], "rollout", *ORDER[a + 1 : b], "policy", *ORDER[b + 1 :]]
    assert "rollout -> policy" in early_imports(SOURCES, [*sorted(folders), *exchanged])


def test_the_house_is_small():
    sizes = {name: text.count("\n") for name, text in SOURCES.items()}
    assert max(sizes.values()) <= 300, max(sizes, key=sizes.get)
    assert sum(path.read_text().count("\n") for path in PATHS) <= 7000
    core = [name for name in sizes if kind(name) == "core" and name != "tasks"]
    assert sum(sizes[name] for name in core) <= 1500


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_functions_are_short_and_public_ones_have_docstrings_without_lists_of_arguments(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            continue
        where, text = f"{path.name}:{node.lineno} {node.name}", ast.get_docstring(node) or ""
        assert not re.search(r"^(Args|Returns|Raises|Yields):", text, re.M), where
        assert isinstance(node, ast.ClassDef) or node.end_lineno - node.lineno < 60, where
    tree = ast.parse(path.read_text())
    for owner in (tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))):
        for node in owner.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path.name}:{node.lineno} {node.name} has no docstring"


def test_every_folder_says_what_lives_there():
    for folder in ("data", "models", "measure", "run", "objectives", "ops"):
        assert len(ast.get_docstring(ast.parse(SOURCES[folder])).splitlines()) >= 3, folder


# Other Pythons, and other systems

PYTHONS = [f"3.{minor}" for minor in range(10, 15)]


@pytest.mark.parametrize("version", PYTHONS)
def test_every_python_from_3_10_on_can_read_the_sources(version, tmp_path):
    """With its own interpreter where there is one, else by its grammar."""
    minor = int(version.split(".")[1])
    interpreter = shutil.which(f"python{version}")  # it may be a name that stands for nothing
    if interpreter and subprocess.run([interpreter, "-c", ""], capture_output=True).returncode == 0:
        flags = ["-m", "compileall", "-q", "-f", str(ROOT / "minirec"), str(ROOT / "setup.py")]
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path)}
        subprocess.run([interpreter, *flags], check=True, env=environment)
    for path in PATHS:
        ast.parse(path.read_text(), feature_version=(3, minor))


def test_nothing_outside_csrc_asks_for_one_system_alone():
    for name, text in SOURCES.items():
        bound = re.search(r"^\s*(import|from) (fcntl|resource|pwd|grp|termios|posix)\b|/proc/", text, re.M)
        assert not bound, name


# The README


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
