from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minirec import rewards
from minirec.objectives import grpo, recast
from minirec.objectives.recast import choose, contrast, repair
from minirec.records import Rollout
from minirec.settings import Config
from tests import literal
from tests.small import random_codes
from tests.small_experience import catalogue, gradient, learned, literal_loss, moved, next_item

CFG = replace(Config(), group=6, kl=0.1, clip_low=0.1, clip_high=0.15, seed=5)


def written_out(codes, targets, likelihood, mend=True, pair=True):
    """One group: its codes after repair, and (rollout, advantage) of what is learned from."""
    codes = list(codes)
    place = literal.repair(codes, targets, likelihood) if mend else None
    if place is not None:
        codes[place] = targets[0]
    if not pair:
        hits = [float(code in targets) for code in codes]
        return codes, list(enumerate(np.float32(literal.advantages(hits)).tolist()))
    chosen = literal.contrast(codes, targets, likelihood)
    return codes, [] if chosen is None else list(zip(chosen, (1.0, -1.0), strict=True))


def groups_of(x):
    """Codes, codes of the targets and likelihoods of each context, as lists."""
    targets = [[x.trie.codes[i].tolist() for i in row if i >= 0] for row in x.batch.targets.tolist()]
    codes, likelihood = x.rollout.codes[:, :, 0].tolist(), x.rollout.logp.sum((2, 3)).tolist()
    return list(zip(codes, targets, likelihood, strict=True))


@pytest.fixture(scope="module")
def start():
    """A policy, and four groups: two without a hit, one with three, one of hits only."""
    policy, x = next_item(CFG, seed=5)
    items = x.rollout.items.clone()
    items[0, [1, 3, 4], 0] = torch.tensor([0, 9, 0])
    items[2] = 11
    codes = x.trie.encode(items)
    return policy, replace(x, rollout=Rollout(items, codes, x.rollout.logp))


SWITCHES = {
    "both": (True, True),
    "repair alone": (True, False),
    "contrast alone": (False, True),
    "neither": (False, False),
}
switches = pytest.mark.parametrize(("mend", "pair"), SWITCHES.values(), ids=SWITCHES)


@pytest.mark.parametrize("again", [False, True], ids=["on policy", "second update"])
@switches
def test_the_gradient_is_that_of_the_formula_written_out(start, mend, pair, again):
    policy, x = start
    cfg = replace(CFG, repair=mend, contrast=pair)
    old, reference = moved(policy, 0.0, seed=0), moved(policy, 0.03, seed=1)
    now = moved(policy, 0.02, seed=2) if again else old
    sequences = []
    for b, group in enumerate(groups_of(x)):
        codes, learns = written_out(*group, mend, pair)
        sequences += [(b, [codes[i]], [a]) for i, a in learns]
    if pair:
        assert len(sequences) == (6 if mend else 2)  # the group of hits only has no legal negative
    arguments = (catalogue(x.trie), now, old if again else None, reference)
    expected = literal_loss(cfg, x.trie, x.batch, sequences, 2 if pair else 6, *arguments)
    signal = recast.signal(replace(x, cfg=cfg))
    loss, facts = learned(replace(x, cfg=cfg), signal, now, old if again else None, reference)
    # float64, and the advantages rounded to float32 on both sides: what is left is the order of sums
    assert loss.item() == pytest.approx(expected.item(), abs=1e-10)
    torch.testing.assert_close(gradient(loss, now), gradient(expected, now), atol=1e-9, rtol=0)
    assert facts["clipped"][1] == len(sequences) * 3
    assert (facts["clipped"][0] > 0) == again


def test_only_two_rows_of_learnable_contexts_are_left_and_the_divisor_is_two(start):
    _, x = start
    signal = recast.signal(x)
    assert signal.rows.tolist() == [0, 1, 3]
    assert signal.codes.shape == (3, 2, 1, 3)
    assert signal.width == 2
    assert signal.advantages[..., 0].tolist() == [[1.0, -1.0]] * 3
    assert not signal.nll
    assert recast.signal(replace(x, cfg=replace(CFG, repair=False))).rows.tolist() == [0]
    counts = {"all_zero": 2, "mixed": 1, "all_hit": 1}
    mended = {"repaired_all_zero": 0, "repaired_mixed": 3, "repaired_all_hit": 1}
    assert signal.facts == counts | mended


def test_without_its_switches_it_is_grpo_on_the_binary_reward(start):
    _, x = start
    hits = rewards.hit(x.rollout.items[..., 0], x.batch.targets).to(x.rewards)
    plain = recast.signal(replace(x, cfg=replace(CFG, repair=False, contrast=False)))
    base = grpo.signal(replace(x, rewards=hits))
    assert torch.equal(plain.advantages, base.advantages)
    assert torch.equal(plain.codes, base.codes)
    assert plain.width == base.width


def test_a_silent_group_is_silent_by_its_outcomes_and_repair_makes_it_speak(start):
    _, x = start
    alone = recast.signal(replace(x, cfg=replace(CFG, contrast=False)))
    assert alone.rows.tolist() == [0, 1, 2, 3]
    assert (alone.advantages[2] == 0).all()  # hits only
    assert all((alone.advantages[b] > 0).sum() == 1 for b in (1, 3))
    unmended = recast.signal(replace(x, cfg=replace(CFG, contrast=False, repair=False)))
    assert all((unmended.advantages[b] == 0).all() for b in (1, 2, 3))


# Choices, group by group

SIZES = {1: 20, 2: 5, 3: 3, 4: 2}  # V by L: few more tuples than items
CODES = {levels: random_codes(12, levels, size, seed=3).tolist() for levels, size in SIZES.items()}


@st.composite
def groups(draw):
    """Codes of rollouts (few items, so that u and likelihood tie), codes of targets, log-probabilities."""
    table = CODES[draw(st.sampled_from([1, 2, 3, 4]))]
    which = draw(st.lists(st.integers(0, 11), min_size=1, max_size=8))
    targets = draw(st.lists(st.integers(0, 11), min_size=1, max_size=2, unique=True))
    likelihood = draw(st.lists(st.integers(-3, -1), min_size=len(which), max_size=len(which)))
    return [table[i] for i in which], [table[i] for i in targets], [float(v) for v in likelihood]


def tensors(codes, targets, likelihood):
    hits = torch.tensor([[float(code in targets) for code in codes]])
    return (
        hits,
        rewards.prefix_score(torch.tensor([codes]), torch.tensor([targets])),
        torch.tensor([likelihood]),
    )


@given(group=groups())
def test_repair_and_contrast_choose_as_the_rules_say(group):
    expected = literal.repair(*group)
    rows, place = repair(*tensors(*group))
    assert place.tolist() == ([] if expected is None else [expected])
    assert rows.tolist() == ([] if expected is None else [0])
    expected = literal.contrast(*group)
    rows, pair = contrast(*tensors(*group))
    assert pair.tolist() == ([] if expected is None else [list(expected)])
    assert rows.tolist() == ([] if expected is None else [0])


@given(group=groups(), random=st.randoms(use_true_random=False))
def test_permuting_a_group_chooses_rollouts_of_the_same_worth(group, random):
    codes, targets, likelihood = group
    order = list(range(len(codes)))
    random.shuffle(order)
    other = [codes[i] for i in order], targets, [likelihood[i] for i in order]
    _, first = contrast(*tensors(*group))
    _, second = contrast(*tensors(*other))
    assert len(first) == len(second)
    for a, b in zip(first.flatten().tolist(), second.flatten().tolist(), strict=True):
        score = literal.prefix_score
        assert score(codes[a], targets) == score(other[0][b], targets)
        assert likelihood[a] == other[2][b]


group_of_items = st.lists(st.integers(0, 19), min_size=6, max_size=6)


@given(said=st.lists(group_of_items, min_size=4, max_size=4))
def test_repair_changes_no_group_that_has_a_hit_and_gives_one_to_every_other(start, said):
    x, items = start[1], torch.tensor(said)
    x = replace(x, rollout=Rollout(items[..., None], x.trie.encode(items)[:, :, None], x.rollout.logp))
    before = rewards.hit(items, x.batch.targets)
    signal = recast.signal(replace(x, cfg=replace(CFG, contrast=False)))
    after = rewards.hit(x.trie.lookup(signal.codes[:, :, 0]), x.batch.targets)
    for b in range(4):
        changed = (signal.codes[b] != x.rollout.codes[b]).any(-1).sum()
        assert changed == (before[b].sum() == 0)
        assert after[b].sum() == (before[b].sum() if before[b].any() else 1)
    assert torch.equal(x.rollout.items[..., 0], items)  # what was rolled out stays as it was


def test_the_first_target_repairs_and_padding_is_no_target(start):
    _, x = start
    targets = torch.tensor([[0, 9, -1], [4, -1, -1], [11, -1, -1], [15, 3, -1]])
    signal = recast.signal(replace(x, batch=replace(x.batch, targets=targets)))
    said = x.trie.lookup(signal.codes[:, 0, 0])
    assert said[1:].tolist() == [4, 15]
    assert torch.equal(signal.codes, recast.signal(x).codes)


def test_ties_of_repair_go_to_the_least_likely_then_the_first():
    hits, score = torch.zeros(1, 5), torch.tensor([[0.1, 0.0, 0.0, 0.0, 0.01]])
    assert repair(hits, score, torch.tensor([[-9.0, -2.0, -3.0, -3.0, -9.0]]))[1].tolist() == [2]
    assert repair(hits, score, torch.full((1, 5), -1.0))[1].tolist() == [1]


def test_ties_of_contrast_go_to_the_likeliest_then_the_first():
    hits = torch.tensor([[1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0]])
    score = torch.tensor([[1.0, 0.1, 1.0, 1.0, 0.1, 0.1, 0.01]])
    likelihood = torch.tensor([[-3.0, -4.0, -2.0, -2.0, -3.0, -3.0, -1.0]])
    assert contrast(hits, score, likelihood)[1].tolist() == [[2, 4]]
    assert contrast(hits, score, torch.full((1, 7), -1.0))[1].tolist() == [[0, 1]]


def test_a_group_without_a_hit_or_without_a_miss_is_skipped():
    hits = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    rows, pair = contrast(hits, hits, torch.zeros(3, 2))
    assert rows.tolist() == [2]
    assert pair.tolist() == [[1, 0]]


def test_choose_never_takes_what_is_ruled_out():
    first = torch.tensor([[float("-inf"), 0.0, float("-inf")]])
    assert choose(first, torch.tensor([[9.0, -9.0, 9.0]])).tolist() == [1]
