"""Items as vectors: from side information, and from neighbours in training sequences."""

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from minirec.data.dataset import Dataset, Examples

WINDOW = 5  # co-occurrence: largest distance of two events of one sequence
SIDE = 0.5  # norm of side information against co-occurrence, by validation on Amazon Beauty (bench/LOG.md)
WIDTH = 64  # dimensions of a block of item vectors after the truncated SVD


def training_events(train: Examples) -> tuple[Tensor, Tensor]:
    """Flatten training windows, a user's one after another: user (E,) and item (E,) int64 in time order."""
    length = train.lengths
    row = torch.arange(len(train)).repeat_interleave(length)  # (E,)
    offset = torch.arange(len(row)) - (length.cumsum(0) - length)[row]  # place within the window
    return train.user[row], train.events[train.start[row] + offset]


def _embed(matrix: Tensor, dim: int, seed: int, power: float) -> Tensor:
    """Scale left singular vectors by singular values to a power: (N, dim), zero beyond the matrix's size."""
    rank = min(dim, *matrix.shape)
    with torch.random.fork_rng(devices=[]):  # svd_lowrank draws from the global generator
        torch.manual_seed(seed)
        left, value, _ = torch.svd_lowrank(matrix, q=rank, niter=4)
    return pad(left * value**power, (0, dim - rank))


def neighbours(train: Examples, items: int, window: int, decay: float, backward: float = 1.0) -> Tensor:
    """Count how often item j comes after item i in training sequences, (N, N) sparse float64.

    A pair at distance d <= ``window`` counts d^-decay from the earlier item to the later one, and
    ``backward`` times as much from the later one to the earlier. Source: ours.
    """
    row, item = training_events(train)
    pairs, weights = [], []
    for distance in range(1, window + 1):
        near = row[distance:] == row[:-distance]
        pair = torch.stack([item[:-distance][near], item[distance:][near]])
        weight = torch.full((pair.shape[1],), distance**-decay, dtype=torch.float64)
        pairs += [pair, pair.flip(0)]
        weights += [weight, backward * weight]
    return sparse(torch.cat(pairs, 1), torch.cat(weights), items, items)


def _ppmi(train: Examples, items: int) -> Tensor:
    """Positive pointwise mutual information of items near each other, (N, N) sparse float64."""
    counts = neighbours(train, items, WINDOW, 1.0)
    (one, other), count = counts.indices(), counts.values()
    margin = torch.zeros(items, dtype=torch.float64).index_add_(0, one, count)
    information = (count * margin.sum() / (margin[one] * margin[other])).log()
    keep = (information > 0) & (one != other)  # that an item comes with itself says nothing about others
    return sparse(counts.indices()[:, keep], information[keep], items, items)


def sparse(index: Tensor, value: Tensor, rows: int, columns: int) -> Tensor:
    """Make a sparse matrix of values (E,) at the places index (2, E); values at one place add up."""
    return torch.sparse_coo_tensor(index, value, (rows, columns), check_invariants=True).coalesce()


def cooccurrence_vectors(train: Examples, items: int, dim: int, seed: int) -> Tensor:
    """Embed items so that neighbours in training sequences lie near each other: (N, dim) float32.

    Pairs at distance d ≤ WINDOW count 1/d. Their PPMI goes through a truncated SVD; rows are scaled by roots
    of singular values, then to length 1, or are 0. Source: Levy & Goldberg 2014; window and weights are ours.
    """
    matrix = _ppmi(train, items)
    rows = normalize(_embed(matrix, dim, seed, 0.5), dim=1)
    known = torch.zeros(items, dtype=torch.bool).index_fill_(0, matrix.indices()[0], True)
    return torch.where(known[:, None], rows, 0).float()


def item_vectors(dataset: Dataset, seed: int) -> Tensor:
    """Make the (N, D) float32 vectors that codes are fitted to, on a simulated world its features.

    On a log they are side information, by SVD, and co-occurrence, of mean squares SIDE² and 1. Source: ours.
    """
    features = dataset.catalogue.features
    if dataset.world and features is not None:
        return features
    together = cooccurrence_vectors(dataset.train, len(dataset.catalogue), WIDTH, seed)
    if features is None:
        return together
    features = _embed(features, WIDTH, seed, 1.0) if features.shape[1] > WIDTH else features
    blocks, sizes = (features, together), (SIDE, 1.0)
    norms = [block.double().square().sum(1).mean().sqrt().item() or 1 for block in blocks]
    return torch.cat(
        [block * (size / norm) for block, size, norm in zip(blocks, sizes, norms, strict=True)], 1
    )
