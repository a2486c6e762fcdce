"""The catalogue as tensors: which codes may follow a prefix, and which item a code tuple is.

A node is a prefix; the nodes of each depth are numbered in the order of their codes. The children of a
node are one slice of the next depth's array, so a step reads at most V codes, however many items there are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minirec.records import HOLE


class Trie:
    """N items as tuples of L codes out of V per level. Depth 0 is the root, node 0."""

    def __init__(self, codes: Tensor, size: int) -> None:
        """Build the trie.

        Args:
            codes: (N, L) int64, row i is the code tuple of item i.
            size: V, codes per level.

        Raises:
            ValueError: no items, a code outside 0..V-1, or two items with one tuple.

        Source: the tuples are TIGER's semantic IDs (2305.05065); the trie's arrays are ours.
        """
        if len(codes) == 0 or codes.min() < 0 or codes.max() >= size:
            raise ValueError(f"codes: expected at least one item and codes in 0..{size - 1}")
        self.codes, self.size, self.levels = codes, size, codes.shape[1]
        self.code: list[Tensor] = []  # per level: the code of each node of the next depth, (nodes,) int32
        self.first: list[Tensor] = []  # per level: where each node's children begin, (nodes + 1,) int64
        self.fan: list[int] = []  # per level: the most children of a node
        node, parents = torch.zeros_like(codes[:, 0]), 1
        for level in range(self.levels):
            key, node = torch.unique(node * size + codes[:, level], return_inverse=True)
            count = torch.bincount(key // size, minlength=parents)
            self.code.append((key % size).int())
            self.first.append(torch.cat([count.new_zeros(1), count.cumsum(0)]))
            self.fan.append(int(count.max()))
            parents = len(key)
        if parents != len(codes):
            raise ValueError(f"codes: {len(codes)} items share {parents} code tuples; each needs its own")
        self.item = torch.empty_like(node).scatter_(0, node, torch.arange(len(codes)))  # leaf to item

    def __len__(self) -> int:
        return len(self.codes)

    def to(self, device: torch.device | str) -> Trie:
        """Return the trie on a device."""
        moved = object.__new__(Trie)
        moved.size, moved.levels, moved.fan = self.size, self.levels, self.fan
        moved.codes, moved.item = self.codes.to(device), self.item.to(device)
        moved.code, moved.first = ([t.to(device) for t in part] for part in (self.code, self.first))
        return moved

    def encode(self, items: Tensor) -> Tensor:
        """Look up the code tuples of items.

        Args:
            items: (...) int64; PAD and HOLE are -1.

        Returns:
            (..., L) int64; -1 in every level where there is no item.
        """
        return torch.where(items[..., None] >= 0, self.codes[items.clamp(min=0)], -1)

    def _slice(self, level: int, node: Tensor) -> tuple[Tensor, Tensor]:
        """Where the children of nodes (...) begin and end; an empty slice for HOLE."""
        known = node.clamp(min=0)
        start, stop = self.first[level][known], self.first[level][known + 1]
        return start, torch.where(node >= 0, stop, start)

    def allowed(self, level: int, node: Tensor) -> Tensor:
        """Which codes may follow.

        Args:
            level: of the code to come.
            node: (...) int64, nodes of depth ``level``.

        Returns:
            (..., V) bool, at least one True per row.

        Raises:
            ValueError: a node is HOLE: a prefix of no item has no children. There is no silent "no mask".

        Source: definition.
        """
        if (node < 0).any():
            raise ValueError(f"level {level}: a prefix that no item has, so no code may follow")
        start, stop = self._slice(level, node)
        index = start[..., None] + torch.arange(self.fan[level], device=node.device)  # (..., fan)
        code = self.code[level][index.clamp(max=len(self.code[level]) - 1)].long()
        mask = torch.zeros(*node.shape, self.size + 1, dtype=torch.bool, device=node.device)
        beyond = index >= stop[..., None]
        return mask.scatter_(-1, code.masked_fill(beyond, self.size), True)[..., : self.size]

    def descend(self, level: int, node: Tensor, code: Tensor) -> Tensor:
        """Follow one code.

        Args:
            level: of the code.
            node: (...) int64, nodes of depth ``level``; HOLE leads to HOLE.
            code: (...) int64.

        Returns:
            (...) int64, nodes of the next depth, HOLE where no item has that prefix.

        Source: definition.
        """
        low, stop = self._slice(level, node)
        high, last = stop, len(self.code[level]) - 1
        for _ in range(self.fan[level].bit_length()):  # binary search among the children
            middle = (low + high) // 2
            right = (low < high) & (self.code[level][middle.clamp(max=last)] < code)
            low, high = torch.where(right, middle + 1, low), torch.where(right, high, middle)
        found = (low < stop) & (self.code[level][low.clamp(max=last)] == code)
        return torch.where(found, low, HOLE)

    def path(self, codes: Tensor) -> Tensor:
        """Follow code tuples from the root.

        Args:
            codes: (..., L) int64.

        Returns:
            (..., L + 1) int64 nodes, the root first, HOLE once no item has the prefix.

        Source: definition.
        """
        nodes = [torch.zeros_like(codes[..., 0])]
        for level in range(self.levels):
            nodes.append(self.descend(level, nodes[-1], codes[..., level]))
        return torch.stack(nodes, -1)

    def lookup(self, codes: Tensor) -> Tensor:
        """Find the items of code tuples.

        Args:
            codes: (..., L) int64.

        Returns:
            (...) int64, HOLE where a tuple is no item.

        Source: definition.

        >>> trie = Trie(torch.tensor([[0, 1], [2, 0]]), size=3)
        >>> trie.lookup(torch.tensor([[2, 0], [2, 1]]))
        tensor([ 1, -1])
        """
        leaf = self.path(codes)[..., -1]
        return torch.where(leaf >= 0, self.item[leaf.clamp(min=0)], HOLE)

    def masks(self, codes: Tensor) -> Tensor:
        """Give the mask at every step of code tuples.

        Args:
            codes: (..., L) int64, tuples of items.

        Returns:
            (..., L, V) bool, the codes that may stand at each level after those before.

        Raises:
            ValueError: no item has a tuple's first L - 1 codes.

        Source: definition.
        """
        nodes = self.path(codes)
        return torch.stack([self.allowed(i, nodes[..., i]) for i in range(self.levels)], -2)
