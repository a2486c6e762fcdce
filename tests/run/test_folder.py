import os
import pathlib
import pickle
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import minirec
from minirec import files
from minirec.data.world import make_world
from minirec.errors import InputError
from minirec.policy import Policy
from minirec.run import folder
from minirec.settings import from_dict, write
from minirec.tasks import Processes
from tests.small_run import CFG, make_codes, make_dataset, make_run

STATE = {"step": 3, "best": {"w": torch.arange(5.0)}, "names": ["a", "b"], "score": None}


def test_what_is_saved_is_loaded(tmp_path):
    folder.save(tmp_path / "x.pt", STATE)
    loaded = folder.load(tmp_path / "x.pt")
    assert torch.equal(loaded["best"].pop("w"), torch.arange(5.0))
    assert loaded == {"step": 3, "best": {}, "names": ["a", "b"], "score": None}
    assert os.listdir(tmp_path) == ["x.pt"]


@pytest.mark.parametrize("broken", ["save", "fsync", "replace"])
def test_a_failure_in_the_middle_leaves_the_old_file(tmp_path, monkeypatch, broken):
    path = tmp_path / "x.pt"
    folder.save(path, {"step": 1})

    def half(value, file):
        file.write(b"half")
        raise KeyboardInterrupt

    def fail(*_):
        raise OSError(28, "No space left on device")

    if broken == "save":
        monkeypatch.setattr(torch, "save", half)
    else:
        monkeypatch.setattr(os, broken, fail)
    with pytest.raises(KeyboardInterrupt if broken == "save" else InputError) as caught:
        folder.save(path, {"step": 2})
    assert broken == "save" or "No space left" in str(caught.value)
    assert folder.load(path) == {"step": 1}
    assert os.listdir(tmp_path) == ["x.pt"]


def test_the_file_is_flushed_before_it_is_renamed(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("fsync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    folder.save(tmp_path / "x.pt", STATE)
    assert calls == ["fsync", "replace"]


def test_the_cleaning_up_of_a_failure_never_hides_it(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    monkeypatch.setattr(pathlib.Path, "unlink", lambda *_: os.rmdir("/"))
    with pytest.raises(InputError, match="No space left"):
        folder.save(tmp_path / "x.pt", STATE)


def test_no_file_is_written_through_a_link_laid_before(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    monkeypatch.setattr("secrets.token_hex", lambda n: "guessed")
    (tmp_path / "x.pt.guessed.tmp").symlink_to(victim)
    with pytest.raises(InputError, match="File exists"):
        folder.save(tmp_path / "x.pt", STATE)
    assert victim.read_text() == "precious"


def test_a_missing_folder_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"gone/x.pt: cannot be written: No such file"):
        folder.save(tmp_path / "gone" / "x.pt", STATE)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"x.pt: no such file"):
        folder.load(tmp_path / "x.pt")


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("exploded",))


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, 2))])
def test_loading_never_executes(tmp_path, monkeypatch, write):
    monkeypatch.chdir(tmp_path)
    write({"best": Bomb()}, tmp_path / "x.pt")
    with pytest.raises(InputError, match="refused"):
        folder.load(tmp_path / "x.pt")
    assert os.listdir(tmp_path) == ["x.pt"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "x.pt"
    folder.save(path, STATE)
    return path, path.read_bytes()


@settings(max_examples=50, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file_is_one_line(saved, share):
    path, content = saved
    cut = path.with_name("cut.pt")
    cut.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"cut.pt") as caught:
        folder.load(cut)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("junk", [b"", b"junk", b"hello", b"PK\x03\x04 no zip", bytes(1000)])
def test_a_file_of_junk_is_one_line(tmp_path, junk):
    (tmp_path / "x.pt").write_bytes(junk)
    with pytest.raises(InputError, match=r"x.pt"):
        folder.load(tmp_path / "x.pt")


@settings(max_examples=300, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_changes_nothing(saved, place, bit):
    path, content = saved
    flipped, at = bytearray(content), int(place * len(content))
    flipped[at] ^= 1 << bit
    other = path.with_name("flipped.pt")
    other.write_bytes(flipped)
    try:
        loaded = folder.load(other)
    except InputError:
        return
    assert torch.equal(loaded["best"].pop("w"), STATE["best"]["w"])
    assert loaded == {**STATE, "best": {}}


@pytest.mark.parametrize("value", [torch.zeros(3), {"step": 1}, {"format": 0}, [1, 2]])
def test_a_file_of_another_format_is_refused(tmp_path, value):
    torch.save(value, tmp_path / "x.pt")
    with pytest.raises(InputError, match="of format"):
        folder.load(tmp_path / "x.pt")


# What belongs together


def spoilt(run, change):
    """A run whose checkpoint was changed by hand."""
    state = folder.load(run / "checkpoint.pt")
    change(state)
    folder.save(run / "checkpoint.pt", state)
    return folder.find_run(run)


def test_weights_of_other_data_are_refused(tmp_path):
    run = make_run(tmp_path / "run")
    dataset = make_dataset()
    dataset.catalogue.ids[:2] = dataset.catalogue.ids[1::-1]  # as many of everything, and another log
    folder.save_data(run, dataset, make_codes(), [])
    with pytest.raises(InputError, match="made on other data than"):
        folder.find_run(run).trained()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state["best"].popitem(), "does not fit"),
        (lambda state: state.pop("best"), "does not fit"),
        (lambda state: state.update(best={"w": torch.zeros(3)}), "does not fit"),
        (
            lambda state: state["best"]["norm.weight"].fill_(torch.nan),
            "values of norm.weight are not finite",
        ),
        (lambda state: state.pop("data"), "made on other data"),
    ],
)
def test_weights_that_do_not_fit_or_are_not_finite_are_one_line(tmp_path, change, message):
    run = spoilt(make_run(tmp_path / "run"), change)
    with pytest.raises(InputError, match=message) as caught:
        run.trained()
    assert "\n" not in str(caught.value)


# A folder has one owner


def test_a_second_start_is_refused_until_the_first_has_ended(tmp_path):
    refused = pytest.raises(
        InputError, match="run: another process has it; wait, or name another folder by --out"
    )
    with files.owned(tmp_path / "run"), refused, files.owned(tmp_path / "run"):
        pass
    with files.owned(tmp_path / "run"):
        pass


def test_the_folder_of_a_process_that_was_killed_is_free(tmp_path):
    hold = f"from pathlib import Path; from minirec.files import owned\nwith owned(Path({str(tmp_path)!r})):"
    hold += " print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match="another process has it"), files.owned(tmp_path):
            pass
        other.kill()
    with files.owned(tmp_path):
        pass


@pytest.mark.parametrize("out", ["file", "file/run", "file/run/deep"])
def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, out):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file.*cannot be written") as caught, files.owned(tmp_path / out):
        pass
    assert "\n" not in str(caught.value)


def open_in(path, cfg):
    """The run in a folder."""
    return folder.open_run(replace(cfg, out=str(path)), Processes())


def test_data_round_trip(tmp_path):
    dataset, codes = make_dataset(), make_codes()
    folder.save_data(tmp_path, dataset, codes, ["24 users"])
    run = open_in(tmp_path, CFG)
    loaded = run.dataset
    assert run.notes == ["24 users"]
    assert loaded.users == dataset.users
    assert loaded.catalogue == dataset.catalogue
    assert loaded.world is None
    assert loaded.law is None
    assert loaded.fresh is None
    for split in ("train", "valid", "test"):
        for name, value in vars(getattr(dataset, split)).items():
            assert torch.equal(vars(getattr(loaded, split))[name], value), (split, name)
    assert loaded.train.events.data_ptr() == loaded.test.events.data_ptr()  # stored once
    assert torch.equal(run.trie.codes, codes.codes)


def test_the_law_of_a_world_is_rebuilt(tmp_path):
    cfg = from_dict({"world_items": 60, "world_users": 40, "history": 6})
    dataset = make_world(cfg).dataset()
    folder.save_data(tmp_path, dataset, make_codes(), [])
    loaded = open_in(tmp_path, cfg).dataset
    batch = dataset.test.batch(torch.arange(len(dataset.test)), cfg.history)
    assert torch.equal(loaded.law(batch), dataset.law(batch))


def test_other_data_is_refused(tmp_path):
    folder.save(tmp_path / "data.pt", {"catalogue": {"ids": []}})
    with pytest.raises(InputError, match="not the data of a run"):
        open_in(tmp_path, CFG)


def answers(place):
    """How many items a run recommends, or why it does not."""
    try:
        return len(minirec.load(place).recommend(["item3"], top=3))
    except InputError as error:
        return str(error)


def test_an_arm_and_sasrec_read_the_data_of_the_run_they_lie_in(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run")
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    for name, cfg in (("grpo", CFG), ("sasrec", replace(CFG, levels=1))):
        (run / name).mkdir()
        write(cfg, run / name / "config.json")
        policy = state["best"] if name == "grpo" else Policy(cfg, 1, 30).state_dict()
        folder.save(run / name / "checkpoint.pt", {"best": policy, "data": state["data"]})
    moved = tmp_path / "elsewhere" / "moved"
    moved.parent.mkdir()
    run.rename(moved)  # a run moves as one
    for path in (moved, moved / "grpo", moved / "sasrec"):
        monkeypatch.chdir(path)  # also by a path that names no folder above
        for place in (path, "."):
            assert answers(place) == 3
    one, three = folder.find_run(moved / "sasrec"), folder.find_run(moved / "grpo")
    assert one.trie.codes.tolist() == [[item] for item in range(30)]
    assert three.trie.codes.tolist() == make_codes().codes.tolist()
    (moved / "grpo").rename(tmp_path / "elsewhere" / "grpo")
    with pytest.raises(InputError, match=r"grpo/data.pt: no such file"):
        folder.find_run(tmp_path / "elsewhere" / "grpo")


def test_data_are_written_once_for_a_run_and_sasrec(tmp_path):
    words = {"world_items": 60, "world_users": 40, "codes": 8, "levels": 2, "out": str(tmp_path / "run")}
    cfg = from_dict(words)
    sasrec = replace(cfg, levels=1, out=f"{cfg.out}/sasrec")
    with folder.begun([cfg, sasrec]):
        pass
    found = sorted(path.relative_to(tmp_path / "run").as_posix() for path in tmp_path.rglob("*.*"))
    assert found == ["config.json", "data.pt", "sasrec/config.json"]
    with pytest.raises(InputError, match="holds a run"), folder.begun([cfg, sasrec]):
        pass
    before = (tmp_path / "run/data.pt").read_bytes()
    with folder.begun([replace(each, resume=True, data="gone.csv") for each in (cfg, sasrec)]):
        assert (tmp_path / "run/data.pt").read_bytes() == before  # whatever became of the log


# Which codes items share


def test_items_have_vectors_where_asked_and_with_one_code_they_share_others(tmp_path):
    small = {"world_items": 40, "world_users": 100, "codes": 6, "width": 16, "keep_seen": True}
    for levels in (1, 3):
        cfg = from_dict({**small, "levels": levels, "out": str(tmp_path / str(levels))})
        sasrec = replace(cfg, levels=1, vectors=False, out=f"{cfg.out}/sasrec")
        with folder.begun([cfg, sasrec]):
            run, plain = (folder.open_run(each, Processes()) for each in (cfg, sasrec))
        assert run.items is not None
        assert (run.trie.levels, run.items.levels, run.items.size) == (levels, 3, 6)
        assert run.untrained().rescores is (levels > 1)
        assert run.untrained().vectors().shape == (40, 16)
        assert plain.items is None
        for each in (plain, run) if levels == 1 else (plain,):  # an item's one code is its number
            assert each.trie.codes.tolist() == [[item] for item in range(40)]
        assert run.notes[-1].startswith("codes: 40 items on 3 levels of 6")
