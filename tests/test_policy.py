import math

import pytest
import torch

from minirec.measure.exact import item_logprobs
from minirec.policy import Policy, Prompt, angles, rotate, score, token_logprobs
from minirec.settings import PolicyConfig
from tests.small import CONDITION, HISTORY, levels, make

# Float32 sums in another order; measured differences are below 2e-6 at these weights.
CLOSE = {"atol": 1e-5, "rtol": 0}


@levels
def test_plain_and_branched_forward_agree(levels, size):
    policy, trie, _ = make(levels=levels, size=size)
    whole = torch.tensor([[1, 2, 3, 4, 9], [5, 6, 7, 8, 30], [11, 12, 13, 14, 15]])
    plain = policy(CONDITION, trie.encode(whole))  # (B, 5, L)
    prompt = policy.encode(CONDITION, trie.encode(whole[:, :2]))
    branched = score(policy, prompt, trie.encode(whole[:, None, 2:]))  # three more items in one branch
    torch.testing.assert_close(branched[:, 0], plain[:, 2:], **CLOSE)


@levels
def test_cached_and_uncached_branches_agree(levels, size):
    policy, trie, prompt = make(levels=levels, size=size)
    tokens = trie.codes[torch.arange(24).view(3, 4, 2)].flatten(2)  # (B, G, 2L)
    whole, _ = policy.branch(prompt, tokens)
    parts, past = [], None
    for piece in tokens.split(1, -1):
        hidden, past = policy.branch(prompt, piece, past)
        parts.append(hidden)
    torch.testing.assert_close(torch.cat(parts, 2), whole, **CLOSE)


def test_branches_do_not_see_each_other():
    policy, trie, prompt = make()
    one = trie.codes[torch.tensor([[[3]], [[4]], [[5]]])]
    other = trie.codes[torch.tensor([[[8]], [[8]], [[8]]])]
    together = score(policy, prompt, torch.cat([one, other], 1))
    torch.testing.assert_close(together[:, :1], score(policy, prompt, one), **CLOSE)


def test_padding_changes_nothing():
    policy, trie, prompt = make()
    wide = torch.nn.functional.pad(HISTORY, (0, 5), value=-1)
    padded = policy.encode(CONDITION, trie.encode(wide))
    torch.testing.assert_close(
        item_logprobs(policy, padded, trie), item_logprobs(policy, prompt, trie), **CLOSE
    )
    logp = policy(CONDITION, trie.encode(wide))
    torch.testing.assert_close(logp[:, :4], policy(CONDITION, trie.encode(HISTORY)), **CLOSE)
    assert (logp[:, 4:] == 0).all()


def test_the_future_changes_nothing():
    policy, trie, _ = make()
    later = HISTORY.clone()
    later[0, 3] = 30
    a, b = policy(CONDITION, trie.encode(HISTORY)), policy(CONDITION, trie.encode(later))
    assert torch.equal(a[0, :3], b[0, :3])
    assert not torch.equal(a[0, 3], b[0, 3])


@pytest.mark.parametrize("column", range(4))
def test_every_condition_is_read(column):
    policy, trie, _ = make()
    other = CONDITION.clone()
    other[0, column] = 1 - other[0, column]
    before, after = (policy(c, trie.encode(HISTORY))[0] for c in (CONDITION, other))
    assert (before != after).all()


def test_a_temperature_divides_the_logits_before_the_mask():
    logits, allowed = torch.tensor([1.0, 0.0, 5.0]), torch.tensor([True, True, False])
    p = token_logprobs(logits, allowed, temperature=0.5).exp().tolist()
    assert p == pytest.approx([math.e**2 / (1 + math.e**2), 1 / (1 + math.e**2), 0])


def test_two_conditions_share_as_many_embeddings_as_values():
    policy, _, _ = make()  # with three periods
    every = torch.cartesian_prod(*(torch.arange(kinds) for kinds in (2, 3, 3, 4)))  # (72, 4)
    read = []
    policy.condition.register_forward_hook(lambda _, rows, __: read.append(rows[0]))
    policy.encode(every, torch.empty(72, 0, 3, dtype=torch.int64))
    for one, rows in zip(every, read[0].tolist(), strict=True):
        for other, others in zip(every, read[0].tolist(), strict=True):
            assert len(set(rows) & set(others)) == (one == other).sum()
    assert read[0].max() == len(policy.condition.weight) - 1


def test_gradients_flow_through_a_shared_prompt():
    policy, trie, _ = make()
    items = torch.arange(12).view(3, 4, 1)
    grads = []
    for shared in (True, False):
        policy.zero_grad()
        prompt = policy.encode(CONDITION, trie.encode(HISTORY))
        if shared:
            loss = score(policy, prompt, trie.codes[items]).sum()
        else:  # the prompt repeated per branch
            rows = torch.arange(3).repeat_interleave(4)
            layers = [(k[rows], v[rows]) for k, v in prompt.layers]
            one_each = Prompt(layers, prompt.mask[rows], prompt.last[rows])
            loss = score(policy, one_each, trie.codes[items.view(12, 1, 1)]).sum()
        loss.backward()
        grads.append(torch.cat([p.grad.flatten() for p in policy.parameters()]))
    # the sums run over up to 12 branches: relative to the largest entry, as float32 adds it up
    assert (grads[0] - grads[1]).abs().max() <= 1e-5 * grads[0].abs().max()


def test_one_code_per_item_is_sasrec_with_cross_entropy():
    """At L = 1 a position's hidden state meets the item table, and the loss is cross-entropy over items."""
    policy, trie, _ = make(items=40, levels=1, size=40)
    history = torch.tensor([[1, 2, 3, 4]])
    hidden, _ = policy.trunk(CONDITION[:1], trie.encode(history).flatten(1)[:, :-1])
    logits = hidden[0] @ policy.code.weight.T  # (4, N): the tied item embeddings
    expected = -torch.nn.functional.cross_entropy(logits, trie.encode(history)[0, :, 0], reduction="none")
    torch.testing.assert_close(policy(CONDITION[:1], trie.encode(history))[0, :, 0], expected, **CLOSE)


def test_rotation_depends_on_distance_alone():
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 8, generator=generator)
    products = [
        (rotate(q, angles(torch.tensor([a]), 8)) * rotate(k, angles(torch.tensor([b]), 8))).sum().item()
        for a, b in ((3, 1), (40, 38), (2, 0))
    ]
    assert products[0] == pytest.approx(products[1], abs=1e-5)  # float32 angles
    assert products[0] == pytest.approx(products[2], abs=1e-5)  # float32 angles


def test_same_seed_same_policy():
    policies = []
    for _ in range(2):
        torch.manual_seed(3)
        policies.append(Policy(PolicyConfig(width=16), 3, 4).state_dict())
    assert all(torch.equal(policies[0][name], policies[1][name]) for name in policies[0])
