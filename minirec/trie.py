"""The catalogue as tensors: which codes may follow a prefix, and which item a code tuple is.

A node is a prefix; the nodes of each depth are numbered in the order of their codes. The children of a
node are one slice of the next depth's array, so a step reads at most V codes, however many items there are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minirec.records import HOLE


class Trie:
    """N items as tuples of L codes out of V per level. Depth 0 is the root, node 0.

    Source: the tuples are TIGER's semantic IDs (2305.05065); the trie's arrays are ours.
    """

    def __init__(self, codes: Tensor, size: int) -> None:
        """Build the trie of codes (N, L) int64, row i the tuple of item i, with ``size`` V codes per level.

        Raises ValueError for no items, a code outside 0..V-1, or two items with one tuple.
        """
        if len(codes) == 0 or codes.min() < 0 or codes.max() >= size:
            raise ValueError(f"codes: expected at least one item and codes in 0..{size - 1}")
        self.codes, self.size, self.levels = codes, size, codes.shape[1]
        self.key: list[Tensor] = []  # per level: parent * V + code of each node of the next depth, ascending
        self.first: list[Tensor] = []  # per level: where each node's children begin, (nodes + 1,) int64
        self.fan: list[int] = []  # per level: the most children of a node
        node, parents = torch.zeros_like(codes[:, 0]), 1
        for level in range(self.levels):
            key, node = torch.unique(node * size + codes[:, level], return_inverse=True)
            count = torch.bincount(key // size, minlength=parents)
            self.key.append(key)
            self.first.append(torch.cat([count.new_zeros(1), count.cumsum(0)]))
            self.fan.append(int(count.max()))
            parents = len(key)
        if parents != len(codes):
            raise ValueError(f"codes: {len(codes)} items share {parents} code tuples; each needs its own")
        self.item = node.argsort()  # leaf to item: the inverse of item to leaf

    def __len__(self) -> int:
        return len(self.codes)

    def encode(self, items: Tensor) -> Tensor:
        """Look up code tuples: items (...) int64 to codes (..., L), -1 in every level of PAD and HOLE."""
        return torch.where(items[..., None] >= 0, self.codes[items.clamp(min=0)], -1)

    def allowed(self, level: int, node: Tensor) -> Tensor:
        """Say which codes of a level may follow nodes (...), none a HOLE: (..., V) bool."""
        key, first, known = self.key[level], self.first[level], node.clamp(min=0)
        index = first[known][..., None] + torch.arange(self.fan[level], device=node.device)  # (..., fan)
        own = (index < first[known + 1][..., None]) & (node >= 0)[..., None]
        code = key[index.clamp(max=len(key) - 1)] % self.size
        mask = torch.zeros(*node.shape, self.size + 1, dtype=torch.bool, device=node.device)
        return mask.scatter_(-1, code.where(own, self.size), True)[..., : self.size]

    def descend(self, level: int, node: Tensor, code: Tensor) -> Tensor:
        """Follow one code from nodes (...) to those of the next depth, HOLE where no item has the prefix."""
        key, wanted = self.key[level], node * self.size + code  # below 0 after a HOLE
        place = torch.searchsorted(key, wanted).clamp(max=len(key) - 1)
        return torch.where(key[place] == wanted, place, HOLE)

    def path(self, codes: Tensor) -> Tensor:
        """Follow tuples (..., L) from the root: nodes (..., L + 1), HOLE once no item has the prefix."""
        nodes = [torch.zeros_like(codes[..., 0])]
        for level in range(self.levels):
            nodes.append(self.descend(level, nodes[-1], codes[..., level]))
        return torch.stack(nodes, -1)

    def lookup(self, codes: Tensor) -> Tensor:
        """Find the items of tuples: (..., L) to (...), HOLE where a tuple is no item."""
        leaf = self.path(codes)[..., -1]
        return torch.where(leaf >= 0, self.item[leaf.clamp(min=0)], HOLE)

    def masks(self, codes: Tensor) -> Tensor:
        """Say which codes may stand at each level of tuples (..., L), after the others: (..., L, V) bool.

        Raises ValueError for a prefix that no item has, as nothing may follow. There is no silent "no mask".
        """
        nodes = self.path(codes)
        if (nodes[..., :-1] < 0).any():
            raise ValueError("codes: a prefix that no item has, so no code may follow")
        return torch.stack([self.allowed(i, nodes[..., i]) for i in range(self.levels)], -2)
