"""From settings to codes: those that k-means makes, and those of a file."""

import json

import pytest
import torch

from minirec import settings
from minirec.data import prepare, vectors
from minirec.errors import InputError
from tests.small_run import make_dataset

IDS = make_dataset().catalogue.ids  # 30


def write(tmp_path, table):
    (tmp_path / "codes.json").write_text(json.dumps(table))
    return str(tmp_path / "codes.json")


def shaped(*flags):
    return prepare.shaped(settings.configure(settings.arguments(list(flags))))


TABLE = {item: [f"<a_{i % 5}>", f"<b_{i // 5}>", "<c_0>", f"<d_{i % 2}>"] for i, item in enumerate(IDS)}


def test_the_settings_are_those_of_the_file_and_its_codes_are_the_items(tmp_path):
    cfg = shaped(
        "--item-codes", write(tmp_path, TABLE | {"another item": ["<a_6>", "<b_0>", "<c_0>", "<d_1>"]})
    )
    assert (cfg.levels, cfg.codes) == (4, 6)
    fitted, (note,) = prepare.encode(make_dataset(), cfg)
    assert fitted.codes.tolist() == [[i % 5, i // 5, 0, i % 2] for i in range(30)]
    assert note.startswith(
        "codes: 30 items on 4 levels of 6; collisions repaired: 0; holes: 1266\n  level 1: 5 codes used"
    )


def test_collisions_are_repaired_and_counted(tmp_path):
    table = TABLE | {IDS[7]: TABLE[IDS[3]], IDS[9]: TABLE[IDS[3]]}
    fitted, (note,) = prepare.encode(make_dataset(), shaped("--item-codes", write(tmp_path, table)))
    assert "; collisions repaired: 2; " in note
    assert (fitted.codes.unique(dim=0).shape, fitted.moved) == ((30, 4), 2)


def test_one_code_an_item_may_be_given(tmp_path):
    cfg = shaped("--item-codes", write(tmp_path, {item: [i] for i, item in enumerate(reversed(IDS))}))
    fitted, _ = prepare.encode(make_dataset(), cfg)
    assert fitted.codes[:, 0].tolist() == list(range(29, -1, -1))
    assert (cfg.levels, cfg.codes) == (1, 30)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--levels", "3"], "--levels: .*codes.json has 4; leave --levels out$"),
        (["--codes", "4"], "--codes: .*codes.json has 6; leave --codes out$"),
    ],
)
def test_a_flag_that_contradicts_the_file_is_refused(tmp_path, flags, message):
    path = write(tmp_path, TABLE)
    with pytest.raises(InputError, match=message):
        shaped("--item-codes", path, *flags)
    assert shaped("--item-codes", path, "--levels", "4", "--codes", "9").codes == 9  # more leave room


def test_items_without_codes_are_counted_and_the_first_is_named(tmp_path):
    cfg = shaped("--item-codes", write(tmp_path, {item: TABLE[item] for item in IDS if item not in IDS[4:7]}))
    with pytest.raises(
        InputError, match=rf"codes.json: no codes for 3 of the log's 30 items; the first is '{IDS[4]}'"
    ):
        prepare.encode(make_dataset(), cfg)


def test_a_run_that_goes_on_does_not_ask_for_the_file(tmp_path):
    cfg = settings.Config(item_codes=str(tmp_path / "gone.json"), levels=4, codes=6, resume=True)
    assert prepare.shaped(cfg) is cfg


def test_codes_as_many_as_items_get_advice():
    cfg = settings.Config(levels=2, codes=30)
    fitted, (_, advice) = prepare.encode(make_dataset(), cfg)
    points = vectors.item_vectors(make_dataset(), cfg.seed)
    assert len(fitted.codes[:, 0].unique()) == len(points.unique(dim=0))
    assert advice.startswith("30 codes a level for 30 items: hardly any are shared, ")
    assert "; --codes 6 fits" in advice  # the least whose square holds the items
    for fits in (settings.Config(levels=2, codes=6), settings.Config(levels=1, vectors=False)):
        fitted, notes = prepare.encode(make_dataset(), fits)
        assert len(notes) == (fits.levels > 1)
        assert len(fitted.codes[:, 0].unique()) == (6 if notes else 30)
    assert torch.equal(fitted.codes[:, 0], torch.arange(30))
