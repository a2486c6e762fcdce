"""The same answers on a GPU. Skipped where there is none; run with ``pytest -m cuda`` where there is."""

import pytest
import torch

from minirec.measure.exact import item_logprobs
from minirec.policy import score
from minirec.rollout import beam, rank, sample
from minirec.trie import Trie
from tests.small import CONDITION, HISTORY, make
from tests.test_train import SMALL, run, state

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA: this machine has no device"),
]


@pytest.fixture
def on_gpu():
    policy, trie, _ = make()
    policy, trie = policy.cuda(), Trie(trie.codes.cuda(), trie.size)
    return policy, trie, policy.encode(CONDITION.cuda(), trie.encode(HISTORY.cuda()))


def test_exact_probabilities_agree_with_the_cpu(on_gpu):
    # float32 matmuls in another order, TF32 off
    torch.testing.assert_close(
        item_logprobs(*[on_gpu[i] for i in (0, 2, 1)]).cpu(),
        item_logprobs(*[make()[i] for i in (0, 2, 1)]),
        atol=1e-4,
        rtol=0,
    )


def test_rollouts_agree_with_the_scorer(on_gpu):
    policy, trie, prompt = on_gpu
    noise = torch.rand(3, 16, 3, dtype=torch.float64, device="cuda")
    rollout = sample(policy, prompt, trie, noise)
    again = score(policy, prompt, rollout.codes, trie.masks(rollout.codes))
    torch.testing.assert_close(again, rollout.logp, atol=1e-5, rtol=0)
    assert torch.equal(beam(policy, prompt, trie, 40)[0].sort(1).values.cpu(), torch.arange(40).expand(3, -1))
    candidates = torch.tensor([[3, 17, 29], [0, 1, 2], [39, 5, 20]], device="cuda")
    assert (rank(policy, prompt, trie, candidates).logp[:, :, -1] == 0).all()


def test_training_in_bf16_learns(tmp_path):
    run(*SMALL, "--device", "cuda", "--out", tmp_path / "run")
    lines = state(tmp_path / "run")["measured"]
    assert lines[-1]["nll"] < lines[0]["nll"]
