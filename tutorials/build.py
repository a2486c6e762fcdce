"""Build the book: from every chapter's source its page, with outputs and figures.

    python -m tutorials.build             all chapters
    python -m tutorials.build 5 8         these
    python -m tutorials.build --check     build nothing; exit 1 where a page is stale or a value has moved

A chapter is a percent-format script, chNN_name.py. It runs as a script, cell by cell in an editor, and in
Jupyter (jupytext opens it). Its page, chNN_name.md, is what the cells printed and drew. A page is stale when
its source has another hash than the page says, or when library source that it shows is not what stands in the
library. Values are compared in cells that begin with ``# %% tags=["exact"]``; the code of cells with
``tags=["hide"]`` is left out of the page, and ``caption="..."`` says what a figure shows.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import importlib
import os
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbconvert import MarkdownExporter

from tutorials import book

HERE = Path(__file__).parent
PACKAGES = {"minirec", *(f"minirec.{name}" for name in ("objectives", "data", "models", "measure", "run"))}
WIDTH = 104  # characters of code that a code host shows without scrolling
ALWAYS = {
    "book",
    "fixed_points",
    "strata",
    "torch",
    "numpy",
    "matplotlib.pyplot",
    "math",
    "copy",
    "dataclasses",
    "functools",
    "re",
    "ctypes",
    "subprocess",
    "tempfile",
    "unittest",
}  # any chapter may import these


def chapters() -> list[Path]:
    """The sources, in order."""
    return sorted(HERE.glob("ch[0-9][0-9]_*.py"))


def head(chapter: Path) -> str:
    """The first line of a page: which source it was built from."""
    return f"<!-- built by tutorials/build.py from {chapter.name} {_hash(chapter.read_text('utf-8'))} -->"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def execute(chapter: Path) -> nbformat.NotebookNode:
    """Run a chapter as a notebook, in a process of its own."""
    notebook = jupytext.read(chapter)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python", "language": "python"}
    where = {"metadata": {"path": str(HERE)}}
    NotebookClient(notebook, timeout=300, coalesce_streams=True, resources=where).execute()
    return notebook


def exact_values(notebook: nbformat.NotebookNode) -> list[str]:
    """What the cells marked exact printed."""
    cells = [cell for cell in notebook.cells if "exact" in cell.metadata.get("tags", [])]
    return ["".join(output.get("text", "") for output in cell.outputs) for cell in cells]


def write(chapter: Path, notebook: nbformat.NotebookNode) -> None:
    """Write a page and its figures; figures of an earlier build go."""
    name = chapter.stem
    figures = HERE / "figures"
    figures.mkdir(exist_ok=True)
    for old in figures.glob(f"{name}_*"):
        old.unlink()
    captions = []
    for cell in notebook.cells:
        drawn = [output for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
        captions += [cell.metadata.get("caption", "")] * len(drawn)
        if "hide" in cell.metadata.get("tags", []):
            cell.source = ""  # code that only draws stands in the source, not on the page
    page, resources = MarkdownExporter().from_notebook_node(notebook)
    page = page.replace("```python\n\n```\n", "")
    keys = re.findall(r"!\[png\]\((output_\S+\.png)\)", page)
    for number, (key, caption) in enumerate(zip(keys, captions, strict=True), 1):
        figure = f"{name}_{number}.png"
        (figures / figure).write_bytes(resources["outputs"][key])
        below = f"\n\n*{caption}*" if caption else ""
        page = page.replace(f"![png]({key})", f"![{caption}](figures/{figure}){below}")
    page = re.sub(r"\n{3,}", "\n\n", page)
    (HERE / f"{name}.md").write_text(f"{head(chapter)}\n\n{page.strip()}\n", "utf-8")


def shown_blocks(page: str) -> list[tuple[str, str]]:
    """Of a page, (qualified name, source) of all library code on it."""
    return re.findall(r"<!-- shows ([\w./ ]+) -->\n.*?\n```\w+\n(.*?)```", page, re.DOTALL)


def wide(page: str) -> list[str]:
    """The lines of code and of output that are wider than a page."""
    fence = re.compile(r"```\w*\n(.*?)```", re.DOTALL)
    code = "".join(fence.findall(page)).splitlines()
    output = re.findall(r"^    .*$", fence.sub("", page), re.MULTILINE)
    return [line for line in code + output if len(line) > WIDTH]


def fragile(page: str) -> list[str]:
    """Formulas that run over a line, or have an escape, an asterisk or a bracket, as in markdown."""
    prose = re.sub(r"```.*?```|^    .*?$|`[^`\n]*`", "", page, flags=re.DOTALL | re.MULTILINE)
    formula = re.compile(r"^\$\$\n[^$]+\n\$\$$|\$\$[^$\n]+\$\$|\$[^$\n]+\$", re.MULTILINE)
    odd = [one for one in formula.findall(prose) if re.search(r"\\[^A-Za-z]|[*<]", one)]
    return odd + re.findall(r".*\$.*", formula.sub("", prose))


def find(name: str):
    """The function or class of a qualified name; of C++ the file and the name."""
    if " " in name:
        return tuple(name.split())
    parts = name.split(".")
    parts = ["tutorials", *parts] if parts[0] in ALWAYS else parts
    for cut in range(len(parts) - 1, 0, -1):
        try:
            thing = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            thing = getattr(thing, part)
        return thing
    raise LookupError(name)


def stale(chapter: Path) -> list[str]:
    """Why a page does not stand for its source, or cannot be read, if so."""
    path = HERE / f"{chapter.stem}.md"
    if not path.is_file():
        return [f"{path.name}: not built"]
    page = path.read_text("utf-8")
    reasons = [] if page.startswith(head(chapter)) else [f"{path.name}: {chapter.name} has changed"]
    for name, text in shown_blocks(page):
        try:
            now = book.source(find(name))[0]
        except (LookupError, AttributeError):
            now = ""
        if now != text:
            reasons.append(f"{path.name}: {name} has changed")
    reasons += [f"{path.name}: wider than the page: {line}" for line in wide(page)]
    return reasons + [f"{path.name}: may not render: {formula}" for formula in fragile(page)]


def imports(chapter: Path) -> set[str]:
    """The modules that a chapter imports; of minirec, which module of it."""
    found = set()
    for node in ast.walk(ast.parse(chapter.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            package = node.module or ""
            within = package in PACKAGES
            found |= {f"{package}.{alias.name}" for alias in node.names} if within else {package}
    return found


def listed(chapter: Path, word: str) -> set[str]:
    """The modules in lines ``# introduces: minirec.data.world minirec.data.codes`` or ``# previews: ...``."""
    found = re.findall(rf"^# {word}:(.*)$", chapter.read_text("utf-8"), re.MULTILINE)
    return set(" ".join(found).split())


def unknown_imports() -> list[str]:
    """Modules that a chapter imports, and neither it nor one before introduces; a preview is for itself."""
    known, problems = set(ALWAYS), []
    for chapter in chapters():
        known |= listed(chapter, "introduces")
        unknown = imports(chapter) - known - listed(chapter, "previews") - {"__future__"}
        problems += [f"{chapter.name}: imports {name} too early" for name in sorted(unknown)]
    return problems


def build(chapter: Path) -> str:
    """Run a chapter and write its page; a line about it, and what is wrong with it."""
    start = time.monotonic()
    write(chapter, execute(chapter))
    return "\n".join([f"{chapter.stem}: {time.monotonic() - start:.0f} s", *stale(chapter)])


def check(chapter: Path) -> list[str]:
    """Why a page is stale, or which exact value is another one now."""
    reasons = stale(chapter)
    if not reasons:
        page = (HERE / f"{chapter.stem}.md").read_text("utf-8")
        for value in exact_values(execute(chapter)):
            shown = "\n".join("    " + line if line else "" for line in value.rstrip("\n").splitlines())
            if shown not in page:
                reasons.append(f"{chapter.stem}.md: an exact value is now\n{value}")
    return reasons


def main() -> None:
    """Build, or check."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("numbers", nargs="*", type=int, help="chapters; all without")
    parser.add_argument("--check", action="store_true", help="build nothing, exit 1 where a page is stale")
    args = parser.parse_args()
    chosen = [c for c in chapters() if not args.numbers or int(c.name[2:4]) in args.numbers]
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # two chapters at a time
    book.trained()
    with ThreadPoolExecutor(2) as pool:
        if args.check:
            problems = unknown_imports() + [why for found in pool.map(check, chosen) for why in found]
            print("\n".join(problems) or f"{len(chosen)} pages are what their sources make")
            sys.exit(bool(problems))
        for line in pool.map(build, chosen):
            print(line)


if __name__ == "__main__":
    main()
