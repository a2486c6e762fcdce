"""Random streams: no two share their numbers."""

from itertools import combinations

import pytest
import torch

from minirec.noise import USES, stream


def numbers(*arguments):
    return torch.rand(8, generator=stream(*arguments))


def test_the_number_of_seeds_counts_though_numpy_fills_up_with_zeros():
    assert not torch.equal(numbers("rollouts", 0), numbers("rollouts", 0, 0))  # a step 0 is no missing step


def test_streams_of_different_uses_seeds_or_steps_differ_and_equal_ones_agree():
    every = [(use, *rest) for use in USES for rest in ((0,), (1,), (0, 0), (0, 1), (1, 0))]
    for one, other in combinations(every, 2):
        assert not torch.equal(numbers(*one), numbers(*other)), (one, other)
    assert torch.equal(numbers("world", 3), numbers("world", 3))
    assert len(set(USES)) == len(USES)


def test_a_use_without_a_name_is_refused():
    with pytest.raises(ValueError, match="tuple"):
        stream("dice", 0)
