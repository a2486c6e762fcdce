"""Floors: scorers that know no codes and learn nothing but counts. A new one is entered in FLOORS below.

Each takes sequences of events and the number N of items, and returns a ``Scorer``. Equal scores fall back to
popularity, then to the smaller item index; in float64 popularity outweighs no real difference.
"""

import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from minirec.data import dataset, vectors
from minirec.records import CONDITION, PAD, Batch

Scorer = Callable[[Batch], Tensor]  # a batch of B contexts to (B, N) float64, higher is better

WINDOW, DECAY, BACKWARD = 20, 0.5, 0.5  # item-kNN: of pairs; chosen on the validation splits of three logs
RECENCY = 0.8, 0.6, 0.95  # item-kNN: weights of an event against the next; validation chooses one for a log
GRID = 1e-6  # item-kNN: sums of similarities that round to one multiple of this are equal
warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")  # torch's, of sparse products


def before_test(data: dataset.Dataset) -> dataset.Examples:
    """All that came before the test targets, one sequence per user, as published item-kNN figures have it."""
    valid = replace(data.valid, stop=data.valid.stop + (data.valid.targets != PAD).sum(1))
    parts = dataset.whole(data.known), valid, data.test
    rows = torch.cat([torch.stack([part.user, part.start, part.stop]) for part in parts], 1)
    rows = rows[:, rows[0].argsort(stable=True)]
    user, start, stop = rows[:, rows[0].diff(append=rows.new_tensor([-1])) != 0]  # each user's longest
    none = user.new_zeros(len(user), len(CONDITION))
    return dataset.Examples(valid.events, start, stop, user, none, none[:, :0], user < 0)


def popularity(train: dataset.Examples, items: int) -> Scorer:
    """Score each item by its number of events, the same for every context. Source: definition."""
    count = torch.bincount(vectors.training_events(train)[1], minlength=items).double()  # (N,)
    return lambda batch: count.expand(len(batch), items)


def markov(train: dataset.Examples, items: int) -> Scorer:
    """Score each item by how often it came right after the context's last item: a first-order Markov chain.

    A score is count(last → item) + popularity / (1 + events). The second part is below 1, so it only
    orders equal counts. An empty history gets popularity alone. Source: definition; the tie rule is ours.
    """
    row, item = vectors.training_events(train)
    follows = row[1:] == row[:-1]
    pair = torch.stack([1 + item[:-1][follows], item[1:][follows]])
    # Row i + 1 belongs to item i; row 0, for "no last item" (PAD), is empty.
    counts = vectors.sparse(pair, torch.ones(pair.shape[1], dtype=torch.float64), items + 1, items)
    fill = torch.bincount(item, minlength=items).double() / (1 + len(item))  # (N,) popularity in [0, 1)

    def score(batch: Batch) -> Tensor:
        length = (batch.history != PAD).sum(1, keepdim=True)
        last = nn.functional.pad(batch.history, (1, 0), value=PAD).gather(1, length)[:, 0]  # PAD where empty
        return counts.index_select(0, last + 1).to_dense() + fill  # (B, N)

    return score


def item_knn(train: dataset.Examples, items: int, recency: float = RECENCY[0]) -> Scorer:
    """Score each item by its summed similarity to the items of the context, recent ones counting more.

    A pair of events up to ``WINDOW`` apart, at distance d, counts d^-DECAY from the earlier item to the later
    one, and ``BACKWARD`` times as much the other way. The similarity of j to i is the count of (i, j) over
    √(events of i · events of j). An item last seen ``a`` events ago, 0 for the latest, weighs recency^a, of
    ``RECENCY`` the one that is best on validation. Popularity orders equal sums.
    Source: item-based nearest neighbours with cosine (definition); the rest is ours.
    """
    count = torch.bincount(vectors.training_events(train)[1], minlength=items).double()  # (N,)
    fill = count / (1 + count.sum())  # (N,) popularity in [0, 1)
    pairs = vectors.neighbours(train, items, WINDOW, DECAY, BACKWARD)
    one, other = pairs.indices()
    cosine = pairs.values() / (count[one] * count[other]).sqrt()
    similar = vectors.sparse(pairs.indices(), cosine, items, items)

    def score(batch: Batch) -> Tensor:
        real = batch.seen != PAD  # (B, S)
        age = real.sum(1, keepdim=True) - 1 - torch.arange(batch.seen.shape[1])  # (B, S)
        weight = torch.where(real, recency ** age.double(), 0)
        newest = weight.new_zeros(len(batch), items)  # (B, N), by when an item was last seen
        newest.scatter_reduce_(1, batch.seen.clamp(min=0), weight, "amax")
        parts = [part.to_sparse() @ similar for part in newest.split(32)]  # bounds memory
        return (torch.cat(parts).to_dense() / GRID).round() + fill  # (B, N)

    return score


FLOORS = {"popularity": popularity, "markov": markov, "item-kNN": item_knn}


def top_k(scores: Tensor, seen: Tensor | None, k: int) -> Tensor:
    """Rank the catalogue by scores (B, N), where -inf excludes an item, and keep the best: (B, k) int64.

    Items seen (B, S), if any, are left out. The smaller index is first among equal scores, which torch.topk
    does not promise; PAD stands where no item remains. Source: definition.
    """
    if seen is not None:  # PAD, -1, writes to an extra column
        scores = nn.functional.pad(scores, (1, 0)).scatter(1, 1 + seen, -torch.inf)[:, 1:]
    least = scores.topk(min(k, scores.shape[1])).values[:, -1:]
    tied = int((scores >= least).sum(1).max())  # so many items have what ties with the k-th of a row
    order = scores.topk(tied).indices.sort().values
    value, place = scores.gather(1, order).sort(dim=1, descending=True, stable=True)
    order = order.gather(1, place).masked_fill(value == -torch.inf, PAD)
    return nn.functional.pad(order, (0, k - tied), value=PAD)
