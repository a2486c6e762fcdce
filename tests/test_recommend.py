import json
import math
import sys
from dataclasses import replace

import pytest
import torch

import minirec
from minirec import recommend, settings
from minirec.errors import InputError
from minirec.measure.exact import item_logprobs
from minirec.recommend import Recommender
from minirec.records import PAD
from minirec.run.folder import find_run
from tests.small_run import CFG, ITEMS, make_dataset, make_policy, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture(scope="module")
def loaded(run):
    return minirec.load(run)


def exact(history):
    policy, trie = make_policy()
    codes = trie.encode(torch.tensor([history], dtype=torch.int64))
    return item_logprobs(policy, policy.encode(torch.zeros(1, 4, dtype=torch.int64), codes), trie)[0]


def test_the_score_is_the_log_probability_of_the_item(loaded):
    rows = loaded.recommend(["item3", "item9"], top=ITEMS, keep_seen=True)
    logp = exact([3, 9])
    assert [row["item"] for row in rows] == [f"item{i}" for i in logp.argsort(descending=True).tolist()]
    for row in rows:
        assert row["score"] == pytest.approx(logp[int(row["item"][4:])].item(), abs=1e-5)  # float32
        assert row["title"] == "Title " + row["item"][4:]
    assert sum(math.exp(row["score"]) for row in rows) == pytest.approx(1, abs=1e-5)


def test_seen_items_are_left_out_also_those_before_the_window(loaded):
    history = [f"item{i}" for i in (5, 1, 2, 3, 4, 6)]  # longer than cfg.history
    rows = loaded.recommend(history, top=ITEMS)
    assert len(rows) == ITEMS - 6
    assert not {row["item"] for row in rows} & set(history)
    logp = exact([2, 3, 4, 6])
    assert rows[0]["score"] == pytest.approx(
        max(logp[i].item() for i in range(ITEMS) if i not in (5, 1, 2, 3, 4, 6)), abs=1e-5
    )


def test_numbers_are_ids(run):
    found = find_run(run)
    catalogue = replace(found.dataset.catalogue, ids=[str(i) for i in range(ITEMS)])
    users = [str(u) for u in range(len(found.dataset.users))]
    numbered = Recommender(replace(found, dataset=replace(found.dataset, catalogue=catalogue, users=users)))
    assert numbered.recommend([3, 17, "29"]) == numbered.recommend(["3", "17", "29"])
    assert numbered.for_user(7) == numbered.for_user("7")


def test_an_empty_history_is_answered(loaded):
    rows = loaded.recommend([], top=3)
    assert [row["item"] for row in rows] == [f"item{i}" for i in exact([]).topk(3).indices.tolist()]


def test_a_short_list_is_the_head_of_a_long_one(loaded):
    assert loaded.recommend(["item1"], top=5) == loaded.recommend(["item1"], top=12)[:5]


def test_a_user_is_answered_from_the_test_context(loaded):
    data = make_dataset()
    seen = [f"item{i}" for i in data.test.batch(torch.tensor([7]), 4).seen[0].tolist() if i != PAD]
    assert loaded.for_user("user7", top=5) == loaded.recommend(seen, top=5)


def test_the_policy_answers_without_dropout(run):
    assert settings.read(run / "config.json").dropout > 0
    assert minirec.load(run).recommend(["item1"]) == minirec.load(run).recommend(["item1"])


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda r: r.recommend(["item33"]), r"unknown item 'item33'; did you mean item3?"),
        (lambda r: r.recommend(["zzz"]), r"unknown item 'zzz'; choose from item0, item1, .*, \.\.\."),
        (lambda r: r.for_user("usr7"), r"unknown user 'usr7'; did you mean user7"),
        (lambda r: r.recommend([], top=0), r"--top: 0 is too small"),
        (lambda r: r.recommend([], top=-4), r"--top: -4 is too small"),
    ],
)
def test_bad_questions(loaded, ask, words):
    with pytest.raises(InputError, match=words):
        ask(loaded)


def test_a_user_without_context(run, loaded):
    data = loaded.dataset
    none = torch.arange(1, len(data.users))
    fewer = replace(data, **{name: getattr(data, name).select(none) for name in ("train", "valid", "test")})
    with pytest.raises(InputError, match="user 'user0' has too few events"):
        Recommender(replace(find_run(run), dataset=fewer)).for_user("user0")


def test_a_user_that_was_left_to_reinforcement_learning_is_known(run, loaded):
    data = loaded.dataset
    none = torch.arange(1, len(data.users))
    splits = {name: getattr(data, name).select(none) for name in ("train", "valid", "test")}
    left = replace(data, fresh=data.train.select(torch.tensor([0])), **splits)
    rows = Recommender(replace(find_run(run), dataset=left)).for_user("user0")
    part = data.train
    past = part.events[part.start[0] : part.stop[0]].tolist()
    assert rows == loaded.recommend([data.catalogue.ids[item] for item in past])


def call(monkeypatch, capsys, *argv):
    monkeypatch.setattr(sys, "argv", ["recommend", *map(str, argv)])
    recommend.main()
    return capsys.readouterr().out


def test_the_command_prints_a_table(run, loaded, monkeypatch, capsys):
    shown = call(monkeypatch, capsys, "--run", run, "--history", "item3, item9", "--top", 4).splitlines()
    assert shown[0].split() == ["rank", "item", "title", "score"]
    assert len(shown) == 5
    best = loaded.recommend(["item3", "item9"], top=1)[0]
    assert shown[1].split() == ["1", best["item"], *best["title"].split(), f"{best['score']:.4f}"]


def test_the_command_prints_json(run, loaded, monkeypatch, capsys):
    shown = call(monkeypatch, capsys, "--run", run, "--user", "user2", "--json")
    assert json.loads(shown) == loaded.for_user("user2")
    shown = call(monkeypatch, capsys, "--run", run, "--history", "", "--json", "--top", 2, "--keep-seen")
    assert json.loads(shown) == loaded.recommend([], top=2)


def refuse(monkeypatch, capsys, *argv):
    with pytest.raises(SystemExit) as exit_:
        call(monkeypatch, capsys, *argv)
    shown = capsys.readouterr()
    assert exit_.value.code == 2
    assert shown.out == ""
    assert shown.err.startswith("minirec: ")
    assert shown.err.count("\n") == 1
    return shown.err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--user", "user99"], "did you mean user9"),
        (["--history", "item1,,item2"], "unknown item ''"),
        (["--user", "user1", "--top", "0"], "--top"),
        (["--user", "user1", "--top", "many"], "--top"),
        (["--user", "user1", "--history", "item1"], "not allowed with"),
        ([], "--user --history"),
        (["--user", "user1", "--tpo", "3"], "--tpo"),
    ],
)
def test_bad_input_is_one_line(run, monkeypatch, capsys, argv, words):
    assert words in refuse(monkeypatch, capsys, "--run", run, *argv)


def test_a_bad_run_folder_is_one_line(run, tmp_path, monkeypatch, capsys):
    user = ("--user", "user1")
    assert "no such run folder" in refuse(monkeypatch, capsys, "--run", tmp_path / "none", *user)
    assert "has no config.json" in refuse(monkeypatch, capsys, "--run", tmp_path, *user)
    broken = make_run(tmp_path / "broken")
    (broken / "checkpoint.pt").write_bytes((run / "checkpoint.pt").read_bytes()[:500])
    assert "checkpoint.pt" in refuse(monkeypatch, capsys, "--run", broken, *user)
    settings.write(replace(CFG, width=24), make_run(tmp_path / "other") / "config.json")
    assert "fit this run's config.json" in refuse(monkeypatch, capsys, "--run", tmp_path / "other", *user)
    (make_run(tmp_path / "odd") / "config.json").write_text("{")
    assert "config.json" in refuse(monkeypatch, capsys, "--run", tmp_path / "odd", *user)
    (make_run(tmp_path / "young") / "checkpoint.pt").unlink()
    assert "checkpoint.pt: no such file" in refuse(monkeypatch, capsys, "--run", tmp_path / "young", *user)
