import importlib.util
import json
import os
import re
from dataclasses import replace

import pytest
import torch

from minirec import settings
from minirec.errors import InputError
from minirec.measure import baselines, evaluation, pictures, report
from minirec.measure.report import Results
from minirec.objectives import OBJECTIVES
from tests.small_run import CFG, make_dataset, make_policy


@pytest.fixture(scope="module")
def results():
    data, (policy, trie) = make_dataset(), make_policy()
    floors = evaluation.floors(data, data.test, CFG)
    methods = floors | {"supervised": evaluation.evaluate_policy(policy, trie, data, data.test, CFG)}
    return Results(methods, "test")


def shifted(result, by):
    return replace(result, values={name: value + by for name, value in result.values.items()})


def test_table_aligns_and_leaves_blanks():
    rows = [{"a": "x", "n": 5, "v": 0.25}, {"a": "long", "n": 12, "none": None}]
    assert report.table(rows, ["a", "n", "v", "none"]).splitlines() == [
        "a      n       v",
        "x      5  0.2500",
        "long  12",
    ]


def test_markdown_marks_every_best():
    rows = [{"a": "x", "v": 0.5}, {"a": "y", "v": 0.5}, {"a": "z", "v": 0.1}, {"a": "w"}]
    shown = report.markdown(rows, ["a", "v"], bold=["v"]).splitlines()
    assert shown[2:] == ["| x | **0.5000** |", "| y | **0.5000** |", "| z | 0.1000 |", "| w |  |"]


def test_what_cannot_be_reached_is_not_bold():
    rows = [{"method": "true law", "v": 0.9}, {"method": "x", "v": 0.5}, {"method": "y"}]
    shown = report.markdown(rows, ["method", "v"], bold=["v"]).splitlines()
    assert shown[2:] == ["| true law | 0.9000 |", "| x | **0.5000** |", "| y |  |"]


def test_every_method_that_a_run_can_name_is_described():
    names = [*baselines.FLOORS, "true law", "SASRec", "supervised", "random", "item mean", "list start"]
    names += ["list-wise supervised", *(each.title for each in OBJECTIVES.values()), "GRPO, simulated reward"]
    lines = report._methods(names).splitlines()
    assert len(lines) == len(names)
    assert all(re.fullmatch(r"- `.*`: .{9,}\.", line) for line in lines), lines


@pytest.mark.parametrize("columns", [40, 80, 10**6])
def test_no_line_is_wider_than_the_terminal_and_the_page_keeps_all(results, monkeypatch, capsys, columns):
    wide = report.text(results, seed=0)
    monkeypatch.setattr(report, "get_terminal_size", lambda _: os.terminal_size((columns, 24)))
    report.say(report.text(replace(results, notes=["a note " * 20]), seed=0))
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= columns
    assert ("hallucination" in shown) == (columns > 80)
    assert all(name in shown for name in results.methods)
    assert (wide in shown) == (columns > 80)


def test_the_terminal_table_fits(results):
    shown = report.text(results, seed=0)
    tables = [line for line in shown.splitlines() if "  " in line]
    assert max(map(len, tables)) <= 110
    methods = [line.split()[0] for line in shown.split("\n\n")[1].splitlines()]
    assert methods == ["method", "popularity", "markov", "item-kNN", "supervised"]  # floors first


def test_the_share_of_tied_targets_stands_above_the_table(tmp_path, results):
    report.write(results, make_dataset(), replace(CFG, out=str(tmp_path)), 1.0)
    said = "24 contexts; 33.3% of the targets tied in time; "
    assert report.text(results, seed=0).startswith(f"test split, {said}")
    assert f"\n{said}" in (tmp_path / "report.md").read_text()
    free = {name: replace(x, tied=torch.zeros_like(x.tied)) for name, x in results.methods.items()}
    assert report.text(Results(free, "test"), seed=0).startswith("test split, 24 contexts; floors fitted")


def test_differences_are_of_the_means_with_an_interval(results):
    compared = report.differences(results, seed=0)
    assert len(compared) == 2 * 3
    for row in compared:
        ours, other = results.methods["supervised"], results.methods[row["minus"]]
        want = ours.values[row["metric"]].mean() - other.values[row["metric"]].mean()
        assert row["difference"] == pytest.approx(want.item(), abs=1e-12)
        assert row["low"] <= row["difference"] <= row["high"]


def test_a_floor_above_the_policy_is_said(results):
    policy = results.methods["supervised"]

    def sentences(**methods):
        compared = report.differences(Results({**methods, "supervised": policy}, "test"), seed=0)
        return report.sentences(compared)

    assert sentences(popularity=shifted(policy, -0.25), markov=shifted(policy, 0.125))[:2] == [
        "The supervised policy is above popularity on ndcg@10.",
        "markov is above the supervised policy on ndcg@10 by 0.1250 (95 % interval 0.1250 to 0.1250).",
    ]
    edge = dict(zip(report.DIFFERENCE, ("supervised", "item-kNN", "ndcg@10", -0.01, -0.02, 0.0), strict=True))
    assert report.sentences([edge]) == [
        "item-kNN is above the supervised policy on ndcg@10 by 0.0100 (95 % interval 0.0000 to 0.0200)."
    ]
    level = "popularity is level with the supervised policy on ndcg@10."
    assert sentences(popularity=policy)[0] == level


def compared_pairs(methods, arms):
    compared = report.differences(Results(methods, "test", arms), seed=0)
    return [(row["method"], row["minus"]) for row in compared if row["metric"] == "ndcg@10"]


def test_arms_are_compared_with_the_supervised_policy_and_with_the_control(results):
    policy = results.methods["supervised"]
    methods = dict.fromkeys(
        ("markov", "true law", "SASRec", "supervised", "supervised continued", "GRPO"), policy
    )
    assert compared_pairs(methods, ("supervised continued", "GRPO")) == [
        ("supervised", "markov"),
        ("supervised", "SASRec"),
        ("supervised continued", "supervised"),
        ("GRPO", "supervised"),
        ("GRPO", "supervised continued"),
    ]


def test_an_objective_named_s_is_no_prefix_of_supervised(results):
    policy = results.methods["supervised"]
    methods = dict.fromkeys(("popularity", "supervised", "supervised continued", "s"), policy)
    assert compared_pairs(methods, ("supervised continued", "s")) == [
        ("supervised", "popularity"),
        ("supervised continued", "supervised"),
        ("s", "supervised"),
        ("s", "supervised continued"),
    ]


def test_an_uncertain_lead_is_not_stated_plainly():
    values = [("markov", 0.01, -0.02, 0.04), ("popularity", 0.09, 0.08, 0.1)]
    unsure, sure = (
        dict(zip(report.DIFFERENCE, ("supervised", row[0], "ndcg@10", *row[1:]), strict=True))
        for row in values
    )
    assert report.sentences([unsure, sure]) == [
        "The supervised policy is above markov, popularity on ndcg@10, though not every interval excludes 0."
    ]
    assert report.sentences([sure]) == ["The supervised policy is above popularity on ndcg@10."]


def test_the_files_of_a_report(tmp_path, results):
    points = [{"epoch": 1, "nll": 3.5}, {"epoch": 1, "ndcg@10": 0.1}, {"epoch": 2, "nll": 3.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(p) + "\n" for p in points))
    cfg = replace(CFG, out=str(tmp_path), given=("codes", "width"))
    written = report.write(results, make_dataset(), cfg, 12.3, ["3 duplicates\n  dropped"])
    assert {path.name for path in written} == {path.name for path in tmp_path.iterdir()} - {"metrics.jsonl"}

    rows = json.loads((tmp_path / "report.json").read_text())
    assert [(row["method"], row["split"]) for row in rows] == [(name, "test") for name in results.methods]
    assert rows[-1]["ndcg@10"] == results.methods["supervised"].values["ndcg@10"].mean().item()
    assert {"recall@10", "hallucination", "coverage@10", "pass@5"} <= rows[-1].keys()
    assert "hallucination" not in rows[0]

    page = (tmp_path / "report.md").read_text()
    for words in (
        "- 3 duplicates\n- dropped\n",
        "wall time 12 s",
        torch.__version__,
        "24 users, 30 items",
    ):
        assert words in page
    header = next(line for line in page.splitlines() if line.startswith("| method"))
    for name in re.findall(r"[\w-]+@\d+|hallucination", header):
        assert f"- `{re.sub('@.*', '@K', name)}`:" in page, name
    assert page.endswith(f"```bash\n{settings.command_line(cfg)}\n```\n")
    for name in results.methods:
        assert re.search(f"^- `{name}`: \\S.*\\S$", page, re.M), name

    if importlib.util.find_spec("matplotlib"):
        for name in ("methods.png", "learning.png"):
            assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
            assert f"![{name}]({name})" in page


def test_without_matplotlib_there_are_no_pictures(tmp_path, results, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    written = report.write(results, make_dataset(), replace(CFG, out=str(tmp_path)), 1.0)
    assert [path.name for path in written] == ["report.json", "report.md"]


def test_without_a_policy_there_is_nothing_to_compare(results):
    only = Results({"popularity": results.methods["popularity"]}, "test")
    assert report.differences(only, seed=0) == []
    assert "supervised" not in report.text(only, seed=0)


def test_lists_and_notes_stand_in_every_form_of_the_report(tmp_path, results):
    rows = [{"method": "random", "interest": 0.25}, {"method": "FlexRec", "interest": 0.75}]
    told = replace(results, lists=rows, notes=["a note on the arms"])
    shown = report.text(told, seed=0)
    written = report.write(told, make_dataset(), replace(CFG, out=str(tmp_path)), 1.0)
    page = (tmp_path / "report.md").read_text()
    assert "FlexRec    0.7500" in shown
    assert "| FlexRec | 0.7500 |" in page
    assert all("a note on the arms" in words and report.LISTS in words for words in (shown, page))
    assert tmp_path / "lists.json" in written
    assert json.loads((tmp_path / "lists.json").read_text()) == rows


@pytest.mark.parametrize("garbage", [b"\xff\xfe", b"{", b"not json\n"])
def test_garbage_in_metrics_is_one_line(tmp_path, garbage):
    (tmp_path / "metrics.jsonl").write_bytes(garbage)
    with pytest.raises(InputError, match=r"metrics\.jsonl"):
        pictures.lines_of(tmp_path)


def test_a_beam_of_one_leaves_blanks_and_no_comparison(tmp_path):
    data, (policy, trie) = make_dataset(), make_policy()
    cfg = replace(CFG, beam=1, out=str(tmp_path))
    methods = evaluation.floors(data, data.test, cfg)
    methods["supervised"] = evaluation.evaluate_policy(policy, trie, data, data.test, cfg)
    results = Results(methods, "test")
    assert report.differences(results, seed=0) == []
    shown = report.text(results, seed=0).split("\n\n")[1].splitlines()
    assert len(shown[-1].split()) == 2 < len(shown[-2].split())  # the policy's name and hallucination
    report.write(results, data, cfg, 1.0)
    page = (tmp_path / "report.md").read_text()
    assert "Against each other" not in page
    assert "|  |\n||" not in page


def test_a_heading_tells_a_sample_tied_targets_and_what_floors_were_fitted_on(results):
    assert report.contexts(results) == (
        "24 contexts; 33.3% of the targets tied in time; floors fitted on all before the targets"
    )
    few = replace(results, whole=1000, split="valid")
    assert report.contexts(few).startswith("24 contexts of 1,000, a random sample; ")
    assert report.contexts(few).endswith("floors fitted on training")
    assert report.text(few, seed=0).startswith("valid split, 24 contexts of 1,000, a random sample; ")
