"""Chapter 3: pytest tutorials/exercises -k ch03."""

import pytest
import torch

from minirec.measure import exact
from minirec.policy import Policy, token_logprobs
from minirec.settings import TINY
from minirec.trie import Trie

SIZE, LEVELS = 5, 3


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(3)
    policy = Policy(TINY, LEVELS, SIZE).eval()
    for parameter in policy.parameters():
        parameter.data.mul_(4)  # far from uniform
    every = exact.every_tuple(LEVELS, SIZE)
    trie = Trie(every.codes[torch.randperm(len(every))[:30]], SIZE)
    history = trie.codes[torch.randint(len(trie), (4, 2))]
    with torch.no_grad():
        prompt = policy.encode(torch.zeros(4, 4, dtype=torch.int64), history)
        free = exact.item_logprobs(policy, prompt, every).exp().double()  # (B, V^L)
    return policy, prompt, trie, every, free


def test_build_each_level_is_what_enumeration_says(small, exercise):
    policy, prompt, trie, every, free = small
    left = (trie.path(every.codes)[:, 1:] < 0).int()  # (V^L, L) 1 once the tuple is off the tree
    first = left.diff(dim=1, prepend=torch.zeros_like(left[:, :1])).double()
    found = exercise("ch03_build").leaves(policy, prompt, trie)
    assert found.shape == (4, LEVELS)
    assert torch.allclose(found.double(), free @ first, atol=1e-5)  # float32 sums of a few dozen terms


def test_build_a_row_sums_to_the_probability_of_a_hole(small, exercise):
    policy, prompt, trie, _, _ = small
    with torch.no_grad():
        items = exact.item_logprobs(policy, prompt, trie, constrained=False).exp().sum(1)
    found = exercise("ch03_build").leaves(policy, prompt, trie)
    assert torch.allclose(found.sum(1), 1 - items, atol=1e-5)


def test_build_nothing_is_lost_where_every_tuple_is_an_item(small, exercise):
    policy, prompt, _, every, _ = small
    assert exercise("ch03_build").leaves(policy, prompt, every).abs().max() < 1e-5


def test_bug_what_is_drawn_is_scored_as_the_scorer_would(exercise):
    noise = torch.Generator().manual_seed(3)
    logits, allowed = torch.randn(64, 8, generator=noise), torch.rand(64, 8, generator=noise) < 0.5
    allowed[:, 0] = True
    code, logp = exercise("ch03_bug").sample_code(logits, allowed, noise)
    assert allowed.gather(1, code[:, None]).all()
    expected = token_logprobs(logits, allowed).gather(1, code[:, None])[:, 0]
    assert torch.allclose(logp, expected, atol=1e-5)


def test_bug_the_draws_stay_what_they_were(exercise):
    noise = torch.Generator().manual_seed(4)
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]]).expand(20_000, -1)
    allowed = torch.tensor([[True, True, False, True]]).expand(20_000, -1)
    code, _ = exercise("ch03_bug").sample_code(logits, allowed, noise)
    share = torch.bincount(code, minlength=4) / len(code)
    exactly = token_logprobs(logits[0], allowed[0]).exp()
    assert torch.allclose(share, exactly, atol=0.015)  # four standard errors of 20,000 draws
