from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirec import config
from minirec.config import TINY, Config
from minirec.errors import InputError


def test_every_field_has_one_line_of_help(capsys):
    assert all(f.metadata["help"] and "\n" not in f.metadata["help"] for f in fields(Config))
    with pytest.raises(SystemExit):
        config.parse(["--help"])
    text = capsys.readouterr().out
    assert all(f"--{f.name.replace('_', '-')}" in text for f in fields(Config))
    assert max(map(len, text.splitlines())) <= 80


def test_tiny_is_a_preset_and_flags_go_over_it():
    assert config.parse(["--tiny"]) == replace(TINY, keep_seen=True)
    assert config.parse(["--tiny", "--epochs", "3", "--no-sasrec", "--no-keep-seen"]) == replace(
        TINY, epochs=3, sasrec=False
    )


def test_a_log_masks_what_was_seen_and_the_world_does_not():
    assert not config.parse(["--data", "Some.Log.csv"]).keep_seen
    assert config.parse([]).keep_seen


def test_the_run_folder_is_named_after_the_data():
    assert config.parse(["--data", "there/Beauty.txt.gz"]).out == "runs/beauty"
    assert config.parse([]).out == "runs/world"
    assert config.parse(["--out", "here"]).out == "here"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epocs", "3"], "did you mean --epochs?"),
        (["--epoch", "3"], "did you mean --epochs?"),  # no abbreviations: they change meaning with new flags
        (["extra"], "unknown argument 'extra'"),
        (["--epochs", "3.5"], "'3.5' is not int"),
        (["--rate", "fast"], "'fast' is not float"),
        (["--batch", "-1"], "choose from 1"),
        (["--dropout", "1.5"], "choose from 0 to 0.9"),
        (["--rate", "nan"], "choose from 0"),
        (["--heads", "3"], "--width: 128 is no multiple of twice --heads; the nearest is 126"),
        (["--split", "grup"], "did you mean group?"),
        (["--epochs"], "expected one argument"),
        (["--resume", "--out", "nowhere"], "holds no run"),
    ],
)
def test_wrong_arguments_name_what_would_be_right(arguments, message):
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        config.parse(arguments)


@given(st.integers(0, 9), st.floats(0, 1), st.booleans(), st.sampled_from(["last", "group", "time"]))
def test_a_config_survives_its_file(tmp_path_factory, seed, rate, sasrec, split):
    cfg = Config(seed=seed, rate=rate, sasrec=sasrec, split=split)
    path = tmp_path_factory.mktemp("config") / "config.json"
    config.write(cfg, path)
    assert config.read(path) == cfg


def test_going_on_keeps_the_settings_but_may_move(tmp_path):
    cfg = Config(epochs=3, rate=0.5, out="before")
    config.write(cfg, tmp_path / "config.json")
    resumed = config.parse(["--resume", "--out", str(tmp_path), "--threads", "1"])
    assert resumed == replace(cfg, resume=True, out=str(tmp_path), threads=1)
    with pytest.raises(InputError, match="has 3; it cannot change"):
        config.parse(["--resume", "--out", str(tmp_path), "--epochs", "4"])
