from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minirec import rewards
from minirec.objectives import flexrec
from minirec.objectives.flexrec import credit, list_variance, trust
from minirec.objectives.grpo import advantages
from minirec.rewards import in_order
from minirec.settings import Config
from tests import literal
from tests.small_experience import (
    CANDIDATES,
    GAINS,
    closed,
    gradient,
    learned,
    lists,
    literal_loss,
    moved,
)

CFG = replace(Config(), group=5, uncertainty="none", kl=0.1, clip_low=0.1, clip_high=0.15, seed=5)
FORMS = ["causal", "noncausal", "independent", "list"]
quarters = st.integers(0, 8).map(lambda i: i / 4)


def written_out(x):
    """(context, codes [P][L], advantages [P]) of every list of every context with something to gain."""
    form, uncertainty = x.cfg.credit, x.cfg.uncertainty
    sequences, us = [], []
    for b, group in enumerate(x.rollout.items.tolist()):
        known = dict(zip(x.lists.candidates[b].tolist(), x.lists.gains[b].tolist(), strict=True))
        doubt = dict(zip(x.lists.candidates[b].tolist(), x.lists.variance[b].tolist(), strict=True))
        best = literal.ideal(list(known.values()), len(group[0]))
        if best == 0:
            continue
        reward = [literal.credit([known[i] for i in one], best, form) for one in group]
        by_place = [literal.advantages([r[k] for r in reward]) for k in range(len(group[0]))]
        u = [literal.list_variance([doubt[i] for i in one], best) for one in group]
        us += [u] if uncertainty == "rollout" else [[sum(u) / len(u)] * len(u)]
        for g, codes in enumerate(x.rollout.codes[b].tolist()):
            sequences.append((b, codes, np.float32([column[g] for column in by_place]).tolist()))
    if uncertainty == "none":
        return sequences
    weights = literal.trust([u for row in us for u in row])
    return [(b, codes, [w * a for a in row]) for (b, codes, row), w in zip(sequences, weights, strict=True)]


@pytest.mark.parametrize(
    ("form", "uncertainty", "again"),
    [
        *((form, "none", again) for form in FORMS for again in (False, True)),
        *((form, kind, True) for form in ("causal", "list") for kind in ("context", "rollout")),
    ],
)
def test_the_gradient_is_that_of_the_formula_written_out(form, uncertainty, again):
    cfg = replace(CFG, credit=form, uncertainty=uncertainty)
    start, x = lists(cfg, seed=5)
    if uncertainty == "none":
        object.__setattr__(x.lists, "gains", x.lists.gains.double())  # past the check of the dtype
    old, reference = moved(start, 0.0, seed=0), moved(start, 0.03, seed=1)
    now = moved(start, 0.02, seed=2) if again else old
    sequences = written_out(x)
    assert len(sequences) == 3 * 5
    arguments = (closed(x.trie, CANDIDATES), now, old if again else None, reference)
    expected = literal_loss(cfg, x.trie, x.batch, sequences, 5, *arguments)
    signal = flexrec.signal(x)
    loss, facts = learned(x, signal, now, old if again else None, reference)
    assert signal.rows.tolist() == [0, 1, 3]
    # float64, and advantages rounded to float32 on both sides: what is left is the order of sums. With
    # uncertainty, gains, rewards and weights are float32 throughout: 1e-7 of each, over stds of 0.03 and up
    close = 1e-9 if uncertainty == "none" else 1e-5
    assert loss.item() == pytest.approx(expected.item(), abs=close)
    torch.testing.assert_close(gradient(loss, now), gradient(expected, now), atol=close, rtol=0)
    assert (facts["clipped"][0] > 0) == again


def test_the_forms_and_the_weights_have_different_gradients():
    start, x = lists(CFG, seed=5)
    now = moved(start, 0.0, seed=0)
    kinds = [{"credit": form} for form in FORMS]
    kinds += [{"uncertainty": kind} for kind in ("context", "rollout")]
    slopes = []
    for kind in kinds:
        cfg = replace(CFG, **kind)
        signal = flexrec.signal(replace(x, cfg=cfg))
        slopes.append(gradient(learned(replace(x, cfg=cfg), signal, now, None, now)[0], now))
    for i, one in enumerate(slopes):
        for other in slopes[:i]:
            assert torch.cosine_similarity(one, other, dim=0) < 0.999


@pytest.mark.parametrize("form", FORMS)
def test_advantages_sum_to_zero_in_every_position_until_a_rollout_is_weighted(form):
    _, x = lists(replace(CFG, credit=form), seed=5)

    def sums(uncertainty):
        signal = flexrec.signal(replace(x, cfg=replace(x.cfg, uncertainty=uncertainty)))
        return signal.advantages.double().sum(1).abs().max()

    rounding = 5 * 2**-23 * 4  # five float32 numbers up to 4
    assert sums("none") < rounding
    assert sums("context") < rounding
    assert sums("rollout") > 0.01  # the paper's form has no group baseline any more


@pytest.mark.parametrize("form", FORMS)
def test_permuting_a_group_permutes_its_advantages(form):
    _, x = lists(replace(CFG, credit=form, uncertainty="rollout"), seed=5)
    order, r = torch.tensor([3, 0, 4, 2, 1]), x.rollout
    other = replace(r, items=r.items[:, order], codes=r.codes[:, order], logp=r.logp[:, order])
    first, second = flexrec.signal(x), flexrec.signal(replace(x, rollout=other))
    assert torch.equal(first.codes[:, order], second.codes)
    # float32; the std is that of rewards of 0.03 and more
    torch.testing.assert_close(first.advantages[:, order], second.advantages, atol=1e-5, rtol=0)


@pytest.mark.parametrize("form", FORMS)
def test_equal_gains_or_equal_lists_teach_nothing(form):
    _, x = lists(replace(CFG, credit=form, uncertainty="context"), seed=5)
    flat = x.lists.gains.clone()
    flat[0] = 0.7
    items, codes = x.rollout.items.clone(), x.rollout.codes.clone()
    items[1], codes[1] = items[1, :1], codes[1, :1]
    signal = flexrec.signal(
        replace(x, lists=replace(x.lists, gains=flat), rollout=replace(x.rollout, items=items, codes=codes))
    )
    assert signal.rows.tolist() == [0, 1, 3]
    assert (signal.advantages[1] == 0).all()
    # each item alone still has its place in the list as a reward
    assert (signal.advantages[0] == 0).all() or form == "list"
    assert signal.advantages[2].abs().max() > 0.1


def test_contexts_with_nothing_to_gain_are_left_out_of_rows_and_of_the_mean_variance():
    _, x = lists(replace(CFG, uncertainty="context"), seed=5)
    signal = flexrec.signal(x)
    assert signal.rows.tolist() == [0, 1, 3]
    assert signal.width == 5
    doubtful = x.lists.variance.clone()
    doubtful[2] = 1e9
    other = flexrec.signal(replace(x, lists=replace(x.lists, variance=doubtful)))
    assert torch.equal(other.advantages, signal.advantages)
    nothing = flexrec.signal(replace(x, lists=replace(x.lists, gains=-x.lists.gains.abs())))
    assert len(nothing.rows) == 0


def test_negative_gains_count_as_zero():
    _, x = lists(CFG, seed=5)
    clamped = flexrec.signal(replace(x, lists=replace(x.lists, gains=x.lists.gains.clamp(min=0))))
    assert torch.equal(flexrec.signal(x).advantages, clamped.advantages)
    assert (x.lists.gains < 0).any()


# Two candidates


@given(
    pair=st.tuples(quarters, quarters).filter(lambda pair: max(pair) > 0),
    orders=st.lists(st.booleans(), min_size=2, max_size=8),
)
def test_with_two_candidates_swap_and_list_advantages_agree_up_to_epsilon(pair, orders):
    gains = torch.tensor([[pair[::-1] if turned else pair for turned in orders]], dtype=torch.float64)
    best, eps = rewards.ideal(torch.tensor([pair], dtype=torch.float64), 2), 1e-6
    reward = credit(gains, best, "list")
    swap, whole = advantages(credit(gains, best, "causal"), eps=eps), advantages(reward, eps=eps)
    assert (swap[..., 1] == 0).all()  # nothing is left to swap with, and nothing to choose
    # a swap's rewards are NDCG's times 2 but for a constant, so s + ε/2 stands where s + ε did: ε/2s of A
    # at most, 3e-6 of it for gains of 1 and 0 in two equal halves; and each is rounded to float32 once
    spread = reward[0, :, 0].std()
    bound = whole[..., 0].abs() * (eps / (2 * spread) + 2**-23)
    assert spread == 0 or ((swap[..., 0] - whole[..., 0]).abs() <= bound).all()
    assert spread > 0 or (swap == 0).all()


def test_with_two_candidates_swap_and_list_gradients_agree_up_to_epsilon():
    start, x = lists(CFG, CANDIDATES[:, :2], GAINS[:, :2].double(), seed=5)
    now, slopes = moved(start, 0.0, seed=0), []
    for form in ("causal", "list"):
        other = replace(x, cfg=replace(CFG, credit=form))
        slopes.append(gradient(learned(other, flexrec.signal(other), now, None, now)[0], now))
    assert slopes[1].abs().max() > 0.01
    assert (slopes[0] - slopes[1]).norm() < 1e-5 * slopes[1].norm()  # ε / 2s, as above


# Parts


@given(st.permutations(range(5)), st.lists(st.permutations(range(4)), min_size=1, max_size=3))
def test_values_are_looked_up_by_item_wherever_the_candidate_stands(names, orders):
    candidates, values = torch.tensor([names[:4]]), torch.tensor([[10.0, 11.0, 12.0, 13.0]])
    items = torch.tensor([[[names[i] for i in order] for order in orders]])
    assert in_order(candidates, values, items).tolist() == [[[10.0 + i for i in order] for order in orders]]


@given(st.lists(st.floats(0, 10), min_size=1, max_size=6), st.floats(0.1, 5))
def test_the_variance_of_a_list_weighs_positions_by_the_square_of_their_discount(variances, best):
    found = list_variance(
        torch.tensor([[variances]], dtype=torch.float64), torch.tensor([best], dtype=torch.float64)
    )
    assert found.item() == pytest.approx(literal.list_variance(variances, best), rel=1e-12)


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=9))
def test_trust_falls_with_variance_has_mean_1_and_does_not_know_its_unit(us):
    u = torch.tensor(us, dtype=torch.float64)
    c = trust(u)
    torch.testing.assert_close(c, torch.tensor(literal.trust(us), dtype=torch.float64), atol=0, rtol=1e-12)
    assert c.mean().item() == pytest.approx(1, rel=1e-12)
    assert (c[u.argsort()].diff() <= 1e-12).all()
    torch.testing.assert_close(trust(1000 * u), c, atol=0, rtol=1e-12)
    assert torch.equal(trust(torch.zeros(3)), torch.ones(3))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("std", [True, False])
def test_one_pass_over_swaps_is_the_readable_two(form, std):
    _, x = lists(CFG, seed=5)
    cfg, ideal = replace(CFG, std=std, ddof=0, eps=1e-4), rewards.ideal(x.lists.gains, 4)
    gains = in_order(x.lists.candidates, x.lists.gains, x.rollout.items)
    fused = flexrec.position_advantages(gains, ideal, form, cfg)
    twice = advantages(credit(gains, ideal, form), ddof=0, eps=1e-4, std=std)
    torch.testing.assert_close(fused, twice, atol=2e-5, rtol=0)  # float32 over stds of 0.03 and more
    assert fused.dtype == torch.float32
