"""Items to code tuples: item vectors, residual k-means, and a tuple of its own for each item.

    vectors (N, D) -> L rounds of k-means, each on what the rounds before left over -> codes (N, L)

Items whose vectors are alike share their first codes: that is what a policy can generalise over. Items that
would share all L codes are moved apart, by the smallest move, so that a tuple names exactly one item.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from minirec.errors import InputError
from minirec.records import check

STARTS = 4  # runs of k-means per level, of which the best is kept
ITERATIONS = 50  # Lloyd iterations at most
CHUNK = 1 << 22  # distances held at once


@dataclass(frozen=True)
class Codes:
    """The code tuples of N items, and what is needed to give one to a new item."""

    codes: Tensor  # (N, L) int64, each row differs from all others
    size: int  # V
    centroids: Tensor  # (L, V, D) float32
    moved: int  # items that did not get the tuple nearest to them

    def __post_init__(self) -> None:
        check("codes", self.codes, None, len(self.centroids))
        check("centroids", self.centroids, None, self.size, None, dtype=torch.float32)
        if len(self.codes.unique(dim=0)) != len(self.codes):
            raise ValueError("codes: two items share a code tuple; each needs its own")

    def __len__(self) -> int:
        return len(self.codes)


# --- residual k-means -------------------------------------------------------------------------------------


def fit(vectors: Tensor, levels: int, codes: int, seed: int) -> Codes:
    """Give each item a code tuple of its own by residual k-means.

    Level by level, k-means runs on what the centroids of the levels before left over of each vector. Then
    each item takes the nearest centroid level by level; items that share a tuple are moved (see ``_settle``).

    Args:
        vectors: (N, D) float.
        levels: L. With L = 1 there is nothing to share: V = N, code i is item i, and its centroid its vector.
        codes: V, codes per level.
        seed: of the k-means starts.

    Returns:
        Codes: a bijection between the N items and N of the V^L tuples.

    Raises:
        InputError: a value that is not finite, or more items than tuples; names the smallest V that fits.

    Source: residual quantisation of item vectors into semantic IDs after TIGER (2305.05065), with k-means
    in place of the RQ-VAE; moving instead of a further code for collisions is ours.

    >>> vectors = torch.tensor([[0.0, 0.0], [0.0, 0.1], [9.0, 0.0], [9.0, 0.1]])
    >>> fit(vectors, levels=2, codes=2, seed=0).codes.tolist()
    [[1, 1], [1, 0], [0, 1], [0, 0]]
    """
    broken = (~vectors.isfinite().all(1)).nonzero()
    if len(broken):
        raise InputError(f"item vectors: row {int(broken[0])} is not finite; all must be numbers")
    if levels == 1:
        return Codes(torch.arange(len(vectors))[:, None], len(vectors), vectors.float()[None], 0)
    _check_room(len(vectors), levels, codes)
    generator = torch.Generator().manual_seed(seed)
    residual, centroids = vectors.float(), []
    for _ in tqdm(range(levels), "item codes", delay=2, leave=False):
        centroids.append(_kmeans(residual, codes, generator))
        residual = residual - centroids[-1][_nearest(residual, centroids[-1])]
    tuples, moved = _settle(vectors, torch.stack(centroids), torch.empty(0, levels, dtype=torch.int64))
    return Codes(tuples, codes, torch.stack(centroids), moved)


def assign(codes: Codes, vectors: Tensor) -> Tensor:
    """Give new items code tuples without refitting; the items that have one keep it.

    Args:
        codes: of the items so far.
        vectors: (M, D) float, of the new items, made the same way.

    Returns:
        (M, L) int64, tuples that no other item, old or new, has. By the same rule as in ``fit``, but that
        old items go first: a new item takes the nearest centroid level by level, or moves from there.

    Raises:
        InputError: old and new items together are more than tuples; with L = 1 they always are.

    Source: ours.
    """
    _check_room(len(codes) + len(vectors), codes.codes.shape[1], codes.size)
    return _settle(vectors, codes.centroids, codes.codes)[0]


def _check_room(items: int, levels: int, codes: int) -> None:
    if min(levels, codes) < 1:
        raise InputError(f"--levels {levels} --codes {codes}: both must be at least 1")
    if items > codes**levels:
        fits = int(items ** (1 / levels))
        fits += fits**levels < items  # the root, rounded up
        raise InputError(
            f"{items} items do not fit into {levels} levels of {codes} codes ({codes**levels} tuples); "
            f"the smallest that fits is --codes {fits}"
        )


def _nearest(points: Tensor, centroids: Tensor) -> Tensor:
    """Index of the centroid nearest to each point, (N,) int64; the smaller index among equals."""
    norm = centroids.square().sum(1)  # |p - c|² = |p|² - 2 p·c + |c|², and |p|² is the same for all c
    parts = points.split(max(1, CHUNK // len(centroids)))
    return torch.cat([torch.addmm(norm, part, centroids.T, alpha=-2).argmin(1) for part in parts])


def _kmeans(points: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """The best of STARTS runs of k-means, by squared distance: (N, D) float32 points to (V, D) centroids."""
    runs = [_lloyd(points, _spread_out(points, size, generator)) for _ in range(STARTS)]
    left = [(points - run[_nearest(points, run)]).double().square().sum().item() for run in runs]
    return runs[left.index(min(left))]


def _lloyd(points: Tensor, centroids: Tensor) -> Tensor:
    """Lloyd's iterations from (V, D) starts until nothing changes, ITERATIONS at most.

    A cluster that loses all its points takes over the point farthest from its own centroid.
    """
    size, before = len(centroids), None
    for _ in range(ITERATIONS):
        code = _nearest(points, centroids)
        distance = (points - centroids[code]).square().sum(1)
        empty = (torch.bincount(code, minlength=size) == 0).nonzero()[:, 0]
        far = distance.sort(descending=True, stable=True).indices[: len(empty)]
        far = far[distance[far] > 0]  # with fewer distinct points than codes some clusters stay empty
        code[far] = empty[: len(far)]
        if before is not None and torch.equal(code, before):
            break
        before = code
        count = torch.bincount(code, minlength=size)[:, None]
        total = torch.zeros(size, points.shape[1], dtype=torch.float64).index_add_(0, code, points.double())
        centroids = torch.where(count > 0, (total / count).float(), centroids)
    return centroids


def _spread_out(points: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Greedy k-means++: (V, D) starts.

    Each is the best of some points drawn by squared distance to the starts before it: the one that leaves the
    least squared distance in all.
    """
    trials = 2 + int(math.log(size))
    norm = points.square().sum(1)
    distance = torch.full_like(norm, torch.inf)
    weight = torch.ones_like(norm)
    starts = []
    for _ in range(size):
        drawn = torch.multinomial(weight, trials, replacement=True, generator=generator)
        to_drawn = (norm + norm[drawn, None] - 2 * points[drawn] @ points.T).clamp(min=0)  # (trials, N)
        left = torch.minimum(distance, to_drawn)
        best = int(left.double().sum(1).argmin())
        starts.append(points[drawn[best]])
        distance = left[best].index_fill(0, drawn[best], 0.0)
        # Where every point is a start already, any of them will do.
        weight = distance if distance.any() else torch.ones_like(distance)
    return torch.stack(starts)


# --- one tuple, one item ----------------------------------------------------------------------------------


def _settle(vectors: Tensor, centroids: Tensor, occupied: Tensor) -> tuple[Tensor, int]:
    """Give each vector a tuple that no other has.

    An item's own tuple is the nearest centroid level by level. Items are served in the order of their squared
    distance to the centroid sum of their own tuple, then of their index. First every tuple that is free goes
    to the first item whose own it is. Then each item left over moves, in the same order, and occupies a
    tuple for those after it: level by level it takes the nearest centroid among the codes under which a tuple
    is free. So it keeps its first L - 1 codes while a last code is free under them, and gets the best of the
    tuples that differ in the last code only, by squared distance to the centroid sum. Where none of them is
    free, an earlier code gives way, the last possible one. L × V codes are searched, never V^L tuples.

    Args:
        vectors: (M, D) float.
        centroids: (L, V, D) float.
        occupied: (K, L) int64, tuples that are not free.

    Returns:
        (M, L) int64 tuples, and the number of items that moved.
    """
    levels = len(centroids)
    own, residual = [], vectors.float()
    for level in centroids:
        own.append(_nearest(residual, level))
        residual = residual - level[own[-1]]
    tuples = torch.stack(own, 1).tolist()
    used: dict[tuple, Counter] = defaultdict(Counter)  # per prefix: occupied tuples below each next code

    def occupy(item: tuple) -> None:
        for level in range(levels):
            used[item[:level]][item[level]] += 1

    for row in occupied.tolist():
        occupy(tuple(row))
    left = []
    for i in residual.double().square().sum(1).sort(stable=True).indices.tolist():
        own = tuple(tuples[i])
        if used[own[:-1]][own[-1]]:
            left.append(i)
        else:
            occupy(own)
    for i in left:
        tuples[i] = _free_tuple(vectors[i].double(), centroids, used)
        occupy(tuples[i])
    return torch.tensor(tuples).view(-1, levels), len(left)


def _free_tuple(vector: Tensor, centroids: Tensor, used: dict[tuple, Counter]) -> tuple:
    """Find the free tuple that ``_settle`` describes for one vector (D,) float64."""
    levels, size, _ = centroids.shape
    found: tuple = ()
    for level in range(levels):
        distance = (vector - centroids[level]).square().sum(1)  # (V,)
        full = [code for code, count in used[found].items() if count == size ** (levels - 1 - level)]
        distance[full] = torch.inf
        found += (int(distance.argmin()),)
        vector = vector - centroids[level, found[-1]]
    return found


# --- what came of it --------------------------------------------------------------------------------------


def describe(codes: Codes, vectors: Tensor) -> list[dict]:
    """Measure how well each level uses its codes and how much of the vectors it leaves over.

    Args:
        codes: of the items.
        vectors: (N, D) float, the vectors they were made from.

    Returns:
        One dict per level: ``used`` codes; ``entropy`` of their use in bits, at most log2 V; ``perplexity``,
        2^entropy; ``residual``, the squared norm that is left over after this level as a share of the
        vectors', both summed over all items.

    Source: definition.
    """
    left, rows = vectors.double(), []
    whole = left.square().sum()
    for code, centroids in zip(codes.codes.T, codes.centroids, strict=True):
        left = left - centroids[code]
        share = torch.bincount(code, minlength=codes.size) / len(code)
        entropy = torch.special.entr(share.double()).sum().item() / math.log(2)
        rows.append(
            {
                "used": int((share > 0).sum()),
                "entropy": entropy,
                "perplexity": 2**entropy,
                "residual": float(left.square().sum() / whole) if whole > 0 else 0.0,
            }
        )
    return rows


def summary(codes: Codes, vectors: Tensor) -> str:
    """Write what ``describe`` measured, the repaired collisions and the holes as a few lines.

    Args:
        codes: of the items.
        vectors: (N, D) float, the vectors they were made from.

    Returns:
        A heading and one line per level.

    Source: ours.
    """
    items, levels = codes.codes.shape
    lines = [
        f"codes: {items} items on {levels} levels of {codes.size}; {codes.moved} collisions repaired, "
        f"{codes.size**levels - items} holes"
    ]
    for number, row in enumerate(describe(codes, vectors), 1):
        lines.append(
            f"  level {number}: {row['used']} codes used, entropy {row['entropy']:.2f} bits "
            f"(perplexity {row['perplexity']:.1f}), residual {row['residual']:.1%}"
        )
    return "\n".join(lines)
