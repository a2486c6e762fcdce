"""Floors: three scorers that know no codes and learn nothing but counts.

Each takes the training sequences and returns a function from a batch to scores over the whole catalogue.
A policy that is not above them has not earned its parameters. Equal scores fall back to popularity, then
to the smaller item index; so that popularity can never outweigh a real difference, scores are float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minirec.codes import training_events
from minirec.records import PAD, Batch, Examples

Scorer = Callable[[Batch], Tensor]  # a batch of B contexts to (B, N) float64, higher is better

RECENCY = 0.7  # item-kNN: each step back in the history weighs this much less
GRID = 1e-6  # item-kNN: sums of similarities that round to one multiple of this are equal


def popularity(train: Examples, items: int) -> Scorer:
    """Score each item by its number of training events, the same for every context.

    Args:
        train: training sequences.
        items: N.

    Returns:
        A scorer.

    Source: definition.
    """
    count = torch.bincount(training_events(train)[1], minlength=items).double()  # (N,)
    return lambda batch: count.expand(len(batch), items)


def markov(train: Examples, items: int) -> Scorer:
    """Score each item by how often it came right after the context's last item: a first-order Markov chain.

    Args:
        train: training sequences; transitions are pairs of neighbouring events of one sequence.
        items: N.

    Returns:
        A scorer: count(last → item) + popularity / (1 + training events). The second part is below 1, so it
        only orders equal counts. An empty history has no transitions and gets popularity alone.

    Source: definition; the tie rule is ours.
    """
    row, item = training_events(train)
    follows = row[1:] == row[:-1]
    # Row 0 stands for "no last item" and stays empty; row i + 1 belongs to item i.
    pairs = torch.stack([item[:-1][follows] + 1, item[1:][follows]])
    counts = _counts(pairs, (items + 1, items))
    fill = _fraction(item, items)

    def score(batch: Batch) -> Tensor:
        start = torch.full((len(batch), 1), PAD)
        length = (batch.history != PAD).sum(1, keepdim=True)
        last = torch.cat([start, batch.history], 1).gather(1, length)[:, 0]  # (B,) PAD where empty
        return counts.index_select(0, last + 1).to_dense() + fill  # (B, N)

    return score


def item_knn(train: Examples, items: int) -> Scorer:
    """Score each item by its summed similarity to the items of the context, recent ones counting more.

    The similarity of two items is the cosine between the sets of training sequences that hold them. All
    items count as neighbours. An item last seen a steps ago weighs ``RECENCY ** a``.

    Args:
        train: training sequences.
        items: N.

    Returns:
        A scorer: the weighted sum as a number of GRIDs, rounded, + popularity / (1 + training events),
        which only orders equal sums. An empty history gets popularity alone.

    Source: item-based nearest neighbours by cosine (definition); recency weight and tie rule are ours.
    """
    row, item = training_events(train)
    holds = _counts(torch.stack([row, item]), (len(train), items))
    row, item = holds.indices()
    size = torch.bincount(item, minlength=items).double()  # sequences that hold the item
    unit = torch.sparse_coo_tensor(holds.indices(), size[item].rsqrt(), holds.shape, is_coalesced=True)
    similar = torch.sparse.mm(unit.t(), unit).coalesce()  # (N, N)
    apart = similar.indices()[0] != similar.indices()[1]  # an item is no neighbour of itself
    similar = torch.sparse_coo_tensor(
        similar.indices()[:, apart], similar.values()[apart], similar.shape, is_coalesced=True
    )
    fill = _fraction(training_events(train)[1], items)

    def score(batch: Batch) -> Tensor:
        total = torch.sparse.mm(similar, _recency(batch.seen, items).T)  # (N, B)
        return (total.T / GRID).round() + fill

    return score
