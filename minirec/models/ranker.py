"""The reward model R(x, y) of AdaGRPO: a ranker that is right for some contexts and wrong for others.

In the paper it is a production ranker trained on exposure-biased logs [paper]. What stands in for it is ours:

- ``designed``: on the simulated world, with reliability as a knob (``exposure.ranker``).
- ``trained_on_exposures``: on the simulated world, from the exposure log: one vector per user, and an item's
  features mapped to a vector, fitted to clicks. Features have one meaning in the whole catalogue, tastes
  another in the tail B, which the log hardly shows. So it is right in A, and in B wrong with confidence.
- ``trained_on_log``: on any data, from training events against negatives drawn by popularity: a sum of the
  history's item vectors, weighted by age, times the vector of the item.

All three map a batch and items to scores in (0, 1), and are functions of context and item alone: equal items
have equal bits wherever they stand. So they are made of products, sums and quotients element by element: a
library's matrix product may add in another order in another shape, and its exp has other last bits at the
end of a tensor.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from minirec.data import exposure
from minirec.data.contexts import contexts
from minirec.data.dataset import Dataset, Examples
from minirec.data.vectors import training_events
from minirec.data.world import World
from minirec.errors import InputError
from minirec.measure.baselines import popularity
from minirec.measure.evaluation import evaluate_scorer
from minirec.noise import draw, stream
from minirec.records import HOLE, PAD, Batch
from minirec.settings import Config

# A batch of B contexts and items (B, C) to scores (B, C) float32 in (0, 1); a HOLE, and PAD, score 0.
Ranker = Callable[[Batch, Tensor], Tensor]

MOST_LOGIT = 1e4  # beyond it, float32 would round a score to 0 or 1
LOG_WIDTH, LOG_BATCH, LOG_NEGATIVES, LOG_RATE, LOG_DECAY, LOG_EPOCHS = 64, 512, 1024, 4e-3, 0.1, 10
CALIBRATED = 4096  # at most, training contexts that the worth of a repetition is found on
CLICK_WIDTH, CLICK_BATCH, CLICK_RATE, CLICK_EPOCHS = 32, 8192, 0.03, 3
USER_PRIOR, ITEM_PRIOR = 1e-2, 1e-5  # weights of squared norms: of a user's vector, of the map from features
SAID, ORDERED = 2000, 200  # at most, validation contexts that hr@10 and the order of pairs are measured on


def squash(z: Tensor) -> Tensor:
    """Map logits to (0, 1) by a sigmoid that has the same bits everywhere.

    Args:
        z: (...) float.

    Returns:
        (...) ½ + ½ z/(1 + |z|), with z cut to ± ``MOST_LOGIT``.

    Source: ours; the link of the world's clicks (``exposure.true_score``).

    >>> squash(torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0]))
    tensor([0.1250, 0.2500, 0.5000, 0.7500, 0.8750])
    """
    z = z.clamp(-MOST_LOGIT, MOST_LOGIT)
    return 0.5 + 0.5 * z / (1 + z.abs())


def _scores(query: Tensor, table: Tensor, more: Tensor, items: Tensor) -> Tensor:
    """Squash ⟨query, item⟩ + more: query (B, d), table (N, d), items (B, C), more (B, C) -> (B, C)."""
    place = items.clamp(min=0)
    z = sum(query[:, k, None] * column[place] for k, column in enumerate(table.T.contiguous())) + more
    return squash(z).masked_fill(items == HOLE, 0.0)


class LogRanker(nn.Module):
    """z = log q(i) + ⟨Σ_a w_a e_(history, a), e_i⟩ + r·1[i is in the history], where a is an item's age.

    The vectors alone would put the latest item first; r sets straight how often an item comes again.

    Source: ours.
    """

    def __init__(self, items: int, history: int, seed: int = 0) -> None:
        """Make an untrained ranker; ``load_state_dict`` makes it a trained one.

        Args:
            items: N.
            history: ages with a weight of their own; what is older weighs as the last.
            seed: of the item vectors.
        """
        super().__init__()
        random = stream("log ranker weights", seed)
        self.item = nn.Parameter(torch.randn(items, LOG_WIDTH, generator=random) * LOG_WIDTH**-0.5)
        self.age = nn.Parameter(0.8 ** torch.arange(history)[:, None])  # (H, 1)
        self.register_buffer("again", torch.zeros(()))  # r
        self.register_buffer("log_q", torch.zeros(items))  # log popularity, from the training events

    def query(self, history: Tensor) -> Tensor:
        """Sum the item vectors of histories (B, H), padded with PAD: (B, d)."""
        real = history != PAD
        age = real.sum(1, keepdim=True) - 1 - torch.arange(history.shape[1], device=history.device)
        weight = F.embedding(age.clamp(0, len(self.age) - 1), self.age)  # (B, H, 1)
        vectors = F.embedding(history.clamp(min=0), self.item) * weight * real[..., None]  # (B, H, d)
        nothing = self.item.new_zeros(len(history), LOG_WIDTH)
        return sum(vectors.unbind(1), nothing)  # oldest first; padding then adds exact zeros

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
    """z = b + ⟨u_user, W f_i + c⟩, where f_i are the features of item i.

    Source: ours.
    """

    def __init__(self, users: int, features: Tensor, seed: int = 0) -> None:
        """Make an untrained ranker; ``load_state_dict`` makes it a trained one.

        Args:
            users: of the world.
            features: (N, F) float32, of its items.
            seed: of the user vectors.
        """
        super().__init__()
        self.register_buffer("features", features)
        self.user = nn.Parameter(
            0.1 * torch.randn(users, CLICK_WIDTH, generator=stream("click ranker weights", seed))
        )
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
    """A ranker of designed reliability, which reads nothing of a batch but its users.

    Args:
        world: the world.
        kind: "right", "noise" or "harmful", as in ``exposure.ranker``.

    Returns:
        The ranker.

    Raises:
        InputError: there is no such kind.

    Source: ours.
    """
    rank = exposure.ranker(world, kind)
    return lambda batch, items: rank(batch.user.cpu(), items.cpu()).to(items.device)


def trained_on_log(dataset: Dataset, history: int, seed: int) -> LogRanker:
    """Train a ranker to tell the next item from popular ones, on ``dataset.train`` alone.

    Sampled softmax of each item of a training sequence but the first, against negatives that the batch
    shares, drawn by popularity q. The optimum of the vector product is log p(i | x) − log q(i), so the ranker
    adds log q(i) when it scores: the logQ correction, without which it underrates what is popular.

    Args:
        dataset: no sequence left to RL, no validation and no test target is read.
        history: most recent items that the ranker sees.
        seed: decides the weights, bit for bit on one machine.

    Returns:
        The ranker.

    Raises:
        InputError: no training user has two events.

    Source: logQ: Yi et al. (RecSys 2019); the rest is ours.
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
        own = (query * F.embedding(batch.targets[:, 0], model.item)).sum(1, keepdim=True)  # (B, 1)
        others = query @ F.embedding(negative, model.item).T  # (B, M)
        # A target that is drawn as a negative too stays one: to leave it out would favour what is popular.
        return -torch.cat([own, others], 1).log_softmax(1)[:, 0].mean()

    optimiser = torch.optim.AdamW(model.parameters(), LOG_RATE, weight_decay=LOG_DECAY, fused=True)
    _fit(model, loss, len(examples), LOG_BATCH, LOG_EPOCHS, optimiser, random)
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
    """Train a ranker on the clicks of n impressions of a simulated world.

    The log is drawn apart from the users' sequences: no target of theirs is among its examples.

    Args:
        world: the world.
        n: impressions; 500 per user make a strong ranker.
        seed: of the log and the weights, which it decides bit for bit on one machine.

    Returns:
        The ranker; a score estimates ``exposure.true_score``, the probability of a click.

    Source: logistic regression, its link the world's own (``squash``), with ridge penalties; ours.
    """
    log = exposure.exposures(world, n, seed)
    model = ExposureRanker(len(world.taste), world.features, seed)
    clicked = log.clicked.float()

    def loss(rows: Tensor) -> Tensor:
        user = F.embedding(log.user[rows], model.user)  # (n, d)
        z = model.offset + (user * F.embedding(log.item[rows], model.table())).sum(1)
        prior = USER_PRIOR * user.square().sum(1).mean() + ITEM_PRIOR * model.map.square().sum()
        return F.binary_cross_entropy(squash(z), clicked[rows]) + prior

    optimiser = torch.optim.Adam(model.parameters(), CLICK_RATE, fused=True)
    return _fit(model, loss, n, CLICK_BATCH, CLICK_EPOCHS, optimiser, stream("click ranker", seed))


def _fit(
    model: nn.Module,
    loss: Callable[[Tensor], Tensor],
    size: int,
    batch: int,
    epochs: int,
    optimiser: torch.optim.Optimizer,
    random: torch.Generator,
) -> nn.Module:
    """Minimise the loss of rows (b,) of ``size``, with a rate that falls to zero."""
    steps = epochs * -(-size // batch)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, steps)
    with tqdm(total=steps, desc="ranker", unit=" steps", delay=2, leave=False, disable=None) as bar:
        for _ in range(epochs):
            for rows in torch.randperm(size, generator=random).split(batch):
                optimiser.zero_grad()
                loss(rows).backward()
                optimiser.step()
                schedule.step()
                bar.update()
    return model


def hr10(ranker: Ranker, dataset: Dataset, examples: Examples, history: int) -> float:
    """Rank the full catalogue by the ranker alone, and measure HR@10.

    Args:
        ranker: to be measured.
        dataset: for its catalogue and law.
        examples: contexts with targets, such as ``dataset.valid``.
        history: most recent items of a context.

    Returns:
        HR@10, 0 to 1; on a simulated world exact under the law. Items of the past are left out on real data,
        as the world alone shows them again.

    Source: definition.
    """
    catalogue = torch.arange(len(dataset.catalogue))
    cfg = Config(history=history, keep_seen=dataset.law is not None)
    result = evaluate_scorer(
        lambda batch: ranker(batch, catalogue.expand(len(batch), -1)), dataset, examples, cfg
    )
    return result.values["hr@10"].mean().item()


def ordered(ranker: Ranker, world: World, batch: Batch) -> Tensor:
    """Measure how well a ranker orders the items of each context's own half of the world.

    Args:
        ranker: to be measured.
        world: for the true scores.
        batch: B contexts.

    Returns:
        (B,) float64: the share of pairs of items, of A for a user of A and of B for one of B, that the ranker
        orders as the true score does; ½ is chance.

    Source: definition (AUC over pairs, as Kendall's tau).
    """
    share = []
    for row, tail in enumerate(world.tail_user[batch.user].tolist()):
        one = batch.select(torch.tensor([row]))
        items = (world.tail == tail).nonzero().T  # (1, C)
        true = exposure.true_score(world, one.user, items)[0]  # (C,)
        score = ranker(one, items)[0]
        agree = (score[:, None] - score).sign() * (true[:, None] - true).sign()  # (C, C)
        share.append(0.5 + 0.5 * agree.sum() / (len(true) * (len(true) - 1)))
    return torch.stack(share)


def describe(ranker: Ranker, dataset: Dataset, history: int, world: World | None = None) -> list[str]:
    """Say how good a ranker is on validation contexts, beside popularity.

    Args:
        ranker: to be measured.
        dataset: for the contexts, at most ``SAID`` a line, and the popularity in its training split.
        history: most recent items of a context.
        world: where the data come from a simulated world: users of A and of B then have a line each.

    Returns:
        A line for all contexts, for those of users left to RL if there are any, and for each half of a world.

    Source: ours.
    """
    valid = dataset.valid
    groups = {"all": torch.ones(len(valid), dtype=torch.bool)}
    if dataset.fresh is not None:
        groups["users left to RL"] = torch.isin(valid.user, dataset.fresh.user)
    if world is not None:
        groups |= {"users of A": ~world.tail_user[valid.user], "users of B": world.tail_user[valid.user]}
    floor = popularity(dataset.train, len(dataset.catalogue))
    # At random, as the order of users may mean something, and from a stream that nothing else draws from.
    order = torch.randperm(len(valid), generator=stream("judged contexts", 0))
    said = []
    for name, inside in groups.items():
        mine = valid.select(order[inside[order]][:SAID])
        if not len(mine):
            continue
        own = hr10(ranker, dataset, mine, history)
        least = hr10(lambda batch, items: floor(batch), dataset, mine, history)
        line = f"ranker, {name}: hr@10 {own:.4f}, popularity {least:.4f}, {len(mine):,} validation contexts"
        if world is not None:
            batch = mine.batch(torch.arange(min(len(mine), ORDERED)), history)
            line += f", pairs of the own half in true order {ordered(ranker, world, batch).mean():.3f}"
        said.append(line)
    return said
