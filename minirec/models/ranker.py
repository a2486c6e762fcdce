"""The reward model R(x, y) of AdaGRPO: a ranker that is right for some contexts and wrong for others.

In the paper it is a production ranker trained on exposure-biased logs [paper]. We have three in its place:

- ``designed``: on the simulated world, with reliability as a knob.
- ``trained_on_exposures``: fitted to clicks of the world's exposure log. Features mean the same everywhere,
  tastes do not in the tail B, which the log hardly shows. So it is right in A, and confidently wrong in B.
- ``trained_on_log``: on any data, fitted to training events against negatives drawn by popularity.

Equal items have equal bits wherever they stand. So scores are products, sums and quotients by element: a
matrix product may add in another order in another shape, and exp has other last bits at a tensor's end.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from minirec.data.dataset import Dataset, Examples, contexts
from minirec.data.vectors import training_events
from minirec.data.world import World, exposures, squash, true_score
from minirec.errors import InputError
from minirec.loop import minimise
from minirec.noise import draw, stream
from minirec.records import HOLE, PAD, Batch

# A batch of B contexts and items (B, C) to scores (B, C) float32 in (0, 1); a HOLE, and PAD, score 0.
Ranker = Callable[[Batch, Tensor], Tensor]

LOG_WIDTH, LOG_BATCH, LOG_NEGATIVES, LOG_RATE, LOG_DECAY, LOG_EPOCHS = 64, 512, 1024, 4e-3, 0.1, 10
CALIBRATED = 4096  # at most, training contexts that the worth of a repetition is found on
CLICK_WIDTH, CLICK_BATCH, CLICK_RATE, CLICK_EPOCHS = 32, 8192, 0.03, 3
USER_PRIOR, ITEM_PRIOR = 1e-2, 1e-5  # weights of squared norms: of a user's vector, of the map from features


def _scores(query: Tensor, table: Tensor, more: Tensor, items: Tensor) -> Tensor:
    """Squash ⟨query, item⟩ + more: query (B, d), table (N, d), items (B, C), more (B, C) -> (B, C)."""
    place = items.clamp(min=0)
    z = sum(query[:, k, None] * column[place] for k, column in enumerate(table.T.contiguous())) + more
    return squash(z).masked_fill(items == HOLE, 0.0)


class LogRanker(nn.Module):
    """z = log q(i) + ⟨Σ_a w_a e_(history, a), e_i⟩ + r·1[i is in the history], where a is an item's age.

    The vectors alone would put the latest item first; r corrects how often one comes again. ``history`` ages
    have a weight of their own; what is older weighs as the last. Source: ours.
    """

    def __init__(self, items: int, history: int, seed: int = 0) -> None:
        super().__init__()
        random = stream("log ranker weights", seed)
        self.item = nn.Parameter(torch.randn(items, LOG_WIDTH, generator=random) * LOG_WIDTH**-0.5)
        self.age = nn.Parameter(0.8 ** torch.arange(history)[:, None])  # (H, 1)
        self.register_buffer("again", torch.zeros(()))  # r
        self.register_buffer("log_q", torch.zeros(items))  # log popularity, from the training events

    def query(self, history: Tensor) -> Tensor:
        """Sum the weighted item vectors of histories (B, H): (B, d)."""
        real = history != PAD
        age = real.sum(1, keepdim=True) - 1 - torch.arange(history.shape[1], device=history.device)
        weight = F.embedding(age.clamp(0, len(self.age) - 1), self.age)  # (B, H, 1)
        vectors = F.embedding(history.clamp(min=0), self.item) * weight * real[..., None]  # (B, H, d)
        # Oldest first: padding then adds exact zeros.
        return sum(vectors.unbind(1), self.item.new_zeros(len(history), LOG_WIDTH))

    def known(self, history: Tensor, items: Tensor) -> Tensor:
        """Return which of the items (B, C) are in histories (B, H): (B, C) bool."""
        place = torch.zeros(len(history), len(self.item) + 1, dtype=torch.bool, device=history.device)
        place.scatter_(1, history % (len(self.item) + 1), True)  # PAD, -1, writes to the extra column
        return place.gather(1, items.clamp(min=0))

    @torch.no_grad()
    def forward(self, batch: Batch, items: Tensor) -> Tensor:
        """Score items (B, C) for a batch of B contexts: (B, C)."""
        more = self.log_q[items.clamp(min=0)] + self.again * self.known(batch.history, items)
        return _scores(self.query(batch.history), self.item, more, items)


class ExposureRanker(nn.Module):
    """z = b + ⟨u_user, W f_i + c⟩, where f_i are the features of item i. Source: ours."""

    def __init__(self, users: int, features: Tensor, seed: int = 0) -> None:
        super().__init__()
        self.register_buffer("features", features)
        random = stream("click ranker weights", seed)
        self.user = nn.Parameter(0.1 * torch.randn(users, CLICK_WIDTH, generator=random))
        # From zero: a direction that no item shown has is never learned, and then it counts for nothing.
        self.map = nn.Parameter(torch.zeros(features.shape[1], CLICK_WIDTH))
        self.shift = nn.Parameter(torch.zeros(CLICK_WIDTH))
        self.offset = nn.Parameter(torch.zeros(()))

    def table(self) -> Tensor:
        """Return the item vectors (N, d); always of the whole catalogue, so always the same bits."""
        return self.features @ self.map + self.shift

    @torch.no_grad()
    def forward(self, batch: Batch, items: Tensor) -> Tensor:
        """Score items (B, C) for a batch of B contexts: (B, C)."""
        return _scores(F.embedding(batch.user, self.user), self.table(), self.offset, items)


def designed(world: World, kind: str) -> Ranker:
    """Make a ranker of designed reliability; it reads nothing of a batch but its users.

    Users of A get the true score. Those of B get it too if "right", a number of user and item alone if
    "noise", the true score reversed if "harmful". Source: ours.
    """
    random = stream("unreliable ranker", world.seed)
    # The fraction of a product of two large random numbers: noise per pair without a table of pairs.
    sizes = len(world.taste), len(world.latent)
    one, other = (2**15 * (1 + torch.rand(n, generator=random, dtype=torch.float64)) for n in sizes)
    in_tail = {
        "right": lambda true, user, items: true,
        "noise": lambda true, user, items: 0.1 + 0.8 * (one[user, None] * other[items] % 1),
        "harmful": lambda true, user, items: 1 - true,
    }[kind]

    def rank(batch: Batch, items: Tensor) -> Tensor:
        user, places = batch.user.cpu(), items.cpu()
        true = true_score(world, user, places)  # (B, C)
        mixed = torch.where(world.tail_user[user, None], in_tail(true, user, places), true)
        return mixed.float().masked_fill(places == HOLE, 0.0).to(items.device)

    return rank


def trained_on_log(dataset: Dataset, history: int, seed: int) -> LogRanker:
    """Train a ranker to tell the next item from popular ones, on ``dataset.train`` alone.

    Sampled softmax of each item of a training sequence but the first, against negatives that the batch
    shares, drawn by popularity q. The optimum of the vector product is log p(i | x) − log q(i), so the ranker
    adds log q(i) when it scores: the logQ correction, without which it underrates what is popular. Raises
    InputError if no training user has two events. Source: logQ: Yi et al. (RecSys 2019); the rest is ours.
    """
    examples = contexts(dataset.train)
    if not len(examples):
        raise InputError("ranker: no training user has two events; use a larger log")
    count = torch.bincount(training_events(dataset.train)[1], minlength=len(dataset.catalogue)).double()
    model = LogRanker(len(count), history, seed)
    model.log_q.copy_((count.clamp(min=0.5) / count.sum()).log())  # an item without events: half a one
    random = stream("log ranker", seed)

    def loss(rows: Tensor) -> Tensor:
        batch = examples.batch(rows, history)
        negative = draw(count, torch.rand(LOG_NEGATIVES, generator=random, dtype=torch.float64))  # (M,)
        query = model.query(batch.history)  # (B, d)
        target = (query * F.embedding(batch.targets[:, 0], model.item)).sum(1, keepdim=True)  # (B, 1)
        others = query @ F.embedding(negative, model.item).T  # (B, M)
        # A target that is drawn as a negative too stays one: to leave it out would favour what is popular.
        return -torch.cat([target, others], 1).log_softmax(1)[:, 0].mean()

    optimiser = torch.optim.AdamW(model.parameters(), LOG_RATE, weight_decay=LOG_DECAY, fused=True)
    _fit(optimiser, loss, len(examples), LOG_BATCH, LOG_EPOCHS, random)
    some = torch.randperm(len(examples), generator=random)[:CALIBRATED]
    model.again.copy_(_again(model, examples.select(some), history))
    return model


@torch.no_grad()
def _again(model: LogRanker, examples: Examples, history: int) -> Tensor:
    """Find the r that gives items of the history, over all contexts, the probability that they came with."""
    came, odds = [], []
    for rows in torch.arange(len(examples)).split(LOG_BATCH):
        batch = examples.batch(rows, history)
        p = (model.query(batch.history) @ model.item.T + model.log_q).softmax(1)  # (b, N)
        known = model.known(batch.history, torch.arange(len(model.item)).expand_as(p))
        came.append(known.gather(1, batch.targets))
        odds.append((p * known).sum(1).double().logit(1e-6))
    odds, came = torch.cat(odds), torch.cat(came).double()
    wanted = ((came.sum() + 0.5) / (len(came) + 1)).logit()  # half a repeat, as 0 would ask for -inf
    again = torch.zeros_like(wanted)
    for _ in range(100):
        again += wanted - (odds + again).sigmoid().mean().logit()
    return again


def trained_on_exposures(world: World, n: int, seed: int) -> ExposureRanker:
    """Fit the clicks of n impressions, 500 per user for a strong ranker: logistic regression, ridge; ours."""
    log = exposures(world, n, seed)
    model = ExposureRanker(len(world.taste), world.features, seed)

    def loss(rows: Tensor) -> Tensor:
        user = F.embedding(log.user[rows], model.user)  # (n, d)
        z = model.offset + (user * F.embedding(log.item[rows], model.table())).sum(1)
        prior = USER_PRIOR * user.square().sum(1).mean() + ITEM_PRIOR * model.map.square().sum()
        return F.binary_cross_entropy(squash(z), log.clicked[rows].float()) + prior

    optimiser = torch.optim.Adam(model.parameters(), CLICK_RATE, fused=True)
    _fit(optimiser, loss, n, CLICK_BATCH, CLICK_EPOCHS, stream("click ranker", seed))
    return model


def _fit(optimiser: Optimizer, loss: Callable, n: int, batch: int, epochs: int, random: Generator) -> None:
    """Minimise the loss of rows (b,) out of n, each once per epoch, with a rate that falls to zero."""
    orders = (torch.randperm(n, generator=random) for _ in range(epochs))  # drawn when the epoch begins
    rows = (part for order in orders for part in order.split(batch))
    minimise(optimiser, lambda step: loss(next(rows)), epochs * -(-n // batch), "ranker", final=0.0)
