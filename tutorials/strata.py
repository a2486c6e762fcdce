"""What a ranker brings, by cells of contexts."""

import torch
from torch import Tensor


def stratify(difficulty: Tensor, discriminability: Tensor, gain: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Average the ranker's rank gain over cells of difficulty × discriminability, in AdaGRPO's words.

    All (B,): rank_π(g) / G; the smallest rank_R(n_m) / G, so how far every negative stays from the top; and
    rank_π(g) - rank_R(g), the places by which the ranker puts the target higher than the policy. Each axis is
    cut into equal parts of (0, 1]; ranks beyond G count into the last. Returns the mean gain (bins, bins),
    NaN where a cell is empty, and the contexts per cell; rows are difficulty, from low to high.
    Source: AdaGRPO (2606.08480), its stratified analysis; the measures of the axes are ours.
    """
    row, column = ((x * bins).ceil().long().clamp(1, bins) - 1 for x in (difficulty, discriminability))
    sums = (torch.bincount(row * bins + column, weight, bins**2) for weight in (gain.double(), None))
    total, count = (cells.view(bins, bins) for cells in sums)
    return total / count, count
