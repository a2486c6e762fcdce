"""Random streams: no two share their numbers."""

from itertools import combinations, product

import pytest
import torch

from minirec.noise import USES, stream


def numbers(*arguments):
    return torch.rand(8, generator=stream(*arguments))


def test_streams_of_different_uses_seeds_or_steps_differ_and_equal_ones_agree():
    every = [(use, *rest) for use, names in USES.items() for rest in product((0, 1), repeat=len(names))]
    for one, other in combinations(every, 2):
        assert not torch.equal(numbers(*one), numbers(*other)), (one, other)
    assert torch.equal(numbers("world", 3), numbers("world", 3))


def refusal(*arguments):
    """What ``stream`` says against its arguments."""
    try:
        stream(*arguments)
    except ValueError as error:
        return str(error)
    return "nothing"


def test_a_stream_is_made_from_all_the_numbers_of_its_use_as_a_step_0_is_no_missing_step():
    assert "'rollouts' is made from" in refusal("rollouts", 0)
    assert "'world' is made from" in refusal("world", 0, 0)
    with pytest.raises(KeyError):
        stream("dice", 0)
