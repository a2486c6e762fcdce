import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minirec.data.dataset import Catalogue
from minirec.records import PAD, Batch, Rollout, check
from tests.small import examples


@given(
    st.lists(st.lists(st.integers(0, 9), max_size=7), min_size=1, max_size=5), st.integers(1, 4), st.data()
)
def test_a_batch_holds_the_latest_items_and_all_that_was_seen(log, history, data):
    rows = data.draw(st.lists(st.integers(0, len(log) - 1), min_size=1, max_size=4))
    batch = examples(log).batch(torch.tensor(rows), history)
    for i, row in enumerate(rows):
        assert [x for x in batch.history[i].tolist() if x != PAD] == log[row][-history:]
        assert [x for x in batch.seen[i].tolist() if x != PAD] == log[row]
    recent = (batch.history != PAD).int()
    assert (recent.diff(dim=1) <= 0).all()  # padding stands on the right only


def test_selected_examples_share_their_events():
    all_of_them = examples([[1, 2], [3], [4, 5, 6]])
    some = all_of_them.select(torch.tensor([2, 0]))
    assert some.events is all_of_them.events
    assert some.lengths.tolist() == [3, 2]


def make_batch(**wrong):
    size = {"history": (2, 3), "condition": (2, 4), "targets": (2, 1), "seen": (2, 3)}
    good = {name: torch.zeros(shape, dtype=torch.int64) for name, shape in size.items()}
    return Batch(**{"user": torch.arange(2), **good, **wrong})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("history", torch.zeros(3, 3, dtype=torch.int64)),
        ("history", torch.zeros(2, 3)),
        ("condition", torch.zeros(2, 3, dtype=torch.int64)),
        ("targets", torch.zeros(2, dtype=torch.int64)),
        ("seen", torch.zeros(1, 3, dtype=torch.int64)),
    ],
)
def test_a_wrong_shape_or_dtype_names_the_field(name, value):
    make_batch()
    with pytest.raises(ValueError, match=name):
        make_batch(**{name: value})


def test_the_message_says_what_was_expected_and_what_came():
    with pytest.raises(ValueError, match=r"^a: expected torch.int64 \(2, \*\), got torch.float32 \(2, 3\)$"):
        check("a", torch.zeros(2, 3), 2, None)


def test_rollouts_and_catalogues_are_checked():
    items, codes = torch.zeros(2, 3, 1, dtype=torch.int64), torch.zeros(2, 3, 1, 4, dtype=torch.int64)
    Rollout(items, codes, torch.zeros(2, 3, 1, 4))
    with pytest.raises(ValueError, match="logp"):
        Rollout(items, codes, torch.zeros(2, 3, 1, 3))
    with pytest.raises(ValueError, match="titles"):
        Catalogue(["a", "b"], ["only one"])
    with pytest.raises(ValueError, match="features"):
        Catalogue(["a", "b"], features=torch.zeros(1, 5))
