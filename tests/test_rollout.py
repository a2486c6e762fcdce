import math

import pytest
import torch

from minirec.errors import InputError
from minirec.measure.exact import item_logprobs
from minirec.noise import draw
from minirec.policy import score, token_logprobs
from minirec.records import HOLE, PAD
from minirec.rollout import beam, closed_masks, rank, sample
from tests.small import levels, make

CLOSE = {"atol": 1e-5, "rtol": 0}  # float32 sums in another order


def uniform(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@levels
def test_probabilities_over_the_catalogue_sum_to_one(levels, size):
    policy, trie, prompt = make(levels=levels, size=size)
    total = item_logprobs(policy, prompt, trie).double().exp().sum(1)
    torch.testing.assert_close(total, torch.ones(3, dtype=torch.float64), atol=1e-6, rtol=0)
    free = item_logprobs(policy, prompt, trie, constrained=False).double().exp().sum(1)
    holes = size**levels > len(trie)
    assert (free < 0.999).all() if holes else torch.allclose(free, torch.ones_like(free), atol=1e-6)


@levels
@pytest.mark.parametrize("constrained", [True, False])
def test_sampler_scorer_and_enumeration_agree(levels, size, constrained):
    policy, trie, prompt = make(levels=levels, size=size)
    rollout = sample(policy, prompt, trie, uniform(3, 64, levels), constrained)
    allowed = trie.masks(rollout.codes) if constrained else None
    torch.testing.assert_close(score(policy, prompt, rollout.codes, allowed), rollout.logp, **CLOSE)
    items = rollout.items[..., 0]
    exact = item_logprobs(policy, prompt, trie, constrained).gather(1, items.clamp(min=0))
    real = items != HOLE
    torch.testing.assert_close(rollout.logp.sum((2, 3))[real], exact[real], **CLOSE)
    assert torch.equal(trie.lookup(rollout.codes), rollout.items)
    assert real.all() if constrained or size**levels == len(trie) else not real.all()


def test_a_temperature_divides_the_logits_before_the_mask():
    policy, trie, prompt = make(levels=1, size=50)  # 40 of the 50 codes are items
    codes = trie.codes.expand(3, 40, 1)[:, :, None]
    found = score(policy, prompt, codes, trie.masks(codes), temperature=0.5)[..., 0, 0]  # (3, 40)
    logits = policy.level_logits(prompt.last, 0)[:, trie.codes[:, 0]]
    torch.testing.assert_close(found, torch.log_softmax(2 * logits, -1), **CLOSE)


@pytest.mark.parametrize("constrained", [True, False])
def test_sampling_frequencies_fit_the_exact_distribution(constrained):
    policy, trie, prompt = make(items=20, size=4)
    draws = 20_000
    items = sample(policy, prompt, trie, uniform(3, draws, 3), constrained).items[..., 0]
    p = item_logprobs(policy, prompt, trie, constrained).double().exp()
    p = torch.cat([p, (1 - p.sum(1, keepdim=True)).clamp(min=0)], 1)  # the last cell: a hole
    for row in range(3):
        count = torch.bincount(items[row] % (len(trie) + 1), minlength=len(trie) + 1)  # HOLE = -1 is the last
        expected = p[row] * draws
        cells = expected >= 5
        assert count[expected < 1e-9].sum() == 0
        count = torch.cat([count[cells], count[~cells].sum()[None]])
        expected = torch.cat([expected[cells], expected[~cells].sum()[None]]).clamp(min=1e-9)
        statistic, freedom = ((count - expected) ** 2 / expected).sum().item(), len(count) - 1
        # Wilson-Hilferty: the cube root of chi-square over its freedom is normal; 4 sigma is p = 3e-5
        z = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
        assert z < 4


def test_draw_never_picks_probability_zero():
    logp = token_logprobs(
        torch.randn(50, 9, generator=torch.Generator().manual_seed(0)), torch.arange(9) % 3 == 1
    )
    edges = torch.tensor([0.0, 0.5, math.nextafter(1.0, 0.0)], dtype=torch.float64)
    for u in edges:
        assert (draw(logp.double().exp(), u.expand(50, 1)) % 3 == 1).all()


@levels
def test_full_beam_is_the_exhaustive_ranking(levels, size):
    policy, trie, prompt = make(levels=levels, size=size)
    items, logp, _ = beam(policy, prompt, trie, width=len(trie))
    exact = item_logprobs(policy, prompt, trie)
    best = exact.sort(1, descending=True)
    torch.testing.assert_close(logp, best.values, **CLOSE)
    torch.testing.assert_close(exact.gather(1, items), logp, **CLOSE)  # each item with its own probability
    assert torch.equal(items.sort(1).values, torch.arange(len(trie)).expand(3, -1))


def test_a_beam_wider_than_the_catalogue_is_padded():
    policy, trie, prompt = make(items=7)
    items, logp, _ = beam(policy, prompt, trie, width=9)
    assert (items[:, 7:] == PAD).all()
    assert (logp[:, 7:] == -torch.inf).all()
    assert torch.equal(items[:, :7].sort(1).values, torch.arange(7).expand(3, -1))


def test_greedy_takes_the_likeliest_code_at_every_level():
    policy, trie, prompt = make()
    items, _, _ = beam(policy, prompt, trie, width=1)
    codes, node, hidden = trie.codes[items], torch.zeros(3, 1, dtype=torch.int64), prompt.last[:, None]
    for level in range(3):
        logp = token_logprobs(policy.level_logits(hidden, level), trie.allowed(level, node))
        assert torch.equal(codes[..., level], logp.argmax(-1))
        node = trie.descend(level, node, codes[..., level])
        hidden = policy.branch(prompt, codes[..., : level + 1])[0][:, :, -1]


def test_an_unconstrained_beam_finds_holes_and_its_probabilities_are_right():
    policy, trie, prompt = make(items=10, size=4)
    items, logp, _ = beam(policy, prompt, trie, width=64, constrained=False)
    assert ((items == HOLE).sum(1) == 64 - 10).all()
    torch.testing.assert_close(logp.exp().sum(1), torch.ones(3), atol=1e-5, rtol=0)
    real = items != HOLE
    exact = item_logprobs(policy, prompt, trie, constrained=False).gather(1, items.clamp(min=0))
    torch.testing.assert_close(logp[real], exact[real], **CLOSE)


@levels
def test_closed_ranking_emits_each_candidate_once(levels, size):
    policy, trie, prompt = make(levels=levels, size=size)
    candidates = torch.stack(
        [torch.randperm(40, generator=torch.Generator().manual_seed(i))[:5] for i in range(3)]
    )
    rollout = rank(policy, prompt, trie, candidates, uniform(3, 7, 5, levels))
    assert torch.equal(rollout.items.sort(-1).values, candidates.sort(-1).values[:, None].expand(-1, 7, -1))
    assert torch.equal(trie.lookup(rollout.codes), rollout.items)
    assert (rollout.logp[:, :, -1] == 0).all()  # only one item is left: no choice, probability exactly 1
    masks = closed_masks(trie.codes[candidates], rollout.codes, size)
    torch.testing.assert_close(score(policy, prompt, rollout.codes, masks), rollout.logp, **CLOSE)


def test_closed_ranking_probabilities_sum_to_one():
    policy, trie, prompt = make()
    candidates = torch.tensor([[3, 17, 29], [0, 1, 2], [39, 5, 20]])
    orders = torch.tensor([[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])
    codes = trie.codes[candidates[:, orders]]  # (B, 6, 3, L): every list there is
    masks = closed_masks(trie.codes[candidates], codes, trie.size)
    total = score(policy, prompt, codes, masks).sum((2, 3)).exp().sum(1)
    torch.testing.assert_close(total, torch.ones(3), atol=1e-5, rtol=0)


def test_greedy_ranking_needs_no_noise_and_bad_sets_raise():
    policy, trie, prompt = make()
    candidates = torch.tensor([[3, 17, 29], [0, 1, 2], [39, 5, 20]])
    assert rank(policy, prompt, trie, candidates).items.shape == (3, 1, 3)
    with pytest.raises(ValueError, match="distinct"):
        rank(policy, prompt, trie, torch.tensor([[1, 1, 2]] * 3))
    with pytest.raises(ValueError, match="distinct"):
        rank(policy, prompt, trie, torch.tensor([[1, -1, 2]] * 3))
    with pytest.raises(ValueError, match="lists of 4"):
        rank(policy, prompt, trie, candidates, uniform(3, 2, 4, 3))


def test_masked_codes_have_probability_exactly_zero():
    allowed = torch.tensor([True, False, True])
    p = token_logprobs(torch.tensor([-50.0, 90.0, 2.0]), allowed).exp()
    assert p[1] == 0
    assert p.sum() == 1


@levels
@pytest.mark.parametrize("where", ["at the first code", "after it"])
def test_a_policy_that_has_diverged_says_nothing(levels, size, where):
    policy, trie, prompt = make(levels=levels, size=size)
    if where == "at the first code":
        prompt.last[:] = torch.nan
    else:
        policy.blocks[0].up.weight.data[:] = torch.nan  # the prompt has been encoded
    candidates = torch.stack([torch.arange(5)] * 3)
    draws = uniform(3, 4, 5, levels), None
    ways = [lambda noise=noise: rank(policy, prompt, trie, candidates, noise) for noise in draws]
    for constrained in (True, False):
        if levels > 1 or where == "at the first code":  # one code ends with the first
            ways.append(
                lambda masked=constrained: sample(policy, prompt, trie, uniform(3, 4, levels), masked)
            )
            ways.append(lambda masked=constrained: beam(policy, prompt, trie, 4, masked))
    for way in ways:
        with pytest.raises(InputError, match="not finite; start again with a lower rate"):
            way()
