import shlex
import sys
from dataclasses import asdict, fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirec import settings
from minirec.errors import InputError
from minirec.settings import SECTIONS, TINY, Config


def parse(*flags):
    return settings.configure(settings.arguments(list(flags)))


def test_every_field_has_one_line_of_help(capsys):
    flags = [f for section in SECTIONS for f in fields(section)]
    assert {f.name for f in flags} == asdict(Config()).keys() - {"given"}
    assert all(f.metadata["help"] and "\n" not in f.metadata["help"] for f in flags)
    with pytest.raises(SystemExit):
        settings.arguments(["--help"])
    text = capsys.readouterr().out
    assert all(f"--{f.name.replace('_', '-')}" in text for f in flags)
    assert max(map(len, text.splitlines())) <= 80
    assert "{last,group,time}" in text  # the accepted values
    assert text.count("\n") < 160


@pytest.mark.parametrize(
    "flags",
    [
        "--tiny",
        "--tiny --objective recast --no-repair --seed 3 --ranker trained",
        "--epochs 3 --objective flexrec --rl-steps 400",  # named, though it is the default
        "--data a/Log.csv --columns user=u,item=i --keep-seen --no-sasrec",
    ],
)
@pytest.mark.parametrize("command", ["python -m minirec.train", "python best.py"])
def test_the_command_of_a_run_gives_its_settings_again(monkeypatch, command, flags):
    monkeypatch.setattr(sys, "orig_argv", [*command.split(), *flags.split()])
    monkeypatch.setattr(sys, "argv", ["its path", *flags.split()])
    cfg = parse(*flags.split())
    words = shlex.split(settings.command_line(cfg))
    script = len(command.split())
    assert words[:script] == command.split()
    again = parse(*words[script:])
    assert replace(again, out=cfg.out, given=cfg.given) == cfg
    assert set(again.given) - {"out", "fresh", "keep_seen"} == set(cfg.given) - {"keep_seen"}


def test_an_unknown_setting_names_the_nearest():
    with pytest.raises(InputError, match=r"unknown setting 'epocs'; did you mean epochs\?"):
        settings.from_dict({"epocs": 3})


def test_tiny_is_a_preset_and_flags_go_over_it():
    assert parse("--tiny") == replace(TINY, keep_seen=True)
    flags = "--tiny", "--epochs", "3", "--no-sasrec", "--no-keep-seen"
    given = ("epochs", "keep_seen", "sasrec")  # an objective's defaults yield to these
    assert parse(*flags) == replace(TINY, epochs=3, sasrec=False, given=given)


def test_a_log_masks_what_was_seen_and_the_world_does_not():
    assert not parse("--data", "Some.Log.csv").keep_seen
    assert parse().keep_seen


def test_an_objective_leaves_users_to_rl_unless_it_is_said_otherwise():
    assert parse().fresh == 0
    assert parse("--objective", "grpo").fresh == 0.2
    assert parse("--objective", "grpo", "--fresh", "0.1").fresh == 0.1


def test_the_run_folder_is_named_after_the_data():
    assert parse("--data", "there/Beauty.txt.gz").out == "runs/beauty"
    assert parse().out == "runs/world"
    assert parse("--out", "here").out == "here"


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
        (["--mask", "auto"], "'auto' is not valid"),
        (["--given", "epochs"], "unknown argument '--given'"),
        (["--epochs"], "expected one argument"),
        (["--lr", "1"], "did you mean --rate?"),
        (["--learning_rate=1"], "did you mean --rate?"),
        (["--batch-size", "1"], "did you mean --batch?"),
        (["--n_layers", "1"], "did you mean --layers?"),
        (["--resume", "--out", "nowhere"], "holds no run"),
    ],
)
def test_wrong_arguments_name_what_would_be_right(arguments, message):
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        parse(*arguments)


@given(st.integers(0, 9), st.floats(0, 1), st.booleans(), st.sampled_from(["last", "group", "time"]))
def test_a_config_survives_its_file(tmp_path_factory, seed, rate, sasrec, split):
    cfg = Config(seed=seed, rate=rate, sasrec=sasrec, split=split, given=("rate", "seed"))
    path = tmp_path_factory.mktemp("config") / "config.json"
    settings.write(cfg, path)
    assert settings.read(path) == cfg


def test_going_on_keeps_the_settings_but_may_move(tmp_path):
    cfg = Config(epochs=3, rate=0.5, out="before", given=("epochs", "rate"))
    settings.write(cfg, tmp_path / "config.json")
    resume = "--resume", "--out", str(tmp_path)
    given = ("epochs", "out", "rate", "resume", "threads")
    moved = replace(cfg, resume=True, out=str(tmp_path), threads=1, given=given)
    assert parse(*resume, "--threads", "1") == moved
    assert parse(*resume, "--group", "4").group == 4  # reinforcement learning may come later
    with pytest.raises(InputError, match="has 3; it cannot change"):
        parse(*resume, "--epochs", "4")


@pytest.mark.parametrize(
    "flags", ["--width 2147483644", "--threads 2147483647", "--layers 2147483647", "--heads 1000000"]
)
def test_sizes_that_cannot_work_are_refused_by_their_range(flags):
    with pytest.raises(InputError, match="choose from"):
        parse(*flags.split())


@pytest.mark.parametrize("text", ['{"epochs": Infinity}', '{"epochs": 1e999}', "[" * 100_000, "[]", "\\", ""])
def test_a_config_from_a_stranger_is_one_line(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json") as caught:
        settings.read(tmp_path / "config.json")
    assert "\n" not in str(caught.value)
