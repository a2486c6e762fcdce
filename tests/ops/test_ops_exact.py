"""What has no tolerance: zeros where gains are equal, any size of finite gains, and every kind of ``out``."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minirec.ops import group_normalize, swap_advantages, swap_ndcg
from tests.ops.test_ops import DTYPES, to
from tests.strategies import GAINS, lists, masks, tables

OPERATIONS = [swap_ndcg, group_normalize, swap_advantages]
POOLS = st.sampled_from(["later", "all"])
# The exponents between which 1 to 8 times a power of two are exact.
EXPONENTS = {torch.float32: (-149, 124), torch.float64: (-1074, 1020), torch.bfloat16: (-133, 124)}


def without_a_difference(gains, valid, later):
    """The valid positions (n, K) of which all partners have their own gain, found one by one."""
    found = torch.zeros_like(valid)
    for row, k in valid.nonzero().tolist():
        partners = valid[row].clone()
        partners[: k + 1 if later else 0] = False
        found[row, k] = (gains[row, partners] == gains[row, k]).all()
    return found


@st.composite
def tails(draw):
    """What ``lists`` draws, with the gains of every list equal from some position on."""
    gains, options = draw(lists())
    n, size = gains.shape
    starts = torch.tensor(draw(st.lists(st.integers(0, size - 1), min_size=n, max_size=n)))
    ends = torch.tensor(draw(st.lists(GAINS, min_size=n, max_size=n)), dtype=gains.dtype)
    return torch.where(torch.arange(size) >= starts[:, None], ends[:, None], gains), options


@given(tails(), st.none() | st.floats(0.1, 4), DTYPES)
def test_where_all_partners_have_its_own_gain_a_reward_is_exactly_zero(device, drawn, idcg, dtype):
    gains, options = drawn
    gains = gains.to(dtype)
    valid = torch.ones_like(gains, dtype=torch.bool) if options["mask"] is None else options["mask"]
    if options["lengths"] is not None:
        valid = valid & (torch.arange(gains.shape[1]) < options["lengths"][:, None])
    equal = without_a_difference(gains, valid, options["pool"] == "later")
    idcg = None if idcg is None else torch.tensor(idcg, device=device)
    found = swap_ndcg(gains.masked_fill(~valid, torch.nan).to(device), idcg, **to(options, device)).cpu()
    assert (found[equal] == 0).all()
    assert (found[~valid] == 0).all()


@given(tables(GAINS, rows=6), st.data(), DTYPES, st.sampled_from([0.0, 1e-30, 1e-6]))
def test_a_group_of_lists_with_such_tails_has_advantages_of_exactly_zero(device, gains, data, dtype, eps):
    start = data.draw(st.integers(0, gains.shape[1] - 1))
    gains[:, start:] = gains[:, -1:]
    gains = gains.to(dtype).to(device)
    mask = data.draw(masks(gains.shape))
    mask = None if mask is None else mask.to(device)
    assert (swap_advantages(gains, mask=mask, eps=eps)[:, start:] == 0).all()
    two_steps = group_normalize(swap_ndcg(gains, mask=mask), 0, mask, eps=eps)
    assert (two_steps[:, start:] == 0).all()


@given(tables(st.integers(0, 8).map(float)), st.data(), POOLS, DTYPES)
def test_rewards_are_the_same_bits_for_the_largest_and_the_smallest_finite_gains(
    device, gains, data, pool, dtype
):
    factor = 2.0 ** data.draw(st.sampled_from(EXPONENTS[dtype]) | st.integers(*EXPONENTS[dtype]))
    gains, mask = gains.to(dtype), data.draw(masks(gains.shape))
    scaled = (gains.double() * factor).to(dtype)
    assert torch.equal(scaled.double(), gains.double() * factor)
    mask = None if mask is None else mask.to(device)
    for idcg in (None, torch.tensor(3.0, dtype=dtype)):
        given = None if idcg is None else (idcg.double() * factor).to(dtype).to(device)
        expected = swap_ndcg(
            gains.to(device), None if idcg is None else idcg.to(device), mask=mask, pool=pool
        )
        assert torch.equal(swap_ndcg(scaled.to(device), given, mask=mask, pool=pool), expected)


def test_a_list_of_the_largest_floats_is_worth_what_its_order_is_worth(device):
    large = torch.tensor([3e38, 1e38, 2e38], device=device)
    # The gains are rounded by 6e-8 of themselves.
    assert swap_ndcg(large).tolist() == pytest.approx(swap_ndcg(large.double() / 1e38).tolist(), abs=4e-7)
    most = torch.finfo(torch.float64).max
    order = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0] * 200, dtype=torch.float64, device=device)
    for pool in ("later", "all"):
        found, expected = (swap_ndcg(order * by, pool=pool) for by in (most, 1.0))
        assert torch.allclose(found, expected, rtol=0, atol=1e-14)  # 600 terms, as good as all of one sign


# ---- where results are written ----


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.data())
def test_out_that_would_hold_two_numbers_in_one_place_is_refused(device, shape, data):
    strides = data.draw(st.lists(st.integers(0, 12), min_size=len(shape), max_size=len(shape)))
    places = [
        sum(i * stride for i, stride in zip(index, strides, strict=True))
        for index in itertools.product(*map(range, shape))
    ]
    # Strides are taken if each is larger than all that the smaller ones reach; then no place can come twice.
    steps = sorted((stride, size) for stride, size in zip(strides, shape, strict=True) if size > 1)
    reach = [sum((size - 1) * stride for stride, size in steps[:i]) for i in range(len(steps))]
    nested = all(stride > far for (stride, _), far in zip(steps, reach, strict=True))
    gains = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(device)
    out = torch.empty(200, device=device).as_strided(shape, strides)
    if nested:
        assert len(set(places)) == len(places)
        assert torch.equal(swap_ndcg(gains, out=out), swap_ndcg(gains))
    else:
        with pytest.raises(
            ValueError, match=r"^out: expected a place of its own for every number, got strides"
        ):
            swap_ndcg(gains, out=out)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("check", [None, False])
def test_out_that_lies_across_an_input_is_refused(device, operation, check):
    memory = torch.rand(7, generator=torch.Generator().manual_seed(0)).to(device)
    with pytest.raises(ValueError, match=r"^out: lies among the memory of an input$"):
        operation(memory[:6].view(2, 3), out=memory[1:].view(2, 3), check=check)
    with pytest.raises(ValueError, match=r"^out: .*got strides \(2, 1\)$"):
        operation(memory[:6].view(2, 3), out=torch.empty(9, device=device).as_strided((2, 3), (2, 1)))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_view_with_the_other_sign_is_read_and_written_as_what_it_shows(device, operation):
    values = torch.rand(4, 5, generator=torch.Generator().manual_seed(0)).to(device)
    expected = operation(values)
    assert expected.any()
    negative = torch._neg_view(-values)
    assert torch.equal(operation(negative), expected)
    for out in (torch._neg_view(torch.empty_like(values)), torch.zeros_like(values + 0j).conj().imag):
        assert out.is_neg()
        assert operation(values, out=out) is out
        assert torch.equal(out, expected)
    with pytest.raises(ValueError, match=r"^out: expected torch.float32, got torch.complex64$"):
        operation(values, out=torch.zeros_like(values + 0j).conj())


# ---- tensors without numbers ----


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_tensor_on_meta_gives_the_shape_and_has_nothing_to_check(operation):
    values = torch.empty(4, 5, device="meta")
    for found in (operation(values), operation(values, out=torch.empty_like(values))):
        assert found.shape == (4, 5)
        assert found.is_meta
    with pytest.raises(ValueError, match=r"^check: tensors on meta have no values to look at$"):
        operation(values, check=True)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("check", [None, True, False])
def test_what_vmap_maps_over_is_refused(device, operation, check):
    values, mask = torch.rand(3, 4, 5).to(device), torch.ones(3, 4, 5, dtype=torch.bool).to(device)
    calls = {
        "mask": lambda m: operation(values[0], mask=m, check=check),
        "out": lambda out: operation(values[0], out=out, check=check),
        "rewards" if operation is group_normalize else "gains": lambda x: operation(x, check=check),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=rf"^{name}: mapped by torch.func.vmap; pass all leading dim"):
            torch.func.vmap(call)(mask if name == "mask" else values)
    with pytest.raises(ValueError, match=rf"^{name}: mapped by torch.func.vmap"):
        torch.func.vmap(torch.func.grad(lambda x: call(x).sum()))(values)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("shape", [(10**12, 0), (10**12, 0, 7), (10**6, 10**6, 0), (0, 2**24)])
def test_a_huge_shape_without_numbers_is_empty(device, operation, shape):
    values = torch.empty(shape, device=device)
    assert operation(values).shape == shape
    assert operation(values, mask=torch.tensor(True, device=device)).shape == shape
    if operation is not group_normalize:
        one = torch.tensor(1.0, device=device)
        assert operation(values, one, torch.tensor(0, device=device)).shape == shape
        with pytest.raises(ValueError, match=r"^idcg: "):
            operation(values, -one)
