import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minirec.objectives import adagrpo, continued, grpo
from minirec.objectives.adagrpo import cross_sample_negatives, diagnose, rank
from minirec.records import PAD
from minirec.settings import Config
from tests import literal
from tests.small_experience import (
    anything,
    by_hand,
    catalogue,
    gradient,
    learned,
    literal_loss,
    moved,
    next_item,
    uniform,
)

CFG = replace(Config(), group=6, tau=1 / 3, rho=0.0, negatives=2, kl=0.1, rl_weight=2.0, seed=5)


def draw(data, size, group=6, total=12):
    """Contexts with holes, repeated items and ties of both scores."""
    integers = st.integers(0, 2**31)
    random = torch.Generator().manual_seed(data.draw(integers))
    items = torch.randint(-1, total, (size, group), generator=random)
    likelihood = -torch.randint(1, 6, (size, total + 1), generator=random).float()
    worth = torch.randint(1, 6, (size, total), generator=random).float() / 8
    targets = torch.stack([torch.randperm(total, generator=random)[:2] for _ in range(size)])
    return items, likelihood, worth, targets


def decide(x, items, likelihood, worth):
    """Every context's ranks and gate, one by one."""
    cfg, out, every = x.cfg, [], items.tolist()
    for b, group in enumerate(every):
        target = x.batch.targets[b, 0].item()
        other = literal.negatives(
            every, b, x.batch.targets[b].tolist(), x.noise(1 + items.numel())[b, 1:].tolist(), cfg.negatives
        )
        reward = [worth[b, i].item() if i >= 0 else 0.0 for i in group]
        ranks = (
            literal.rank(
                [likelihood[b, i].item() for i in group], group, likelihood[b, target].item() - 1e-6, target
            ),
            literal.rank(reward, group, worth[b, target].item(), target),
            [literal.rank(reward, group, worth[b, n].item(), n) for n in other],
        )
        difficult, separated, _ = literal.gate(*ranks, len(group), cfg.tau, cfg.rho)
        separated &= len(other) == cfg.negatives and max(group) >= 0
        out.append((difficult, separated, len(other) < cfg.negatives))
    return out


# Gradients


@pytest.mark.parametrize("again", [False, True], ids=["on policy", "second update"])
@pytest.mark.parametrize("constrained", [True, False], ids=["trie", "no mask"])
def test_the_gradient_is_that_of_the_formula_written_out(constrained, again):
    start, x = next_item(CFG, constrained, seed=5)
    items, legal = x.rollout.items[..., 0], (catalogue if constrained else anything)(x.trie)
    old, reference = start.double(), moved(start, 0.03, seed=1)
    now = moved(start, 0.02, seed=2) if again else old
    likelihood = torch.zeros(4, 21)
    for b in range(4):
        likelihood[b].scatter_(0, items[b] % 21, x.rollout.logp[b].sum((1, 2)))
    likelihood.scatter_(1, x.batch.targets[:, :1], x.logp(x.batch.targets[:, :1]) + 1e-6)
    worth = x.reward(torch.arange(20).expand(4, -1))
    gates = [d and q for d, q, _ in decide(x, items, likelihood, worth)]
    assert 0 < sum(gates) < 4
    sequences = [
        (b, codes, np.float32(literal.advantages(x.rewards[b].tolist()))[i : i + 1].tolist())
        for b in range(4)
        if gates[b]
        for i, codes in enumerate(x.rollout.codes[b].tolist())
    ]
    arguments = (legal, now, old if again else None, reference)
    expected = literal_loss(CFG, x.trie, x.batch, sequences, 6, *arguments, nll=True, weight=2.0)
    signal = adagrpo.signal(x)
    loss, _ = learned(x, signal, now, old if again else None, reference)
    assert signal.rows.tolist() == [b for b in range(4) if gates[b]]
    # float64, and the advantages rounded to float32 on both sides: what is left is the order of sums
    assert loss.item() == pytest.approx(expected.item(), abs=1e-10)
    torch.testing.assert_close(gradient(loss, now), gradient(expected, now), atol=1e-9, rtol=0)


def test_with_the_gate_shut_it_is_supervised_continued_and_open_it_is_the_fixed_mixture():
    start, x = next_item(CFG, constrained=False, seed=5)
    now, reference = moved(start, 0.02, seed=1), start.double()

    def slope(signal):
        return gradient(learned(x, signal, now, reference, reference)[0], now)

    shut = adagrpo.signal(replace(x, cfg=replace(CFG, gate="shut")))
    nll = slope(continued.signal(x))
    assert len(shut.rows) == 0
    assert torch.equal(slope(shut), nll)
    reward = slope(grpo.signal(x))
    for weight in (0.25, 2.0):
        mixed = slope(adagrpo.signal(replace(x, cfg=replace(CFG, gate="open", rl_weight=weight))))
        # float64, gradients below 10: the order of sums
        torch.testing.assert_close(mixed, nll + weight * reward, atol=1e-12, rtol=0)
    assert reward.norm() > 0.1


# The gate


@settings(max_examples=150)
@given(data=st.data(), tau=st.sampled_from([1 / 6, 1 / 3, 0.5]), rho=st.sampled_from([0.0, 1 / 6, 0.5]))
def test_gates_are_the_decisions_written_out(data, tau, rho):
    items, likelihood, worth, targets = draw(data, size=5)
    x = by_hand(replace(CFG, tau=tau, rho=rho), items, likelihood, worth, targets)
    decisions = decide(x, items, likelihood, worth)
    wanted = {
        "both": [d and q for d, q, _ in decisions],
        "difficulty": [d for d, _, _ in decisions],
        "discriminability": [q for _, q, _ in decisions],
        "open": [True] * 5,
        "shut": [False] * 5,
    }
    for gate, admitted in wanted.items():
        signal = adagrpo.signal(replace(x, cfg=replace(x.cfg, gate=gate)))
        assert signal.rows.tolist() == [b for b in range(5) if admitted[b]]
        assert torch.equal(signal.codes, x.rollout.codes[signal.rows])
        assert signal.facts == {
            "difficult": sum(d for d, _, _ in decisions),
            "discriminable": sum(q for _, q, _ in decisions),
            "short_of_negatives": sum(s for _, _, s in decisions),
        }


@given(data=st.data())
def test_permuting_a_group_changes_no_gate(data):
    items, likelihood, worth, targets = draw(data, size=5)
    order = torch.tensor(data.draw(st.permutations(range(6))))
    first, second = (
        adagrpo.signal(by_hand(CFG, some, likelihood, worth, targets)) for some in (items, items[:, order])
    )
    assert torch.equal(first.rows, second.rows)
    torch.testing.assert_close(first.advantages[:, order], second.advantages, atol=0, rtol=2**-22)


def test_equal_items_tie_by_identity_though_another_pass_differs_by_a_millionth():
    scores, items = torch.tensor([[-1.0, -1.0, -2.0, -1.0]]), torch.tensor([[7, 7, 3, 8]])
    for error in (-1e-6, 0.0, 1e-6):
        own = torch.tensor([[-1.0 + error]])
        assert rank(scores, items, own, torch.tensor([[7]])).item() == (2 if error < 0 else 1)
        assert rank(scores, items, own - 5, torch.tensor([[7]])).item() == 3  # the 3 and the 8


@pytest.mark.parametrize("level", [0.7, 0.1, 1.0])
def test_the_rank_of_a_target_that_ties_with_others_counts_only_what_is_above(level):
    scores, items = torch.tensor([[level] * 4]), torch.tensor([[1, 2, 3, -1]])
    assert rank(scores, items, torch.tensor([[level]]), torch.tensor([[9]])).item() == 1


def test_the_thresholds_are_ranks_and_their_edges_are_where_the_formula_has_them():
    place = torch.arange(1, 10)
    far = torch.full((9, 2), 9)
    difficult, separated = diagnose(place, place, far, group=8, tau=0.25, rho=0.5)
    assert difficult.tolist() == [p > 2 for p in range(1, 10)]
    assert separated.tolist() == [p <= 2 for p in range(1, 10)]
    one = torch.ones(9, dtype=torch.int64)
    near = torch.stack([place, torch.full((9,), 9)], 1)  # one near negative is enough
    assert diagnose(one, one, near, 8, 0.25, 0.5)[1].tolist() == [p > 4 for p in range(1, 10)]


@pytest.mark.parametrize(("tau", "group"), [(0.124, 8), (0.1, 9), (0.0, 16)])
def test_a_threshold_below_the_first_place_is_an_error(tau, group):
    one = torch.ones(2, 1, dtype=torch.int64)
    with pytest.raises(ValueError, match="tau"):
        diagnose(one[:, 0], one[:, 0], one, group, tau, 0.25)
    diagnose(one[:, 0], one[:, 0], one, group=8, tau=0.125, rho=0.25)


def test_a_group_of_holes_is_never_admitted_though_its_target_ranks_first():
    items = torch.tensor([[-1] * 6, [1, 2, 3, -1, -1, -1]])
    likelihood, worth = torch.full((2, 13), -3.0), torch.full((2, 12), 0.5)
    likelihood[:, [5, 6]] = -9.0
    worth[:, [5, 6]] = 0.9
    x = by_hand(replace(CFG, negatives=0), items, likelihood, worth, torch.tensor([[5], [6]]))
    for gate in ("both", "discriminability"):
        assert adagrpo.signal(replace(x, cfg=replace(x.cfg, gate=gate))).rows.tolist() == [1]


# Cross-sample negatives


@given(data=st.data())
def test_negatives_are_distinct_items_of_others_only_and_padded_when_too_few(data):
    items, _, _, targets = draw(data, size=4)
    size, seed = data.draw(st.integers(1, 15)), data.draw(st.integers(0, 99))
    noise, mine = uniform(4, items.numel(), seed=seed), torch.tensor([2, 0])
    found = cross_sample_negatives(items, mine, targets[mine], noise, size)
    assert found.shape == (2, size)
    for row, b in zip(found.tolist(), mine.tolist(), strict=True):
        expected = literal.negatives(items.tolist(), b, targets[b].tolist(), noise[b].tolist(), size)
        assert row == expected + [PAD] * (size - len(expected))
        others = {i for c in range(4) if c != b for i in items[c].tolist()}
        kept = [i for i in row if i != PAD]
        assert len(set(kept)) == len(kept)
        assert set(kept) <= others - set(items[b].tolist()) - set(targets[b].tolist()) - {-1}


def test_a_context_short_of_negatives_is_shut_and_counted():
    items = torch.tensor([[1, 2, 3, 1, 2, 3], [4, 4, 4, 4, 4, 4]])
    likelihood, worth = torch.full((2, 13), -3.0), torch.full((2, 12), 0.5)
    likelihood[:, [5, 6]] = -9.0
    worth[:, [5, 6]] = 0.9
    x = by_hand(CFG, items, likelihood, worth, torch.tensor([[5], [6]]))
    signal = adagrpo.signal(x)  # the first finds only the 4, the second three items, and M = 2
    assert signal.rows.tolist() == [1]
    assert signal.facts["short_of_negatives"] == 1


# The random gate


def make_half_open():
    """Six contexts of which the gate admits the first, the third and the fourth."""
    items = torch.arange(36).view(6, 6) % 30
    likelihood, worth = torch.full((6, 41), -3.0), torch.full((6, 40), 0.1)
    targets = torch.arange(34, 40)[:, None]
    likelihood.scatter_(1, targets, -9.0)
    worth.scatter_(1, targets, torch.tensor([[0.9], [0.0], [0.9], [0.9], [0.0], [0.0]]))
    return by_hand(replace(CFG, gate="random", tau=1 / 6), items, likelihood, worth, targets)


@given(data=st.data())
def test_the_random_gate_admits_exactly_as_many_as_both(data):
    items, likelihood, worth, targets = draw(data, size=6)
    x = by_hand(replace(CFG, seed=data.draw(st.integers(0, 99))), items, likelihood, worth, targets)
    both = adagrpo.signal(x)
    other = adagrpo.signal(replace(x, cfg=replace(x.cfg, gate="random")))
    assert len(other.rows) == len(both.rows)
    assert other.facts == both.facts


def test_the_random_gate_admits_every_context_equally_often():
    x, times = make_half_open(), 400
    assert adagrpo.signal(replace(x, cfg=replace(x.cfg, gate="both"))).rows.tolist() == [0, 2, 3]
    count = torch.zeros(6)
    for seed in range(times):
        chosen = adagrpo.signal(replace(x, noise=lambda n, s=seed: uniform(6, n, seed=s))).rows
        assert len(chosen) == 3
        count[chosen] += 1
    # each is Binomial(times, 1/2); a false alarm of 1e-4 for the six together
    critical = NormalDist().inv_cdf(1 - 1e-4 / 12)
    assert ((count - times / 2).abs() / math.sqrt(times / 4)).max() < critical
