"""The operations, served by everything that can serve them: against the truth, and by their laws.

Tolerances. float64: sums of at most 40 terms of size 1, 1e-12 with room. float32: the same sums round each
term to 6e-8 of at most 1 (gains over their own IDCG), so 40 terms give at most 2.4e-6; 4e-6 allows for the
division and the order of the sums.
"""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from minirec.ops import group_normalize, reference, swap_advantages, swap_ndcg
from tests.ops.test_ops_reference import arguments
from tests.strategies import CONVENTIONS, GAINS, REWARDS, lists, masks, offsets, tables

CLOSE = {torch.float64: 1e-12, torch.float32: 4e-6, torch.bfloat16: 4e-6}
DTYPES = st.sampled_from(list(CLOSE))


def to(options, device):
    """The tensors among keyword arguments on a device."""
    return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in options.items()}


def assert_close(found, truth, dtype, scale=1.0):
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    error = (found.cpu().double() - truth).abs()
    assert (error <= CLOSE[dtype] * scale).all(), f"off by {error.max()}"


@given(lists(), DTYPES)
def test_swap_rewards_are_the_truth(device, drawn, dtype):
    gains, options = drawn
    gains = gains.to(dtype)
    truth = reference.swap_pairs(*arguments(gains.double(), options))
    found = swap_ndcg(gains.to(device), **to(options, device))
    assert_close(found, truth, dtype)
    assert (found.abs() <= 1 + CLOSE[dtype]).all()


@given(lists(), DTYPES, st.floats(0.5, 4, width=32))
def test_swap_rewards_take_the_idcg_that_they_are_given(device, drawn, dtype, idcg):
    gains, options = drawn
    gains = gains.to(dtype)
    inputs = list(arguments(gains.double(), options))
    inputs[1] = torch.full((len(gains),), idcg, dtype=torch.float64)
    found = swap_ndcg(gains.to(device), torch.tensor(idcg, device=device), **to(options, device))
    # The scale of a reward is max g / IDCG.
    assert_close(found, reference.swap_pairs(*inputs), dtype, scale=1 + gains.max().item() / idcg)


def naive(rewards, mask, ddof, eps, scale, leave_one_out):
    """Group normalisation of one float64 group, as it is written in a book."""
    r = rewards[mask]
    n = len(r)
    result = torch.zeros_like(rewards)
    if n > 1 and (r != r[0]).any():
        centre = (r.sum() - r) / (n - 1) if leave_one_out else r.mean()
        std = (((r - r.mean()) ** 2).sum() / max(n - ddof, 1)).sqrt()
        result[mask] = (r - centre) / (std + eps) if scale == "std" else r - centre
    return result


def assert_normalised(found, truth, dtype, rewards):
    """Rounding moves a centred reward by about |r| eps; dividing by a small std makes that larger."""
    spread = rewards.double().std(0, correction=0).clamp(min=1e-9) if len(rewards) > 1 else torch.ones(1)
    room = 1 + (rewards.double().abs().max(0).values / spread).max().item()
    assume(room < 1e6)
    assert_close(found, truth, dtype, scale=room * (1 + truth.abs().max().item()))


@given(tables(REWARDS, rows=24, columns=5), st.data(), CONVENTIONS, DTYPES)
def test_normalised_groups_are_the_truth(device, rewards, data, how, dtype):
    rewards = rewards.to(dtype)  # (G, I)
    mask = data.draw(masks(rewards.shape))
    counted = torch.ones_like(rewards, dtype=torch.bool) if mask is None else mask
    columns = zip(rewards.double().T, counted.T, strict=True)
    truth = torch.stack([naive(*column, **how) for column in columns], 1)
    mask = None if mask is None else mask.to(device)
    found = group_normalize(rewards.to(device), 0, mask, **how)
    assert_normalised(found, truth, dtype, rewards)
    turned = group_normalize(rewards.to(device).T, -1, None if mask is None else mask.T, **how)
    assert_normalised(turned.T, truth, dtype, rewards)


@given(tables(REWARDS, rows=24, columns=3), st.data(), CONVENTIONS, DTYPES)
def test_ragged_groups_are_each_a_group(device, rewards, data, how, dtype):
    rewards = rewards.to(dtype)  # (G, I)
    cuts = data.draw(offsets(len(rewards)))
    for dim, turned in ((0, rewards), (1, rewards.T)):
        found = group_normalize(turned.to(device), dim, offsets=cuts.to(device), **how)
        found = found if dim == 0 else found.T
        for start, end in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
            if end > start:
                part = rewards[start:end]
                whole = torch.ones(len(part), dtype=torch.bool)
                truth = torch.stack([naive(column, whole, **how) for column in part.double().T], 1)
                assert_normalised(found[start:end], truth, dtype, part)


@given(lists(columns=12), st.integers(1, 6), CONVENTIONS, st.sampled_from([torch.float32, torch.float64]))
def test_one_pass_is_the_two_operations_one_after_the_other(device, drawn, size, how, dtype):
    gains, options = drawn
    group = torch.stack([gains.to(dtype).roll(i, 1) for i in range(size)]).to(device)  # (G, n, K)
    valid = arguments(gains, options)[2].to(device)
    options = to(options, device)
    found = swap_advantages(group.transpose(0, 1), **_grouped(options), **how)  # (n, G, K)
    rewards = swap_ndcg(group.transpose(0, 1), **_grouped(options))
    expected = group_normalize(rewards, 1, valid[:, None], **how)
    # The same arithmetic in another order of loops: the sums of both are of the same terms.
    room = 1 + (expected.abs().max().item() if how["eps"] else 1e3)
    distinct = (rewards - rewards[:, :1]).abs()
    assume(not ((distinct > 0) & (distinct < 1e-4)).any())
    assert torch.allclose(found, expected, rtol=0, atol=200 * CLOSE[dtype] * room)


def _grouped(options):
    """Arguments of (n, K) lists for (n, G, K): the same for every list of a group."""
    more = dict(options)
    for name in ("lengths", "mask"):
        if more[name] is not None:
            more[name] = more[name][:, None]
    return more


# ---- laws ----


@given(tables(GAINS), st.booleans(), DTYPES)
def test_descending_lists_lose_by_swapping_and_ascending_ones_gain(device, gains, down, dtype):
    ordered = gains.to(dtype).sort(1, descending=down).values.to(device)
    found = swap_ndcg(ordered)
    assert (found >= -CLOSE[dtype]).all() if down else (found <= CLOSE[dtype]).all()


@given(tables(GAINS), st.integers(1, 40), DTYPES)
def test_weighted_by_partners_swap_rewards_add_up_to_what_order_is_worth(device, gains, cut, dtype):
    gains = gains.to(dtype)
    n, size = gains.shape
    d = reference.discounts(size, min(cut, size))
    partners = torch.arange(size - 1, -1, -1, dtype=torch.float64)
    found = swap_ndcg(gains.to(device), torch.ones(n, device=device), cutoff=cut).cpu().double()
    g = gains.double()
    expected = size * (g * d).sum(1) - g.sum(1) * d.sum()
    # Up to 40 rewards of size max g, each off by CLOSE, weighted by up to 40 partners.
    assert ((found * partners).sum(1) - expected).abs().max() <= CLOSE[dtype] * size * size * (1 + g.max())


@given(GAINS, st.integers(0, 40), st.sampled_from(["later", "all"]), DTYPES)
def test_equal_gains_are_exactly_zero(device, gain, size, pool, dtype):
    gains = torch.full((3, size), gain, dtype=dtype, device=device)
    assert (swap_ndcg(gains, pool=pool) == 0).all()
    assert (swap_ndcg(gains, torch.tensor(0.3, device=device), pool=pool) == 0).all()


@given(st.floats(-1e6, 1e6, width=32), st.integers(0, 70), CONVENTIONS, DTYPES)
def test_equal_rewards_are_exactly_zero(device, reward, size, how, dtype):
    group = torch.full((2, size), reward, dtype=dtype, device=device)
    assert (group_normalize(group, **how) == 0).all()
    assert (group_normalize(group.T, 0, **how) == 0).all()


@given(tables(GAINS), st.sampled_from([0.25, 2.0, 1024.0]), st.sampled_from(["later", "all"]))
def test_a_factor_of_all_gains_changes_nothing_where_the_idcg_is_their_own(device, gains, factor, pool):
    one, other = (swap_ndcg((gains * f).to(device), pool=pool) for f in (1.0, factor))
    assert torch.equal(one, other)  # a power of two rounds nothing


@given(tables(st.integers(0, 8).map(float)), st.integers(1, 64), st.sampled_from(["later", "all"]))
def test_a_constant_added_to_all_gains_changes_nothing_where_the_idcg_is_given(device, gains, constant, pool):
    idcg = torch.tensor(3.0, device=device)
    one, other = (swap_ndcg((gains + c).float().to(device), idcg, pool=pool) for c in (0, constant))
    assert torch.equal(one, other)  # small whole numbers are exact, and the pivot takes the constant away


@given(lists(), st.integers(0, 30), st.sampled_from([torch.float32, torch.float64]))
def test_padding_changes_nothing(device, drawn, more, dtype):
    gains, options = drawn
    gains, options = gains.to(dtype).to(device), to(options, device)
    n, size = gains.shape
    options["cutoff"] = options["cutoff"] or size
    lengths = torch.full((n,), size, device=device) if options["lengths"] is None else options["lengths"]
    mask = options["mask"]
    if mask is not None:
        mask = torch.nn.functional.pad(mask, (0, more), value=True)
    padded = torch.nn.functional.pad(gains, (0, more), value=torch.nan)
    found = swap_ndcg(padded, **(options | {"lengths": lengths, "mask": mask}))
    assert torch.allclose(found[:, :size], swap_ndcg(gains, **options), rtol=0, atol=CLOSE[dtype])
    assert (found[:, size:] == 0).all()


@given(tables(GAINS), st.integers(0, 5), st.sampled_from(["later", "all"]))
def test_a_cutoff_of_the_length_or_more_is_none(device, gains, more, pool):
    gains = gains.to(device)
    beyond = swap_ndcg(gains, cutoff=gains.shape[1] + more, pool=pool)
    assert torch.equal(beyond, swap_ndcg(gains, pool=pool))


@given(tables(st.integers(0, 2).map(float), columns=12), st.data())
def test_exchanging_items_of_equal_gain_changes_nothing_and_order_of_lists_neither(device, gains, data):
    order = torch.tensor(data.draw(st.permutations(range(len(gains)))))
    found = swap_ndcg(gains.to(device)).cpu()
    assert torch.equal(swap_ndcg(gains[order].to(device)).cpu(), found[order])


@given(tables(REWARDS, rows=4, columns=24), st.data(), CONVENTIONS)
def test_permuting_a_group_permutes_its_advantages_and_they_sum_to_zero(device, rewards, data, how):
    order = data.draw(st.permutations(range(rewards.shape[1])))
    spread = rewards.std(1, correction=0)
    assume(((spread > 1e-3) | (spread == 0)).all())
    found = group_normalize(rewards.to(device), **how).cpu()
    # float64; an advantage is at most about 1e3 x 24 here, and sums of them are rounded by 1e-16 of that.
    assert torch.allclose(
        group_normalize(rewards[:, order].to(device), **how).cpu(), found[:, order], atol=1e-9
    )
    assert found.sum(1).abs().max() < 1e-9


# ---- published bugs ----


def test_eight_rewards_of_seven_tenths_have_no_advantage(device):
    rewards = torch.full((8,), 0.7)
    assert (
        rewards.mean() != rewards[0]
    )  # why the naive formula fails: the mean of equal numbers is another one
    assert (group_normalize(rewards.to(device), eps=1e-6) == 0).all()


def test_a_small_difference_is_a_difference(device):
    rewards = torch.tensor([1.00000, 1.00001])
    found = group_normalize(rewards.to(device), eps=0.0).cpu()
    assert found.tolist() == pytest.approx([-(2**-0.5), 2**-0.5], rel=1e-6)


def test_the_std_beside_leave_one_out_does_not_come_from_sums_of_squares(device):
    rewards = torch.tensor(
        [4096.0, 4096.25, 4096.5, 4096.75]
    )  # squares of these lose the difference in float32
    found = group_normalize(rewards.to(device), leave_one_out=True, eps=0.0).cpu()
    truth = (rewards.double() - rewards.double().mean()) / rewards.double().std() * 4 / 3
    assert_close(found, truth, torch.float32)


def test_one_percent_of_a_large_constant_list_is_no_noise(device):
    gains = torch.full((1, 1000), 5.0)
    gains[0, 500] = 5.000001
    truth = reference.swap_pairs(
        *arguments(gains.double(), dict.fromkeys(("lengths", "mask", "cutoff"), None) | {"pool": "later"})
    )
    assert (swap_ndcg(gains.to(device)).cpu().double() - truth).abs().max() < 1e-11


# ---- sizes, layouts, values ----


@pytest.mark.parametrize("shape", [(0,), (1,), (0, 5), (3, 0), (3, 1), (2, 0, 4), (2, 3, 4)])
def test_empty_and_one_element_inputs_work(device, shape):
    gains = torch.ones(shape, device=device)
    assert swap_ndcg(gains).shape == shape
    for dim in range(len(shape)):
        assert (group_normalize(gains, dim) == 0).all()
    if len(shape) > 1:
        assert (swap_advantages(gains) == 0).all()


@pytest.mark.parametrize("size", [31, 33, 64, 127, 128, 129, 1000, 1025, 3000])
@pytest.mark.parametrize("pool", ["later", "all"])
def test_lists_of_every_length_are_the_closed_form_in_float64(device, size, pool):
    random = torch.Generator().manual_seed(size)
    gains = torch.rand(37, size, generator=random)
    everything = dict.fromkeys(("lengths", "mask", "cutoff"), None) | {"pool": pool}
    truth = reference.swap_ndcg(*arguments(gains.double(), everything))
    # Sums of up to 3,000 terms in float32, in pieces or one by one: 3000 x 6e-8, and most of it averages out.
    assert (swap_ndcg(gains.to(device), pool=pool).cpu().double() - truth).abs().max() < 2e-5
    some = torch.rand(37, size, generator=random) < 0.7
    truth = reference.swap_ndcg(*arguments(gains.double(), everything | {"mask": some}))
    found = swap_ndcg(gains.masked_fill(~some, torch.nan).to(device), pool=pool, mask=some.to(device))
    assert (found.cpu().double() - truth).abs().max() < 2e-5


@pytest.mark.parametrize("shape", [(5, 17, 1), (3, 1, 9), (70, 16, 3), (2, 1030, 5), (1, 5000, 1)])
def test_groups_of_every_size_are_the_truth(device, shape):
    rewards = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    how = {"ddof": 1, "eps": 1e-6, "scale": True, "leave_one_out": False}
    truth = reference.group_normalize(rewards.double(), None, None, **how)
    assert (group_normalize(rewards.to(device), 1).cpu().double() - truth).abs().max() < 2e-5


SHAPES = [(20, 5, 10), (20, 3, 40), (3, 16, 50), (2, 40, 130), (3, 700, 4), (2, 9, 3000)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("masked", [False, True])
def test_contexts_of_every_shape_are_done_in_one_pass_and_in_two(device, shape, masked):
    """Side by side in lanes, in panels, in blocks of columns and as rows joined to longer ones."""
    random = torch.Generator().manual_seed(0)
    gains = torch.rand(shape, generator=random, dtype=torch.float64)
    valid = torch.rand(shape, generator=random) < (0.7 if masked else 2)
    how = {"ddof": 1, "eps": 1e-2, "scale": True, "leave_one_out": False}
    flat = gains.flatten(0, 1), None, valid.flatten(0, 1), shape[-1], True
    rewards = reference.swap_ndcg(*flat).view(shape)
    truth = reference.group_normalize(rewards, valid, None, **how)
    mask = valid.to(device) if masked else None
    found = swap_advantages(gains.masked_fill(~valid, torch.nan).to(device), mask=mask, eps=1e-2)
    # float64 sums of at most 3,000 terms; eps keeps the divisor above 1e-2.
    assert (found.cpu() - truth).abs().max() < 1e-10
    found = group_normalize(rewards.masked_fill(~valid, torch.nan).to(device), 1, mask=mask, eps=1e-2)
    assert (found.cpu() - truth).abs().max() < 1e-10


@pytest.mark.parametrize("size", [4097, 100_003])
def test_one_long_group_is_as_exact_as_a_short_one(device, size):
    rewards = torch.rand(2, size, generator=torch.Generator().manual_seed(0))
    how = {"ddof": 1, "eps": 1e-6, "scale": True, "leave_one_out": False}
    truth = reference.group_normalize(rewards.double()[..., None], None, None, **how)[..., 0]
    # A centred reward of size 1 is rounded to 6e-8 and divided by a std of .29; sums must add nothing.
    close = 2e-6 if device == "cpu" else 2e-5
    assert (group_normalize(rewards.to(device)).cpu().double() - truth).abs().max() < close


def test_layouts_do_not_matter(device):
    random = torch.Generator().manual_seed(0)
    gains = torch.rand(6, 40, generator=random).to(device)
    expected, normal = swap_ndcg(gains), group_normalize(gains)
    buffer = torch.empty(6 * 40 + 1, device=device)[1:].view(6, 40)  # not aligned to 16 bytes
    layouts = {
        "transposed": gains.T.contiguous().T,
        "strided": torch.stack([gains, gains], 2).flatten(1)[:, ::2],
        "misaligned": buffer.copy_(gains),
    }
    for name, same in layouts.items():
        assert torch.equal(swap_ndcg(same), expected), name
        assert torch.equal(group_normalize(same), normal), name
    assert torch.equal(swap_ndcg(gains[:1].expand(5, 40)), expected[:1].expand(5, 40))
    into = torch.full((40, 6), torch.nan, device=device).T
    assert swap_ndcg(gains, out=into) is into
    assert torch.equal(into, expected)
    turned = group_normalize(gains.T, 0, out=torch.empty_like(buffer.T))
    assert torch.allclose(turned, normal.T, rtol=0, atol=1e-5)  # torch adds up columns in another order
    assert torch.equal(swap_ndcg(gains, out=buffer.fill_(torch.nan)), expected)


def test_leading_dimensions_and_one_idcg_per_context(device):
    gains = torch.rand(2, 3, 5, 8, generator=torch.Generator().manual_seed(0)).to(device)
    idcg = torch.rand(2, 3, 1, generator=torch.Generator().manual_seed(1)).to(device) + 4
    found = swap_ndcg(gains, idcg)
    for b in range(2):
        for c in range(3):
            assert torch.equal(found[b, c], swap_ndcg(gains[b, c], idcg[b, c]))


@pytest.mark.parametrize("masked", [False, True])
def test_lists_of_a_group_may_differ_in_what_is_valid(device, masked):
    random = torch.Generator().manual_seed(0)
    gains = torch.rand(9, 5, 20, generator=random, dtype=torch.float64)
    lengths = torch.randint(0, 21, (9, 5), generator=random)
    mask = torch.rand(9, 5, 20, generator=random) < 0.7 if masked else None
    valid = torch.arange(20) < lengths[..., None]
    valid = valid & mask if masked else valid
    options = {"lengths": lengths.to(device), "mask": mask.to(device) if masked else None}
    found = swap_advantages(gains.to(device), eps=1e-2, **options)
    rewards = swap_ndcg(gains.to(device), **options)
    expected = group_normalize(rewards, 1, valid.to(device), eps=1e-2)
    # The same arithmetic in another order of loops, float64; eps keeps the divisor above 1e-2.
    assert (found - expected).abs().max() < 1e-11
    assert (found.cpu()[~valid] == 0).all()
    assert (found.cpu()[valid] != 0).any()


def test_many_ragged_groups_in_one_row_are_each_a_group(device):
    random = torch.Generator().manual_seed(0)
    rewards = torch.rand(3000, generator=random, dtype=torch.float64)
    cuts = torch.cat([torch.tensor([0]), torch.randint(0, 3001, (200,), generator=random).sort().values])
    cuts = torch.cat([cuts, torch.tensor([3000])])
    found = group_normalize(rewards.to(device), offsets=cuts.to(device), eps=1e-2).cpu()
    for start, end in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
        part = rewards[start:end]
        truth = naive(part, torch.ones(len(part), dtype=torch.bool), 1, 1e-2, "std", False)
        assert torch.allclose(found[start:end], truth, rtol=0, atol=1e-11)  # float64, divisor above 1e-2


def test_the_ideal_order_of_many_kinds_of_lists_is_the_sorted_one(device):
    random = torch.Generator().manual_seed(0)
    for size in (1, 2, 3, 5, 8, 17, 31, 64, 100, 257):
        for gains in (
            torch.rand(40, size, generator=random),
            torch.randint(0, 3, (40, size), generator=random),
        ):
            gains = gains.double()
            gains[::3] = (gains[::3] > 0.5).double()  # lists of 0 and 1 among the others
            ideal = reference.ideal_dcg(gains, torch.ones_like(gains, dtype=torch.bool), size)
            given = swap_ndcg(gains.to(device), ideal.to(device))
            assert (swap_ndcg(gains.to(device)) - given).abs().max() < 1e-12


def test_an_unchecked_nan_stays_in_its_list_and_in_its_group(device):
    gains = torch.rand(40, 20, generator=torch.Generator().manual_seed(0)).to(device)
    idcg = torch.full((40,), 5.0, device=device)
    broken = gains.clone()
    broken[7, 3] = torch.nan
    others = torch.arange(40, device=device) != 7
    for pool in ("later", "all"):
        found = swap_ndcg(broken, idcg, pool=pool, check=False)
        assert torch.equal(found[others], swap_ndcg(gains, idcg, pool=pool)[others])
        assert found[7].isnan().any()
    found = group_normalize(broken, check=False)
    assert torch.equal(found[others], group_normalize(gains)[others])
    assert found[7].isnan().all()
    found = group_normalize(broken.T, 0, check=False).T
    assert torch.equal(found[others], group_normalize(gains.T, 0).T[others])


def test_inputs_that_require_a_gradient_are_detached(device):
    gains = torch.rand(3, 4, device=device, requires_grad=True)
    for found in (swap_ndcg(gains), group_normalize(gains), swap_advantages(gains)):
        assert not found.requires_grad
