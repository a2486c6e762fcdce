from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minirec.objectives import grpo
from minirec.objectives.grpo import advantages
from minirec.settings import Config
from tests import literal, make_vectors
from tests.small_experience import (
    anything,
    catalogue,
    gradient,
    learned,
    literal_loss,
    moved,
    next_item,
    part,
)

CONVENTIONS = make_vectors.CONVENTIONS | {
    "std and leave-one-out": {"ddof": 0, "eps": 1e-4, "std": True, "leave_one_out": True}
}
conventions = pytest.mark.parametrize("convention", CONVENTIONS.values(), ids=CONVENTIONS)

# multiples of 1/8 up to 8: float32 holds them, their differences and their sums without rounding
dyadic = st.integers(-64, 64).map(lambda i: i / 8)
groups = st.lists(dyadic, min_size=1, max_size=9)
ULP = 2**-23  # float32: two roundings of one number that was computed in float64 in two orders


def of(group, **convention):
    """In float64, rounded to float32 once."""
    return advantages(torch.tensor([group], dtype=torch.float64), **convention)[0]


FIRST = CONVENTIONS["openonerec"]


@pytest.mark.parametrize(
    ("convention", "constrained", "again"),
    [(FIRST, True, False), (FIRST, False, False), *((kind, True, True) for kind in CONVENTIONS.values())],
)
def test_the_gradient_is_that_of_the_formula_written_out(convention, constrained, again):
    cfg = replace(Config(), group=5, kl=0.1, clip_low=0.1, clip_high=0.3, seed=3, **convention)
    start, x = next_item(cfg, constrained)
    old, reference = start.double(), moved(start, 0.03, seed=1)
    now = moved(start, 0.02, seed=2) if again else old
    sequences = [
        (b, codes, np.float32(literal.advantages(rewards, **convention))[i : i + 1].tolist())
        for b, rewards in enumerate(x.rewards.tolist())
        for i, codes in enumerate(x.rollout.codes[b].tolist())
    ]
    legal = (catalogue if constrained else anything)(x.trie)
    arguments = (legal, now, old if again else None, reference)
    expected = literal_loss(cfg, x.trie, x.batch, sequences, 5, *arguments)
    loss, facts = learned(x, grpo.signal(x), now, old if again else None, reference)
    # float64, and the advantages rounded to float32 on both sides: what is left is the order of sums
    assert loss.item() == pytest.approx(expected.item(), abs=1e-10)
    torch.testing.assert_close(gradient(loss, now), gradient(expected, now), atol=1e-9, rtol=0)
    clipped, tokens = facts["clipped"]
    assert tokens == 4 * 5 * 3
    assert 0 < clipped < tokens if again else clipped == 0


@conventions
@given(group=groups)
def test_advantages_are_the_formula_written_out_and_sum_to_zero(convention, group):
    found = of(group, **convention)
    expected = torch.tensor(literal.advantages(group, **convention))
    torch.testing.assert_close(found, expected, atol=0, rtol=2 * ULP)
    # each of the G numbers was rounded to float32 once
    assert abs(found.double().sum()) <= len(group) * ULP * found.abs().max()


@conventions
@given(group=groups)
def test_float32_rewards_have_the_same_advantages_to_float32(convention, group):
    """What training uses: the kernel that the benches time."""
    single = advantages(torch.tensor([group]), **convention)[0]
    # G sums and a square root, each rounded by an ULP; relative to the largest advantage of the group
    torch.testing.assert_close(
        single, of(group, **convention), atol=8 * ULP * max(1, single.abs().max()), rtol=0
    )


@conventions
@given(group=groups, constant=st.integers(-1000, 1000))
def test_a_constant_added_to_the_rewards_changes_nothing(convention, group, constant):
    moved_up = [r + constant for r in group]  # still without rounding in float32, so exactly nothing
    assert torch.equal(of(moved_up, **convention), of(group, **convention))


@conventions
@given(group=groups, random=st.randoms(use_true_random=False))
def test_permuting_a_group_permutes_its_advantages(convention, group, random):
    order = list(range(len(group)))
    random.shuffle(order)
    shuffled, found = of([group[i] for i in order], **convention), of(group, **convention)
    torch.testing.assert_close(shuffled, found[order], atol=0, rtol=2 * ULP)


@conventions
@given(value=st.floats(-1e6, 1e6, width=32), size=st.integers(1, 40))
def test_a_flat_group_has_advantages_of_exactly_zero(convention, value, size):
    assert (of([value] * size, **convention) == 0).all()
    double = torch.full((1, size), value / 3, dtype=torch.float64)  # where a mean is not without rounding
    assert (advantages(double, **convention) == 0).all()


@conventions
def test_a_published_bug_eight_rewards_of_0_7_are_silent(convention):
    assert (of([0.7] * 8, **convention) == 0).all()
    naive = torch.full((8,), 0.7)
    naive = (naive - naive.sum() / 8) / (naive.std() + 1e-6)
    assert naive.abs().max() > 0  # what mean and std in float32 make of it


def test_a_published_bug_a_small_spread_is_not_shrunk():
    pair = torch.tensor([[1.00000, 1.00001]])
    spread = (pair[0, 1] - pair[0, 0]).item() / 2**0.5
    expected = 2**-0.5 * spread / (spread + 1e-6)  # 0.62; a floor of 1e-6 under the variance gives 0.007
    assert advantages(pair)[0].tolist() == pytest.approx([-expected, expected], rel=1e-6)
    assert advantages(pair, eps=0)[0].tolist() == pytest.approx([-(2**-0.5), 2**-0.5], rel=1e-6)


@given(small=st.lists(st.integers(0, 8), min_size=2, max_size=8))
def test_a_published_bug_one_pass_sums_do_not_explode_far_from_zero(small):
    far = [2.0**18 + r / 8 for r in small]  # float32 steps by 1/32 here
    for convention in CONVENTIONS.values():
        expected = torch.tensor(literal.advantages(far, **convention))
        torch.testing.assert_close(of(far, **convention), expected, atol=0, rtol=2 * ULP)


def test_a_mean_over_positions_never_mixes_them():
    rewards = torch.tensor([[[1.0, 5.0], [0.0, 5.0], [0.0, 7.0]]])  # (1, 3, 2)
    found = advantages(rewards)
    for k in range(2):
        assert torch.equal(found[..., k], advantages(rewards[..., k]))


def test_a_silent_group_stays_in_the_signal_and_in_the_divisor():
    cfg = replace(Config(), group=5)
    start, x = next_item(cfg)
    flat = x.rewards.clone()
    flat[1] = 0.7
    silent, as_it_was = grpo.signal(replace(x, rewards=flat)), grpo.signal(x)
    assert silent.rows.tolist() == [0, 1, 2, 3]
    assert silent.width == 5
    assert (silent.advantages[1] == 0).all()
    assert torch.equal(silent.advantages[[0, 2, 3]], as_it_was.advantages[[0, 2, 3]])
    assert silent.codes is x.rollout.codes
    now = start.double()
    rest = part(silent, torch.tensor([0, 2, 3]))
    rest = replace(rest, rows=torch.tensor([0, 2, 3]))  # the silent context alone has no row
    whole, rest = (gradient(learned(x, s, now, None, now)[0], now) for s in (silent, rest))
    torch.testing.assert_close(whole, rest, atol=1e-12, rtol=0)
