"""Items as vectors: from side information, and from what stands near what in training sequences."""

from __future__ import annotations

import torch
from torch import Tensor

from minirec.data.dataset import Dataset, Examples

WINDOW = 5  # co-occurrence: largest distance of two events of one sequence
WIDTH = 64  # dimensions of a block of item vectors after the truncated SVD


def training_events(train: Examples) -> tuple[Tensor, Tensor]:
    """Flatten training sequences; the windows into which a user's were cut are one sequence again.

    Args:
        train: windows with E events in all, a user's one after another.

    Returns:
        user (E,) int64 and item (E,) int64, user by user in time order.

    Source: definition.
    """
    length = train.lengths
    row = torch.arange(len(train)).repeat_interleave(length)  # (E,)
    offset = torch.arange(len(row)) - (length.cumsum(0) - length)[row]  # place within the sequence
    return train.user[row], train.events[train.start[row] + offset]


def _truncated_svd(matrix: Tensor, dim: int, seed: int) -> tuple[Tensor, Tensor]:
    """Left singular vectors (N, dim) and singular values (dim,), zero beyond the matrix's size."""
    rank = min(dim, *matrix.shape)
    with torch.random.fork_rng(devices=[]):  # svd_lowrank draws from the global generator
        torch.manual_seed(seed)
        left, value, _ = torch.svd_lowrank(matrix, q=rank, niter=4)
    pad = (0, dim - rank)
    return torch.nn.functional.pad(left, pad), torch.nn.functional.pad(value, pad)


def _ppmi(train: Examples, items: int) -> Tensor:
    """Positive pointwise mutual information of items near each other, (N, N) sparse float64."""
    row, item = training_events(train)
    pairs, weights = [], []
    for distance in range(1, WINDOW + 1):
        near = row[distance:] == row[:-distance]
        one, other = item[:-distance][near], item[distance:][near]
        pairs += [torch.stack([one, other]), torch.stack([other, one])]
        weights.append(torch.full((2 * len(one),), 1 / distance, dtype=torch.float64))
    counts = _square(torch.cat(pairs, 1), torch.cat(weights), items)
    (one, other), count = counts.indices(), counts.values()
    margin = torch.zeros(items, dtype=torch.float64).index_add_(0, one, count)
    information = (count * margin.sum() / (margin[one] * margin[other])).log()
    keep = (information > 0) & (one != other)  # that an item comes with itself says nothing about others
    return _square(counts.indices()[:, keep], information[keep], items)


def _square(index: Tensor, value: Tensor, items: int) -> Tensor:
    """A sparse (N, N) matrix; values at one place add up."""
    return torch.sparse_coo_tensor(index, value, (items, items), check_invariants=True).coalesce()


def cooccurrence_vectors(train: Examples, items: int, dim: int, seed: int) -> Tensor:
    """Embed items so that those found near each other in training sequences lie near each other.

    Counts of pairs at distance d <= WINDOW of one sequence, weighted 1/d and symmetric; their positive
    pointwise mutual information; its truncated SVD; rows scaled by the root of the singular values and to
    unit length. Nothing is dense in N × N.

    Args:
        train: training sequences; no other event is read.
        items: N.
        dim: columns; those beyond N are 0.
        seed: of the randomised SVD.

    Returns:
        (N, dim) float32. An item without informative neighbours, so also one without events, is a row of 0.

    Source: PPMI and SVD (Levy & Goldberg 2014); window and weights are ours.
    """
    matrix = _ppmi(train, items)
    left, value = _truncated_svd(matrix, dim, seed)
    rows = torch.nn.functional.normalize(left * value.sqrt(), dim=1)
    known = torch.zeros(items, dtype=torch.bool).index_fill_(0, matrix.indices()[0], True)
    return torch.where(known[:, None], rows, 0).float()


def item_vectors(dataset: Dataset, seed: int) -> Tensor:
    """Choose what the codes are made from.

    Args:
        dataset: its training events and its catalogue's side information are read.
        seed: of the randomised SVD.

    Returns:
        (N, D) float32. On a simulated world, whose features are the truth, the features alone; on real data
        co-occurrence vectors, after the side information where there is any. Side information wider than
        WIDTH is reduced to that by truncated SVD; each block has mean squared norm 1.

    Source: ours.
    """
    features = dataset.catalogue.features
    if features is not None and dataset.law is not None:
        return features
    together = cooccurrence_vectors(dataset.train, len(dataset.catalogue), WIDTH, seed)
    if features is None:
        return together
    if features.shape[1] > WIDTH:
        left, value = _truncated_svd(features, WIDTH, seed)
        features = left * value
    return torch.cat([_unit_norm(features), _unit_norm(together)], 1)


def _unit_norm(block: Tensor) -> Tensor:
    """Scale a block to mean squared row norm 1; a block of zeros stays."""
    norm = block.double().square().sum(1).mean().sqrt()
    return (block / norm).float() if norm > 0 else block
