import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minirec.ops import swap_ndcg
from minirec.rewards import discounts, hit, ideal, independent, ndcg, prefix_score
from tests import literal

# Rounding: sums of a few products below 1 in float64, divided by an IDCG that is no smaller than a gain
CLOSE = {"atol": 1e-12, "rtol": 0}

quarters = st.integers(-4, 12).map(lambda i: i / 4)
ranked = st.lists(quarters, min_size=1, max_size=9)
cuts = st.one_of(st.none(), st.integers(1, 11))
forms = pytest.mark.parametrize(("others", "form"), [("later", "causal"), ("all", "noncausal")])


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def swap(gains, best, others="later", cut=None):
    """Swap rewards, where negative gains count 0 as in the objective."""
    return swap_ndcg(gains.clamp(min=0), best, cutoff=cut, pool=others)


def swapped(gains, others="later", cut=None, best=None):
    """Swap rewards of one list, against its own IDCG or a given one."""
    gains = double(gains)
    return swap(gains, ideal(gains, len(gains), cut) if best is None else double(best), others, cut)


# Next item


@given(
    st.lists(st.lists(st.integers(-1, 5), min_size=4, max_size=4), min_size=1, max_size=4),
    st.lists(st.integers(-1, 5), min_size=3, max_size=3),
)
def test_a_hit_is_an_item_of_the_target_set_and_never_a_hole(items, targets):
    found = hit(torch.tensor(items), torch.tensor([targets] * len(items)))
    wanted = [[float(i in targets and i != -1) for i in row] for row in items]
    assert found.tolist() == wanted
    assert found.dtype == torch.float32


codes = st.integers(1, 5).flatmap(
    lambda levels: st.tuples(
        *[st.lists(st.lists(st.integers(0, 2), min_size=levels, max_size=levels), min_size=1, max_size=6)] * 2
    )
)


@given(both=codes, padding=st.integers(0, 2))
def test_the_prefix_score_is_ten_to_the_minus_missing_levels_of_the_best_target(both, padding):
    group, targets = both
    padded = targets + [[-1] * len(targets[0])] * padding
    found = prefix_score(torch.tensor([group]), torch.tensor([padded]))[0]
    expected = torch.tensor([literal.prefix_score(code, targets) for code in group])
    assert torch.equal(found, expected)  # a table of float32, so bit for bit


@given(both=codes)
def test_the_prefix_score_prefers_longer_common_prefixes_and_nothing_else(both):
    group, target = both[0], both[1][0]

    def common(code):
        return next((m for m in range(len(code)) if code[m] != target[m]), len(code))

    score = prefix_score(torch.tensor([group]), torch.tensor([[target]]))[0].tolist()
    for (a, u), (b, v) in itertools.product(zip(group, score, strict=True), repeat=2):
        assert (u > v) == (common(a) > common(b))


@pytest.mark.parametrize(
    ("levels", "scores"),
    [(1, [0, 1]), (2, [0, 0.1, 1]), (3, [0, 0.01, 0.1, 1]), (4, [0, 0.001, 0.01, 0.1, 1])],
)
def test_the_prefix_score_of_every_length_is_the_papers_at_three_levels(levels, scores):
    group = [[7] * m + [8] + [7] * (levels - m - 1) for m in range(levels)] + [[7] * levels]
    found = prefix_score(torch.tensor([group]), torch.full((1, 1, levels), 7))
    assert found[0].tolist() == torch.tensor(scores).float().tolist()


# Lists


def test_discounts_are_those_of_dcg():
    expected = [1.0, 1 / math.log2(3), 0.5, 1 / math.log2(5), 0.0]
    assert discounts(5, cut=4).tolist() == pytest.approx(expected, rel=1e-15)


@given(gains=st.lists(quarters, min_size=1, max_size=5), short=st.integers(0, 4), cut=cuts)
def test_the_ideal_is_the_best_of_every_list_and_a_list_is_worth_its_share(gains, short, cut):
    length = max(1, len(gains) - short)
    every = [literal.dcg(order, cut) for order in itertools.permutations(gains, length)]
    best = ideal(double(gains), length, cut)
    assert best.item() == pytest.approx(max(every), abs=1e-12)
    found = ndcg(double(gains[:length]), best, cut).item()
    assert found == pytest.approx(literal.ndcg(gains[:length], max(every), cut), abs=1e-12)
    assert 0 <= found <= 1 + 1e-12


@forms
@given(gains=ranked, cut=cuts)
def test_swap_rewards_are_what_really_swapping_two_entries_changes(others, form, gains, cut):
    own = literal.ideal(gains, len(gains), cut)
    for best in (own, 2.5):  # against another IDCG as well
        expected = double(literal.swap(gains, best, form, cut))
        torch.testing.assert_close(swapped(gains, others, cut, best), expected, **CLOSE)


@given(gains=ranked, cut=cuts)
def test_the_independent_form_is_each_gain_alone_and_sums_to_ndcg(gains, cut):
    best = literal.ideal(gains, len(gains), cut)
    found = independent(double(gains), double(best), cut)
    expected = double(literal.credit(gains, best, "independent", cut))
    torch.testing.assert_close(found, expected, **CLOSE)
    torch.testing.assert_close(found.sum(), double(literal.ndcg(gains, best, cut)), **CLOSE)


@given(gains=ranked, cut=cuts)
def test_swap_rewards_weighted_by_the_swaps_add_up_to_the_covariance_of_gains_and_discounts(gains, cut):
    size, g = len(gains), double(gains).clamp(min=0)
    best, d = ideal(g, size, cut), discounts(size, cut)
    swaps = torch.arange(size - 1, -1, -1)
    whole = (size * (g * d).sum() - g.sum() * d.sum()) / best if best > 0 else double(0.0)
    torch.testing.assert_close((swaps * swapped(gains, cut=cut)).sum(), whole, atol=1e-11, rtol=0)


@forms
@given(gains=ranked, cut=cuts)
def test_swap_rewards_lie_between_minus_1_and_1_and_the_last_causal_one_is_0(others, form, gains, cut):
    found = swapped(gains, others, cut)
    assert found.abs().max() <= 1 + 1e-12
    assert form != "causal" or found[-1] == 0


@given(gains=ranked, cut=cuts)
def test_descending_lists_only_lose_by_a_swap_and_ascending_ones_only_win(gains, cut):
    # What is not 0 is at least a quarter times a difference of discounts, far more than float64 rounds.
    assert (swapped(sorted(gains, reverse=True), cut=cut) >= 0).all()
    assert (swapped(sorted(gains), cut=cut) <= 0).all()


@given(gains=ranked, end=quarters, size=st.integers(1, 9), cut=cuts)
def test_where_all_later_gains_are_equal_the_causal_swap_reward_is_exactly_zero(gains, end, size, cut):
    assert (swapped(gains + [end] * size, cut=cut)[len(gains) :] == 0).all()
    assert (swapped(gains + [end] * size, cut=cut, best=0.3)[len(gains) :] == 0).all()


@forms
@given(gain=st.floats(0, 1e6), size=st.integers(1, 40), cut=cuts)
def test_equal_gains_have_swap_rewards_of_exactly_zero(others, form, gain, size, cut):
    assert (swapped([gain] * size, others, cut) == 0).all()
    assert (swap(torch.full((size,), gain), torch.tensor(1.0), others, cut) == 0).all()


@forms
@given(gains=ranked, cut=cuts, by=st.floats(1e-3, 1e3))
def test_the_scale_of_the_gains_does_not_matter(others, form, gains, cut, by):
    found = swapped([by * g for g in gains], others, cut)
    torch.testing.assert_close(found, swapped(gains, others, cut), **CLOSE)


@forms
@given(gains=ranked.map(lambda gains: [abs(g) for g in gains]), by=st.integers(0, 1000))
def test_a_constant_added_to_the_gains_changes_nothing_where_the_ideal_is_given(others, form, gains, by):
    # quarters, so that the differences are without rounding
    assert torch.equal(swapped([g + by for g in gains], others, best=3.0), swapped(gains, others, best=3.0))


@forms
@given(gains=ranked, beyond=st.integers(0, 3))
def test_a_cut_off_beyond_the_list_is_none(others, form, gains, beyond):
    assert torch.equal(swapped(gains, others, cut=len(gains) + beyond), swapped(gains, others))


@forms
@given(gains=ranked, cut=cuts)
def test_lists_of_a_batch_do_not_touch_each_other(others, form, gains, cut):
    other = list(reversed(gains))
    both = double([[gains, other], [other, gains]])
    best = ideal(double(gains), len(gains), cut)
    for i, row in enumerate(swap(both, best.expand(2, 2), others, cut)):
        for j, found in enumerate(row):
            torch.testing.assert_close(found, swapped(other if i ^ j else gains, others, cut), **CLOSE)


@pytest.mark.parametrize("gains", [[0.0, 0.0, 0.0], [-1.0, -3.0, 0.0]])
def test_where_nothing_can_be_gained_everything_is_worth_0_and_negative_gains_count_0(gains):
    best = ideal(double(gains), 3)
    assert best == 0
    for value in (ndcg(double(gains), best), independent(double(gains), best), swap(double(gains), best)):
        assert (value == 0).all()
    clamped = swapped([1.0, 0.0, 0.5])
    assert torch.equal(swapped([1.0, -7.0, 0.5]), clamped)
