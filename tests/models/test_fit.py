"""The loop of supervised training, on a parabola whose steps are known."""

import pytest
import torch

from minirec.models.fit import minimise


def descend(steps, slope=1.0, **options):
    """From 0, ``steps`` steps of rate 1 down a loss that falls by ``slope``; where that ends."""
    weight = torch.nn.Parameter(torch.zeros(()))
    seen = []

    def loss(step):
        seen.append((step, weight.item()))
        return -slope * weight

    minimise(torch.optim.SGD([weight], 1.0), loss, steps, "test", **options)
    assert [step for step, _ in seen] == list(range(steps))
    assert weight.grad is None
    return weight.item()


def test_the_rate_is_constant_or_falls_to_zero():
    assert descend(4) == 4
    assert descend(4, final=0.0) == pytest.approx(1 + 3 / 4 + 2 / 4 + 1 / 4)


def test_a_gradient_is_cut_to_its_largest_norm():
    assert descend(4, slope=3.0, clip=5.0) == 12
    assert descend(4, slope=3.0, clip=0.5) == pytest.approx(2, rel=1e-5)  # torch adds 1e-6 to the norm
