"""What all chapters share: the library's source on the page, the example user, the trained run, figures."""

from __future__ import annotations

import minirec  # isort: skip  before torch, whose waiting threads then do not spin

import inspect
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import FunctionType, ModuleType

import matplotlib
import numpy as np
import torch

from minirec.recommend import Recommender

ROOT = Path(__file__).parents[1]
USER = 17  # the running example: one user of the built-in world, from the first chapter to the last
RUN = ROOT / "runs" / "book"
TRAIN = (
    f"python -m minirec.train --tiny --objective none --fresh 0.2 --no-sasrec --out {RUN.relative_to(ROOT)}"
)

matplotlib.rcParams.update(
    {
        "figure.figsize": (7.5, 3.2),
        "figure.dpi": 150,
        "figure.constrained_layout.use": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "font.size": 9,
        "axes.titlesize": 10,
    }
)


def source(thing: FunctionType | type | ModuleType | tuple[str, str]) -> tuple[str, str, int]:
    """The source of something without its docstring, its file from the root, and its line.

    Of C++ the path of a file and the name of a function in it.
    """
    if isinstance(thing, tuple):
        path, name = thing
        page = (ROOT / path).read_text("utf-8")
        found = re.search(rf"^(template .*\n)?\w.*\b{name}\([^;]*\{{\n(.*\n)*?\}}\n", page, re.MULTILINE)
        if not found:
            raise LookupError(f"{path}: no {name}")
        return found[0], path, page.count("\n", 0, found.start()) + 1
    if isinstance(thing, ModuleType):
        return inspect.getsource(thing), Path(thing.__file__).relative_to(ROOT).as_posix(), 1
    lines, number = inspect.getsourcelines(thing)
    text = textwrap.dedent("".join(lines))
    document = thing.__doc__
    if document:  # the page says in prose what the docstring says; the code is what is shown
        for quotes in ('"""', 'r"""'):
            start = text.find(quotes)
            if start >= 0:
                end = text.index('"""', start + len(quotes)) + 3
                text = text[: text.rindex("\n", 0, start)] + text[end:]
                break
    path = Path(inspect.getsourcefile(inspect.unwrap(thing))).relative_to(ROOT).as_posix()
    return text.strip() + "\n", path, number


def show(*things: FunctionType | type | tuple[str, str]) -> None:
    """Put the library's own code on the page, with a link to where it stands."""
    for thing in things:
        text, path, number = source(thing)
        if isinstance(thing, tuple):
            name, language = " ".join(thing), "cpp"
        else:
            name, language = f"{thing.__module__}.{thing.__qualname__}", "python"
        where = f"[`{path}`, line {number}](../{path}#L{number})"
        page = f"<!-- shows {name} -->\n{where}\n```{language}\n{text}```"
        _display(page, text)


def stream(*seeds: int) -> torch.Generator:
    """A random stream of the book's own."""
    number = np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0] >> 1
    return torch.Generator().manual_seed(int(number))


def say(text: str) -> None:
    """Put a sentence with numbers in it on the page, as prose."""
    _display(text, text)


def tables(result: str) -> dict[str, dict[str, list[str]]]:
    """The tables of bench/results/NAME.md: by heading, then by the first cell of a row, its other cells."""
    found, heading = {}, ""
    for line in (ROOT / "bench" / "results" / f"{result}.md").read_text().splitlines():
        if line.startswith("#"):
            heading = line.strip("# ")
        if line.startswith("| "):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            found.setdefault(heading, {})[cells[0]] = cells[1:]
    return found


def _display(markdown: str, plain: str) -> None:
    if "ipykernel" in sys.modules:
        from IPython.display import Markdown, display

        display(Markdown(markdown))
    else:
        print(plain)


def trained() -> Recommender:
    """The supervised run that chapters from the second on look into; trained once, in half a minute."""
    if not (RUN / "report.json").is_file():
        print(f"{TRAIN}  (once, about 25 s)")
        subprocess.run([sys.executable, *TRAIN.split()[1:]], cwd=ROOT, check=True, capture_output=True)
    return minirec.load(RUN)
