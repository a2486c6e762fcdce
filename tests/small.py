"""A small catalogue, an untrained policy with large weights, prompts of unequal length, and training logs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from minirec.data.dataset import Catalogue, Dataset, Examples
from minirec.policy import Policy, Prompt
from minirec.settings import PolicyConfig
from minirec.trie import Trie

CONDITION = torch.tensor([[0, 0, 0, 1], [0, 0, 0, 2], [1, 2, 1, 0]])
HISTORY = torch.tensor([[1, 2, 3, 4], [5, 6, -1, -1], [-1, -1, -1, -1]])


def random_codes(items: int, levels: int, size: int, seed: int) -> Tensor:
    """Distinct random code tuples (N, L)."""
    generator = torch.Generator().manual_seed(seed)
    flat = torch.randperm(size**levels, generator=generator)[:items]
    return torch.stack([flat // size**level % size for level in range(levels)], -1)


def make(items: int = 40, levels: int = 3, size: int = 6, seed: int = 0) -> tuple[Policy, Trie, Prompt]:
    """A policy in evaluation mode with weights so large that its distributions are far from uniform."""
    trie = Trie(random_codes(items, levels, size, seed), size)
    policy = Policy(PolicyConfig(width=32, layers=2, heads=2, dropout=0.0), levels, size, periods=3).eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in policy.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return policy, trie, policy.encode(CONDITION, trie.encode(HISTORY))


levels = pytest.mark.parametrize(("levels", "size"), [(1, 40), (2, 8), (3, 6), (4, 3)])


def examples(sequences: list[list[int]], keep_out: int = 0) -> Examples:
    """One context per sequence; its last ``keep_out`` events lie in the array but outside the slice."""
    length = torch.tensor([len(s) for s in sequences])
    stop = length.cumsum(0)
    return Examples(
        events=torch.tensor([item for s in sequences for item in s], dtype=torch.int64),
        start=stop - length,
        stop=torch.maximum(stop - keep_out, stop - length),
        user=torch.arange(len(sequences)),
        condition=torch.zeros(len(sequences), 4, dtype=torch.int64),
        targets=torch.empty(len(sequences), 0, dtype=torch.int64),
        tied=torch.zeros(len(sequences), dtype=torch.bool),
    )


def log(sequences: list[list[int]], keep_out: int = 0, items: int = 30) -> Dataset:
    """Train on sequences; after them, ``keep_out`` events are kept out, the first is the target elsewhere."""
    train = examples(sequences, keep_out)
    held = replace(train, targets=train.events[train.stop.clamp(max=len(train.events) - 1)][:, None])
    names = [str(user) for user in range(len(sequences))]
    return Dataset(Catalogue([str(item) for item in range(items)]), names, train, held, held)


def random_log(sequences: int, length: int, weight: Tensor, seed: int = 0) -> list[list[int]]:
    """Items drawn one by one, whatever came before."""
    random = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(weight, sequences * length, replacement=True, generator=random)
    return drawn.view(sequences, length).tolist()
