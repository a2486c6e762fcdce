import json
import sys
from dataclasses import replace

import pytest

from minirec import evaluate
from minirec.data import logs
from minirec.measure import evaluation
from tests.small_run import CFG, make_dataset, make_policy, make_run


def call(monkeypatch, *argv):
    monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, argv)])
    evaluate.main()


def test_the_command_repeats_the_evaluation_and_writes_predictions(tmp_path, monkeypatch, capsys):
    run, out = make_run(tmp_path / "run"), tmp_path / "top.jsonl"
    call(monkeypatch, "--run", run, "--predictions", out)
    shown = capsys.readouterr().out
    data, (policy, trie) = make_dataset(), make_policy()
    row = evaluation.summary(evaluation.evaluate_policy(policy, trie, data, data.test, CFG))
    line = next(line for line in shown.splitlines() if line.startswith("supervised"))
    assert f"{row['ndcg@10']:.4f}" in line.split()
    assert all(name in shown for name in ("popularity", "markov", "item-kNN"))
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["user"] for line in lines] == data.users
    assert lines[0]["items"][0].startswith("item")
    assert len(lines[0]["items"]) >= CFG.beam

    call(monkeypatch, "--run", run, "--split", "valid", "--keep-seen")
    shown = capsys.readouterr().out
    assert shown.startswith("valid split")
    row = evaluation.summary(
        evaluation.evaluate_policy(policy, trie, data, data.valid, replace(CFG, keep_seen=True))
    )
    line = next(line for line in shown.splitlines() if line.startswith("supervised"))
    assert f"{row['ndcg@10']:.4f}" in line.split()


def test_a_run_with_a_sample_of_test_contexts_is_evaluated_on_the_same_sample(tmp_path, monkeypatch, capsys):
    cfg, out = replace(CFG, test_contexts=9, seed=3), tmp_path / "top.jsonl"
    run, data = make_run(tmp_path / "run", cfg), make_dataset()
    call(monkeypatch, "--run", run, "--predictions", out)
    assert capsys.readouterr().out.startswith("test split, 9 contexts of 24, a random sample;")
    users = [json.loads(line)["user"] for line in out.read_text().splitlines()]
    assert users == [data.users[user] for user in evaluation.sample(data.test, 9, 3).user]


def test_the_log_of_a_run_is_written_for_recbole(tmp_path, monkeypatch, capsys):
    call(monkeypatch, "--run", make_run(tmp_path / "run"), "--recbole", tmp_path / "data" / "small")
    assert "popularity" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "data" / "small").iterdir()) == [
        "small.inter",
        "small.item",
    ]
    data = make_dataset()
    events, ids, _ = logs.read(tmp_path / "data" / "small" / "small.inter")
    again = logs.timeline(events, ids)
    assert ids["user"] == data.users
    assert [ids["item"][i] for i in again.item] == [data.catalogue.ids[i] for i in data.test.events]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--run", "nowhere"], "no such run folder"),
        (["--run", "RUN", "--split", "tets"], "invalid choice"),
        (["--run", "RUN", "--predictions", "no/such/folder/x"], "no folder no/such/folder"),
        ([], "--run"),
    ],
)
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, argv, words):
    run = make_run(tmp_path / "run")
    with pytest.raises(SystemExit) as exit_:
        call(monkeypatch, *(str(run) if word == "RUN" else word for word in argv))
    shown = capsys.readouterr().err
    assert exit_.value.code == 2
    assert words in shown
    assert shown.count("\n") == 1
