"""The vectors of items: what they are, where a prompt has them, what they order; literal versions beside."""

import pytest
import torch
from torch import Tensor

from minirec import rollout
from minirec.policy import Policy, score
from minirec.settings import PolicyConfig
from minirec.trie import Trie
from tests.small import CONDITION, HISTORY, make, random_codes

CLOSE = {"atol": 1e-5, "rtol": 0}  # float32 sums in another order
SHARED = Trie(random_codes(40, 3, 6, seed=0), 6)


def with_vectors(levels: int) -> tuple[Policy, Trie]:
    """A policy over 40 items that have vectors, with large weights, and its trie."""
    trie = SHARED if levels > 1 else Trie(torch.arange(40)[:, None], 40)
    policy = Policy(PolicyConfig(width=32, dropout=0.0), levels, trie.size, periods=3, items=SHARED).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in policy.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return policy, trie


def literal(policy: Policy) -> Tensor:
    """Each item's own vector and those of its three codes, added up one after another."""
    rows = []
    for item, codes in enumerate(SHARED.codes.tolist()):
        row = policy.own.weight[item]
        for level, code in enumerate(codes):
            row = row + policy.shared.weight[level * SHARED.size + code]
        rows.append(row)
    return torch.stack(rows)


@pytest.mark.parametrize("levels", [1, 3])
def test_a_vector_is_the_items_own_and_those_of_its_codes(levels):
    policy, _ = with_vectors(levels)
    torch.testing.assert_close(policy.vectors(), literal(policy), **CLOSE)


def test_with_one_code_vectors_are_what_is_read_and_what_is_said():
    policy, trie = with_vectors(1)
    plain = Policy(PolicyConfig(width=32, dropout=0.0), 1, 40, periods=3).eval()
    state = {
        name: value for name, value in policy.state_dict().items() if not name.startswith(("own", "shared"))
    }
    plain.load_state_dict(state | {"code.weight": literal(policy)})
    codes = trie.encode(HISTORY)
    torch.testing.assert_close(policy(CONDITION, codes), plain(CONDITION, codes), **CLOSE)
    tables = [rollout.best(each, each.encode(CONDITION, codes), trie, 40) for each in (policy, plain)]
    assert torch.equal(tables[0][0], tables[1][0])


def test_new_vectors_of_several_codes_change_nothing_that_is_said():
    """An item's own vector begins at 0, so the codes are said as without it."""
    torch.manual_seed(0)
    plain = Policy(PolicyConfig(width=32, dropout=0.0), 3, 6, periods=3).eval()
    policy = Policy(PolicyConfig(width=32, dropout=0.0), 3, 6, periods=3, items=SHARED).eval()
    policy.load_state_dict(policy.state_dict() | plain.state_dict() | {"shared.weight": plain.code.weight})
    codes = SHARED.encode(HISTORY)
    assert torch.equal(policy(CONDITION, codes)[..., :3], plain(CONDITION, codes))


def test_an_own_vector_counts_from_the_end_of_its_item():
    policy, trie = with_vectors(3)
    codes = trie.encode(torch.tensor([[7, 8, 9]]))
    before = policy(CONDITION[:1], codes)[0]
    with torch.no_grad():
        policy.own.weight[8, :16] += 1  # not all, which a layer norm would take off again
    moved = (policy(CONDITION[:1], codes)[0] - before).abs() > 1e-4  # (3 items, 3 codes and the item)
    assert moved[:, :3].tolist() == [[False] * 3, [False] * 3, [True] * 3]
    assert moved[:, 3].all()  # as it is among those that each is compared with


def test_a_prompt_and_a_branch_say_the_codes_of_the_whole_sequence():
    policy, trie = with_vectors(3)
    whole = torch.tensor([[1, 2, 3], [5, 6, 7], [11, 12, 13]])
    plain = policy(CONDITION, trie.encode(whole))[:, 2, :3]  # of the third item
    prompt = policy.encode(CONDITION, trie.encode(whole[:, :2]))
    torch.testing.assert_close(
        score(policy, prompt, trie.encode(whole[:, None, 2:]))[:, 0, 0], plain, **CLOSE
    )


def test_the_last_column_is_the_item_among_all_by_the_state_before_it():
    policy, trie = with_vectors(3)
    found = policy(CONDITION, trie.encode(HISTORY))[..., 3]
    for row, history in enumerate(HISTORY.tolist()):
        for place, item in enumerate(history):
            if item < 0:
                assert found[row, place] == 0
                continue
            state = policy.encode(CONDITION[row : row + 1], trie.encode(HISTORY[row : row + 1, :place])).last[
                0
            ]
            want = (literal(policy) @ state).log_softmax(0)[item]
            assert found[row, place].item() == pytest.approx(want.item(), abs=1e-5)


def test_vectors_order_what_the_search_has_found():
    policy, trie = with_vectors(3)
    prompt = policy.encode(CONDITION, trie.encode(HISTORY))
    logp = (prompt.last @ literal(policy).T).log_softmax(1)
    for width in (7, 40):
        found = rollout.beam(policy, prompt, trie, width)[0]
        items, told = rollout.best(policy, prompt, trie, width)
        assert items.sort(1).values.tolist() == found.sort(1).values.tolist()  # the same items ..
        assert items.tolist() == [
            sorted(row.tolist(), key=lambda i: -p[i]) for row, p in zip(found, logp, strict=True)
        ]
        torch.testing.assert_close(told, logp.gather(1, items), **CLOSE)
    plain, trie, prompt = make()
    for a, b in zip(
        rollout.best(plain, prompt, trie, 7), rollout.beam(plain, prompt, trie, 7)[:2], strict=True
    ):
        assert torch.equal(a, b)


def test_what_is_no_item_stands_last(monkeypatch):
    policy, trie = with_vectors(3)
    prompt = policy.encode(CONDITION[:1], trie.encode(HISTORY[:1]))
    nothing = torch.tensor([[-1, 3, -1, 4]]), torch.zeros(1, 4), None
    monkeypatch.setattr(rollout, "beam", lambda *_: nothing)
    items, told = rollout.best(policy, prompt, trie, 4)
    assert items[0, 2:].tolist() == [-1, -1]
    assert told[0, 2:].isinf().all()
