"""Items to code tuples: residual k-means on item vectors, then a different tuple for each item.

    vectors (N, D) -> L rounds of k-means, each on the residual of the rounds before -> codes (N, L)

Items with similar vectors share their first codes, so that a policy can generalise; no two share all codes.
"""

import itertools
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from minirec.data import catalogue
from minirec.errors import InputError
from minirec.records import check

STARTS = 4  # runs of k-means per level, of which the best is kept
ITERATIONS = 50  # Lloyd iterations at most
CHUNK = 1 << 22  # distances held at once


@dataclass(frozen=True)
class Codes:
    """The code tuples of N items, and the mean residual of each code."""

    codes: Tensor  # (N, L) int64, each row differs from all others
    size: int  # V
    centroids: Tensor  # (L, V, D) float32
    moved: int  # items whose tuple was taken

    def __post_init__(self) -> None:
        check("codes", self.codes, None, len(self.centroids))
        check("centroids", self.centroids, None, self.size, None, dtype=torch.float32)
        if len(self.codes.unique(dim=0)) != len(self.codes):
            raise ValueError("codes: two items share a code tuple; each needs its own")


def fit(vectors: Tensor, levels: int, codes: int, seed: int, chosen: Tensor | None = None) -> Codes:
    """Give each of N items, vectors (N, D), a different tuple of ``levels`` codes out of V = ``codes``.

    Level by level, k-means runs on the residuals, from the second on scaled to length 1; or an item has the
    codes of ``chosen`` (N, L), made elsewhere. Centroids are mean residuals. Then those that share a tuple
    are moved. With one level, V = N, code i is item i, and its centroid is its vector. Raises InputError if a
    value is not finite, or if there are more items than tuples. Source: residual quantisation after TIGER
    (2305.05065); k-means for its RQ-VAE, the scaling, and moving for its further code, are ours.
    """
    if len(broken := (~vectors.isfinite().all(1)).nonzero()):
        raise InputError(f"item vectors: row {int(broken[0])} is not finite; all must be numbers")
    if levels == 1 and chosen is None:
        return Codes(torch.arange(len(vectors))[:, None], len(vectors), vectors.float()[None], 0)
    if (items := len(vectors)) > codes**levels:
        fits = next(size for size in itertools.count(codes) if size**levels >= items)
        fault = f"{items} items do not fit into {levels} levels of {codes} codes"
        raise InputError(f"{fault} ({codes**levels} tuples); the smallest that fits is --codes {fits}")
    generator = torch.Generator().manual_seed(seed)
    residual, centroids, taken = vectors.float(), torch.zeros(levels, codes, vectors.shape[1]), []
    for level in tqdm(range(levels), "item codes", delay=2, leave=False):
        if chosen is None:
            points = torch.nn.functional.normalize(residual, dim=1) if level else residual
            taken.append(_nearest(points, _kmeans(points, codes, generator)))
        else:
            taken.append(chosen[:, level])
        count = torch.bincount(taken[-1], minlength=codes).clamp(min=1)[:, None]
        centroids[level] = centroids[level].index_add(0, taken[-1], residual) / count
        residual = residual - centroids[level, taken[-1]]
    order = residual.double().square().sum(1).sort(stable=True).indices  # the nearest first
    return _settle(vectors, centroids, torch.stack(taken, 1), order.tolist())


def read(path: Path) -> dict[str, list[int]]:
    """Read a json of item to L codes, as MiniOneRec's ``.index.json``; InputError if broken, or L differs."""
    rows = {item: catalogue.words(path, item, value) for item, value in catalogue.read_json(path).items()}
    lengths = {len(row): f"'{item}' has {len(row)}" for item, row in rows.items()}
    if len(lengths) != 1 or 0 in lengths:
        wanted = "expected equally many codes for each item, one or more"
        raise InputError(f"{path}: {', '.join(lengths.values()) or 'it is empty'}; {wanted}")
    # Each level's codes are numbered by length, then letters.
    levels = [sorted({*level}, key=lambda c: (len(c), c)) for level in zip(*rows.values(), strict=True)]
    number = [{code: i for i, code in enumerate(level)} for level in levels]
    return {item: list(map(dict.__getitem__, number, row)) for item, row in rows.items()}


def _nearest(points: Tensor, centroids: Tensor) -> Tensor:
    """Find the centroid nearest to each point, (N,) int64; among equals the one of smaller index."""
    norm = centroids.square().sum(1)  # |p - c|² = |p|² - 2 p·c + |c|², and |p|² is the same for all c
    parts = points.split(max(1, CHUNK // len(centroids)))
    return torch.cat([torch.addmm(norm, part, centroids.T, alpha=-2).argmin(1) for part in parts])


def _kmeans(points: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Keep the best of STARTS runs of k-means, by squared distance: (N, D) points to (V, D) centroids."""
    runs = [_lloyd(points, _spread_out(points, size, generator)) for _ in range(STARTS)]
    return min(runs, key=lambda run: (points - run[_nearest(points, run)]).double().square().sum().item())


def _lloyd(points: Tensor, centroids: Tensor) -> Tensor:
    """Run Lloyd's iterations from (V, D) starts until nothing changes, ITERATIONS at most."""
    size, before = len(centroids), None
    for _ in range(ITERATIONS):
        code = _nearest(points, centroids)
        distance = (points - centroids[code]).square().sum(1)
        empty = (torch.bincount(code, minlength=size) == 0).nonzero()[:, 0]
        # A cluster that loses all its points takes over the point that is farthest from its centroid.
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
    """Choose (V, D) starts by greedy k-means++: each is the best of a few draws by squared distance."""
    norm, starts = points.square().sum(1), []
    distance, weight = torch.full_like(norm, torch.inf), torch.ones_like(norm)
    for _ in range(size):
        drawn = torch.multinomial(weight, 2 + int(math.log(size)), replacement=True, generator=generator)
        to_drawn = (norm + norm[drawn, None] - 2 * points[drawn] @ points.T).clamp(min=0)  # (draws, N)
        left = torch.minimum(distance, to_drawn)
        best = int(left.double().sum(1).argmin())
        starts.append(points[drawn[best]])
        distance = left[best].index_fill(0, drawn[best], 0.0)
        # Where all points are starts already, the next one is drawn uniformly.
        weight = distance if distance.any() else torch.ones_like(distance)
    return torch.stack(starts)


def _settle(vectors: Tensor, centroids: Tensor, chosen: Tensor, order: list[int]) -> Codes:
    """Give vectors (N, D) their chosen codes (N, L); of equals, all but the first a ``_free_tuple``."""
    tuples = [tuple(row) for row in chosen.tolist()]
    first = {tuples[i]: i for i in reversed(order)}  # of equal tuples the first in the order stays
    left = [i for i in order if first[tuples[i]] != i]
    prefixes = [slice(length) for length in range(1, len(centroids) + 1)]
    used = Counter(item[prefix] for item in first for prefix in prefixes)  # occupied tuples under a prefix
    for i in left:
        tuples[i] = _free_tuple(vectors[i].double(), centroids, tuples[i], used)
        used.update(tuples[i][prefix] for prefix in prefixes)
    return Codes(torch.tensor(tuples), centroids.shape[1], centroids, len(left))


def _free_tuple(vector: Tensor, centroids: Tensor, chosen: tuple, used: Counter[tuple]) -> tuple:
    """Find a free tuple for a vector (D,); ``used`` counts the occupied tuples under each prefix.

    Level by level it takes the chosen code while that has a free tuple under it, then the nearest that has
    one: a search of L × V codes, not V^L.
    """
    levels, size, _ = centroids.shape
    item: tuple = ()
    for level in range(levels):
        distance = (vector - centroids[level]).square().sum(1)  # (V,)
        if item == chosen[:level]:
            distance[chosen[level]] = -1.0
        full = [code for code in range(size) if used[(*item, code)] == size ** (levels - 1 - level)]
        distance[full] = torch.inf
        item += (int(distance.argmin()),)
        vector = vector - centroids[level, item[-1]]
    return item


def usage(codes: Codes, vectors: Tensor) -> list[dict]:
    """Measure how well each level uses its codes, and what it leaves over of the (N, D) vectors.

    Returns one dict per level: ``used`` codes, ``entropy`` of their use in bits, ``perplexity`` 2^entropy,
    and ``residual``, the share of the squared norm of all vectors that remains. Source: definition.
    """
    residual, rows = vectors.double(), []
    whole = residual.square().sum()
    for code, centroids in zip(codes.codes.T, codes.centroids, strict=True):
        residual = residual - centroids[code]
        left = float(residual.square().sum() / whole) if whole > 0 else 0.0
        share = torch.bincount(code, minlength=codes.size) / len(code)
        entropy = torch.special.entr(share.double()).sum().item() / math.log(2)
        rows.append(dict(used=len(code.unique()), entropy=entropy, perplexity=2**entropy, residual=left))
    return rows


def summary(codes: Codes, vectors: Tensor) -> str:
    """Write a heading with the repaired collisions and the holes, and a line of ``usage`` per level."""
    items, levels = codes.codes.shape
    repaired = f"collisions repaired: {codes.moved}; holes: {codes.size**levels - items}"
    text = f"codes: {items} items on {levels} levels of {codes.size}; {repaired}"
    for number, row in enumerate(usage(codes, vectors), 1):
        entropy = f"entropy {row['entropy']:.2f} bits (perplexity {row['perplexity']:.1f})"
        text += f"\n  level {number}: {row['used']} codes used, {entropy}, residual {row['residual']:.1%}"
    return text
