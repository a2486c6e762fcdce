"""The layers of truth agree with one another, from literal exchanging to the closed form."""

import pytest
import torch
from hypothesis import given

from minirec.ops import reference
from tests.strategies import lists


def arguments(gains, options):
    """What the layers take, from what the strategy gives."""
    size = gains.shape[1]
    valid = torch.ones_like(gains, dtype=torch.bool) if options["mask"] is None else options["mask"]
    if options["lengths"] is not None:
        valid = valid & (torch.arange(size) < options["lengths"][:, None])
    cut = min(options["cutoff"] or size, size)
    return gains, reference.ideal_dcg(gains, valid, cut), valid, cut, options["pool"] == "later"


@given(lists(columns=12))
def test_pairs_are_literal_exchanges(drawn):
    inputs = arguments(*drawn)
    # Exchanging subtracts two DCGs of at most 12 terms in float64; divided by IDCG they are at most 1.
    assert torch.allclose(reference.swap_pairs(*inputs), reference.swap_literal(*inputs), rtol=0, atol=1e-13)


@given(lists())
def test_the_closed_form_is_the_pairs(drawn):
    inputs = arguments(*drawn)
    assert torch.allclose(reference.swap_ndcg(*inputs), reference.swap_pairs(*inputs), rtol=0, atol=1e-13)


def test_one_list_by_hand():
    gains = torch.tensor([[1.0, 0.0, 0.5]], dtype=torch.float64)
    d = reference.discounts(3).tolist()
    valid = torch.ones_like(gains, dtype=torch.bool)
    expected = [((1 - 0) * (d[0] - d[1]) + (1 - 0.5) * (d[0] - d[2])) / 2, (0 - 0.5) * (d[1] - d[2]), 0.0]
    for form in (reference.swap_literal, reference.swap_pairs, reference.swap_ndcg):
        found = form(gains, torch.ones(1, dtype=torch.float64), valid, 3, True)
        assert found[0].tolist() == pytest.approx(expected, abs=1e-15)


def test_the_ideal_order_is_the_best_of_all_orders():
    gains = torch.tensor([[0.5, 3.0, 0.0, 1.0]], dtype=torch.float64)
    orders = torch.cartesian_prod(*[torch.arange(4)] * 4)
    orders = orders[[len(set(order.tolist())) == 4 for order in orders]]
    for cut in (1, 2, 4):
        every = (gains[0][orders] * reference.discounts(4, cut)).sum(1)
        best = reference.ideal_dcg(gains, torch.ones_like(gains, dtype=torch.bool), cut)
        assert best.item() == pytest.approx(every.max().item(), abs=1e-15)
