import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minirec.records import HOLE
from minirec.trie import Trie
from tests.small import random_codes


@st.composite
def catalogues(draw):
    """Code tuples of a catalogue, from one item to the full space."""
    levels, size = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    items = draw(st.integers(1, size**levels))
    return random_codes(items, levels, size, draw(st.integers(0, 99))), size


@given(catalogues())
def test_every_item_is_found_and_nothing_else(catalogue):
    codes, size = catalogue
    trie = Trie(codes, size)
    assert torch.equal(trie.lookup(codes), torch.arange(len(codes)))
    every = torch.cartesian_prod(*[torch.arange(size)] * codes.shape[1]).view(-1, codes.shape[1])
    items = {tuple(code): i for i, code in enumerate(codes.tolist())}
    assert trie.lookup(every).tolist() == [items.get(tuple(code), HOLE) for code in every.tolist()]


@given(catalogues())
def test_allowed_is_the_set_of_next_codes(catalogue):
    codes, size = catalogue
    trie = Trie(codes, size)
    nodes = trie.path(codes)
    for row, code in enumerate(codes):
        for level in range(trie.levels):
            same = (codes[:, :level] == code[:level]).all(1)
            expected = set(codes[same, level].tolist())
            mask = trie.allowed(level, nodes[row, level])
            assert set(mask.nonzero()[:, 0].tolist()) == expected
    assert trie.masks(codes).gather(-1, codes[..., None]).all()


def test_a_prefix_without_children_raises():
    trie = Trie(torch.tensor([[0, 1], [2, 0]]), 3)
    node = trie.descend(0, torch.tensor([0, 0]), torch.tensor([2, 1]))  # no item begins with code 1
    assert node.tolist() == [1, HOLE]
    assert not trie.allowed(1, node)[1].any()
    with pytest.raises(ValueError, match="no item has"):
        trie.masks(torch.tensor([[1, 0]]))


def test_a_path_that_has_left_stays_outside():
    trie = Trie(torch.tensor([[0, 0, 0], [1, 1, 1]]), 2)
    assert trie.path(torch.tensor([0, 1, 1])).tolist() == [0, 0, HOLE, HOLE]


@pytest.mark.parametrize(
    ("codes", "message"),
    [([[0, 1], [0, 1]], "each needs its own"), ([[0, 3]], "0..2"), ([[-1, 0]], "0..2")],
)
def test_bad_codes_raise(codes, message):
    with pytest.raises(ValueError, match=message):
        Trie(torch.tensor(codes), 3)


def test_padding_encodes_as_padding():
    trie = Trie(torch.tensor([[0, 1], [2, 0]]), 3)
    assert trie.encode(torch.tensor([[1, -1]])).tolist() == [[[2, 0], [-1, -1]]]
