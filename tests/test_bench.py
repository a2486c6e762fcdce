"""The benches over seeds: one seed after another in one run folder, and a table made of what was kept."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch

import bench
from bench import quality, real, real_lists
from bench.seeds import dense, keep, sparse, table
from minirec import settings
from minirec.data.lists import HELD_OUT, NEEDS
from minirec.measure.metrics import paired_bootstrap
from minirec.run.folder import save, save_data
from tests.small_run import CFG, make_codes, make_dataset, make_policy

ARMS = ("supervised continued", "AdaGRPO")
BENCHES = sorted(path.stem for path in Path(bench.__file__).parent.glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", BENCHES)
def test_every_bench_finds_what_it_imports(name):
    try:
        import_module(f"bench.{name}")
    except ModuleNotFoundError as error:  # a package to compare with, which not every machine has
        if error.name.split(".")[0] in ("bench", "minirec"):
            raise


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run folder with users that supervised training left out."""
    folder, dataset = tmp_path_factory.mktemp("run"), make_dataset()
    settings.write(CFG, folder / "config.json")
    data = save_data(folder, replace(dataset, fresh=dataset.train), make_codes(), [])
    save(folder / "checkpoint.pt", {"step": 0, "data": data, "best": make_policy()[0].state_dict()})
    return folder


def test_seeds_of_real_run_after_one_another_and_their_values_give_the_table(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(real, "STEPS", 2)
    seeds = {name: [real.work((folder, name, seed, 1e-2, 1.0, "test")) for seed in (0, 1)] for name in ARMS}
    assert (folder / "ranker.pt").is_file()
    raw = {
        "head": ["# tiny", ""],
        "steps": 2,
        "weight": 1.0,
        "rates": dict.fromkeys(ARMS, 1e-2),
        "tried": {name: {"-4": 0.1} for name in ARMS},
        "arms": seeds,
    }
    keep(tmp_path / "tiny", raw, real.page)
    text = (tmp_path / "tiny.md").read_text()
    assert text == table(tmp_path / "tiny.json", real.page)
    a, b = (real.by_user(seeds[name], "ndcg@10") for name in reversed(ARMS))
    assert "{:+.4f} ({:+.4f} to {:+.4f})".format(*paired_bootstrap(a, b, seed=0)) in text
    assert a.count_nonzero() > 0


def test_quality_trains_once_and_readme_has_its_table(tmp_path, monkeypatch):
    flags = ["--tiny", "--epochs", "1", "--world-users", "60", "--no-keep-seen"]
    job = ("three codes", 0, tmp_path / "run", flags)
    first = quality.work(job)
    (tmp_path / "run" / "three_codes.json").unlink()
    again = quality.work(job)  # judged again, not trained again
    assert again == first
    by_codes = quality.work((quality.BY_CODES, *job[1:]))
    assert "test" not in by_codes
    raw = {"head": ["# Tiny", "", "the command", ""], "floors": quality.floors(flags)}
    raw["arms"] = {"three codes": [first, again], quality.BY_CODES: [by_codes]}
    for name in quality.LOGS:
        keep(tmp_path / f"quality_{name}", raw, quality.page)
    monkeypatch.setattr(quality, "RESULTS", tmp_path)
    (before, middle, after) = quality.into_readme().split("<!-- reaches -->\n")
    assert (before, after) == tuple(quality.README.read_text().split("<!-- reaches -->\n")[::2])
    row = next(line for line in middle.splitlines() if line.startswith("| three codes |"))
    a, b = (real.by_user([each["test"]], "ndcg@10") for each in (first, raw["floors"]["item-kNN"]))
    assert "{:+.4f} ({:+.4f} to {:+.4f})".format(*paired_bootstrap(a, b, seed=0)) in row
    assert f"{a.mean():.4f}, {a.mean():.4f}" in row


def test_what_is_kept_comes_back():
    values = torch.tensor([0.0, 0.25, 0.0, 1.0], dtype=torch.float64)
    assert dense(sparse(values), 4).equal(values)
    row = real_lists.kept({need: torch.tensor([0.5, torch.nan]) for need in NEEDS})[HELD_OUT]
    assert row == [0.5, None]
    assert real_lists.numbers(row).isnan().tolist() == [False, True]
