"""Every number in the prose of README.md and bench/README.md is one of a committed result."""

import re

import pytest

from bench import claims, claims_lists, real, real_lists
from bench.seeds import table
from minirec.settings import Config
from tests.held import FIRST, HARMFUL, HELD, MOVIE, NOISE, OTHER, REAL, RIGHT, SPARSE, SWAP, WEAK
from tests.results import NUMBER, ROOT, numbers

RESULTS = ROOT / "bench" / "results"
CLAIMS = ("adagrpo", "recast-sparse", "recast-weak", "recast-weak_again")
PAGES = {f"claims_{name}": claims.page for name in CLAIMS}
PAGES |= {"claims_flexrec": claims_lists.page, "real": real.page, "real_lists": real_lists.page}
LOST = "values by seed were not kept"
MINUS = "minus continued"


def prose(page):
    """The words of a page, without code, link targets, and names of metrics."""
    text = re.sub(r"```.*?```", " ", (ROOT / page).read_text(), flags=re.S)
    text = re.sub(r"^    .*$", " ", text, flags=re.M)
    return " ".join(re.sub(r"`[^`]*`|\]\([^)]*\)|\w+@\d+", " ", text).split())


def wrong(fragment, values):
    """What is wrong with the numbers of a fragment, to the digits shown; thousands may be rounded to such."""
    faults = []
    for (token, number), value in zip(numbers(fragment), values, strict=True):
        digits = len(token.partition(".")[2])
        unit = 10.0**-digits if digits or number % 1000 else 1000.0
        value = value if token[0] in "+-" else abs(value)
        if abs(number - value) > unit / 2 + 1e-9:  # the second for the binary fractions of a tie
            faults.append(f"{fragment!r}: {token} is {value:g}")
    return faults


def unknown(text, fragments):
    """The sentences of a text with a number that is in no fragment."""
    for fragment in fragments:
        assert fragment in text, fragment
        text = text.replace(fragment, re.sub(r"[.\d]", "_", fragment))
    return [sentence for sentence in re.split(r"(?<=[.:;]) ", text) if NUMBER.search(sentence)]


@pytest.mark.parametrize("page", HELD)
def test_every_number_of_a_page_is_that_of_a_result(page):
    assert [fault for fragment, values in HELD[page] for fault in wrong(fragment, values)] == []


@pytest.mark.parametrize("page", HELD)
def test_no_number_of_a_page_stands_without_a_result(page):
    assert unknown(prose(page), [fragment for fragment, _ in HELD[page]] + OTHER[page]) == []


def test_a_planted_number_is_seen():
    fragment, values = HELD["README.md"][1]
    assert wrong(fragment.replace("5", "6", 1), values)
    assert unknown("It is 1.7. They are 2.4.", ["is 1.7"]) == ["They are 2.4."]


def test_what_the_repository_has_is_as_the_readme_says():
    cfg = Config()
    assert (cfg.levels, cfg.codes, cfg.history, cfg.candidates) == (3, 256, 50, 10)
    core = ("records", "trie", "policy", "rollout", "rewards", "tasks", "loop")
    paths = [ROOT / "minirec" / f"{name}.py" for name in core]
    paths += (ROOT / "minirec" / "objectives").glob("*.py")
    assert sum(path.read_text().count("\n") for path in paths) < 2000
    setup = (ROOT / "setup.py").read_text()
    assert 'python_requires=">=3.10"' in setup
    assert "g++ 12 or later" in setup


@pytest.mark.parametrize("name", PAGES)
def test_a_table_over_seeds_is_that_of_its_values_by_seed_or_says_that_they_were_not_kept(name):
    path = RESULTS / f"{name}.json"
    text = path.with_suffix(".md").read_text()
    assert text == table(path, PAGES[name]) if path.is_file() else LOST in text


def test_what_is_counted_in_words():
    rates = [row["rate"] for name, row in REAL.items() if name != "supervised"]
    assert (len(rates), rates.count([1e-5])) == (8, 6)  # "six of the eight arms took the smallest"
    told = {name for name, row in REAL.items() if row[MINUS] and not row[MINUS][1] <= 0 <= row[MINUS][2]}
    assert told == {"repair alone"}  # "no arm is above ...; repair alone is below it", on recall@10
    gates = [row[MINUS] for rows in (RIGHT, NOISE, HARMFUL) for row in rows.values() if row[MINUS]]
    assert max(mean - half for mean, half in gates) < 0  # "no arm is told to be above supervised continued"
    others = [row["ours minus it"][0] for name, row in SPARSE.items() if name != "ReCast"]
    assert max(others) < 0  # "it is below every other arm"
    assert round(SWAP["without out="]["of the kernel"][0]) == 3  # "costs three times as much"
    level = re.findall(r"times the kernel\) at (.*)\.", (RESULTS / "kernels_sweep_cpu.md").read_text())
    assert level == ["no size", "G = 3", "no size"]  # "torch.compile is level with groups of three alone"
    needs = {name: row["trained needs"][0] for name, row in MOVIE.items()}
    assert max(needs, key=needs.get) == "item mean"  # "is above all of them"
    moved = [name for name, row in WEAK.items() if row["hr@10"] != FIRST[name]["hr@10"]]
    assert moved == [
        "GRPO, beams",
        "repair alone",
        "ReCast",
    ]  # "the rows without repair or beams are the same"
