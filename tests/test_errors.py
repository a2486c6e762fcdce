"""What a command says when something is wrong, and on what terminals it can say it."""

import json
import os
import subprocess
import sys

import pytest

from minirec import settings
from minirec.errors import InputError, command
from minirec.run.folder import save, save_data
from tests.small_run import CFG, make_codes, make_dataset, make_policy

NASTY = "Alien\x1b[2J\n\u202eé"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose titles and ids are a stranger's."""
    folder = tmp_path_factory.mktemp("nasty")
    dataset = make_dataset()
    dataset.catalogue.titles[:] = [NASTY] * len(dataset.catalogue)
    dataset.catalogue.ids[:3] = ["a,b", "c d", "e"]
    settings.write(CFG, folder / "config.json")
    data = save_data(folder, dataset, make_codes(), [])
    save(folder / "checkpoint.pt", {"step": 0, "data": data, "best": make_policy(CFG)[0].state_dict()})
    return folder


def recommend(run, *arguments, **options):
    line = [sys.executable, "-m", "minirec.recommend", "--run", run, *arguments]
    return subprocess.run(line, capture_output=True, check=False, **options)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
def test_titles_reach_a_terminal_escaped_whatever_it_can_show(run, encoding):
    done = recommend(run, "--history", "e", env={**os.environ, "PYTHONIOENCODING": encoding})
    assert done.returncode == 0, done.stderr
    printed = done.stdout.decode(encoding)
    assert "\x1b" not in printed
    assert "\u202e" not in printed
    assert r"Alien\x1b[2J\n\u202e" in printed
    assert len(printed.splitlines()) == 11


def test_json_is_ascii_and_whole(run):
    done = recommend(run, "--history", "e", "--json")
    assert json.loads(done.stdout.decode("ascii"))[0]["title"] == NASTY


def test_ids_with_commas_and_spaces_can_be_asked(run):
    done = recommend(run, "--history", '"a,b", c d, e')
    assert done.returncode == 0, done.stderr
    wrong = recommend(run, "--history", "a,b")
    assert wrong.returncode == 2
    assert b"unknown item 'a'" in wrong.stderr


def test_a_closed_pipe_is_no_traceback(run):
    line = f"{sys.executable} -m minirec.recommend --run {run} --history e --top 30 | true"
    done = subprocess.run(line, shell=True, capture_output=True, check=False)
    assert done.stderr == b""


def test_what_the_system_refuses_is_one_line(capsys):
    with pytest.raises(SystemExit) as caught, command():
        os.rmdir("/no/such\nfile")
    assert caught.value.code == 2
    assert capsys.readouterr().err == "minirec: [Errno 2] No such file or directory: '/no/such\\nfile'\n"


def test_an_error_is_one_line_whatever_stands_in_it(capsys):
    with pytest.raises(SystemExit), command():
        raise InputError(f"unknown item '{NASTY}'")
    assert capsys.readouterr().err == "minirec: unknown item 'Alien\\x1b[2J\\n\\u202eé'\n"
