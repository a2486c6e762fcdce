"""One simulated world whose truth is known, for next-item and list claims alike. All of it is ours.

**Items** stand in a topic tree of three levels with V branches each, on an eighth of the V³ places. The first
half of the topics is A, which a logging policy exposes; the other half is B, the tail. Each item has two
vectors, both sums of one random vector per level of the tree. ``features`` say what an item *is*: the level
vectors are the same in A and B, so codes fitted to them find the tree, and all items share the deeper codes.
``latent`` says *who likes it*: the vectors of the two deeper levels differ between A and B, so the same codes
mean other things in the tail, and what a ranker learns in A is confidently wrong in B.

**Users** have a taste w, the mix of two latent vectors of one half, and one period, which the policy may see.
Their items are drawn one after another, with replacement, from the law

    p*(next | taste, last item, period) = softmax(β⟨w, e⟩ + 2⟨e_last, e⟩ + b_period)

where b_period is a long-tailed popularity that moves by period; the first item has no e_last. **Gains** of
lists, **clicks** of the exposure log and the designed **rankers** all come from the affinity ⟨w, e⟩. The log
hides the tail, so rankers trained on it are biased.
"""

import itertools
from collections import namedtuple
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor
from torch.nn.functional import normalize, pad
from tqdm import tqdm

from minirec.data.dataset import Catalogue, Dataset, Examples
from minirec.noise import draw, stream
from minirec.records import HOLE, NEXT, ON, PAD, Batch
from minirec.settings import Config

LEVELS = 3
FEATURES = 64, (1.0, 0.5, 0.25), 0.05  # size of the vectors, scale of each level, length of the noise
LATENT = 16, (1.0, 0.7, 0.5), 0.2
LAST = 2.0  # weight of the last item in the law
TAIL, DRIFT = 0.5, 1.0  # log popularity: −TAIL·log(rank) + DRIFT·sin(2π(period / periods + phase))
GAIN_QUANTILES = torch.tensor([0.5, 0.75, 0.9]).double()  # of affinity: where the gain steps up
PAIRS = 1 << 16  # random users and items, over whose affinities these quantiles are taken
CELLS = 1 << 20  # users × items drawn for at once: 8 MiB of float64 stay near the cache
MOST_LOGIT = 1e4  # beyond it, float32 would round a score to 0 or 1
CLICK_SCALE = 0.1  # affinity over which a click's odds change
TAIL_EXPOSURE = 0.005  # of a tail item, against an equally popular item of A
Exposures = namedtuple("Exposures", "user item clicked")  # of n impressions: (n,) int64, int64, bool


@dataclass(frozen=True)
class World:
    """N items, U users and T periods. Tensors of real numbers are float64 where nothing else is said."""

    seed: int
    beta: float
    events: int  # items per user
    place: Tensor  # (N, 3) int64, the branch of each level; the first is the topic
    features: Tensor  # (N, F) float32, what an item is
    latent: Tensor  # (N, d), who likes it; unit length
    tail: Tensor  # (N,) bool, the item belongs to B
    bias: Tensor  # (T, N), log popularity
    third: Tensor  # (T, N) int64, 1, 2, 3: the least, middle and most popular third of the period
    taste: Tensor  # (U, d), unit length
    tail_user: Tensor  # (U,) bool, the taste belongs to B
    period: Tensor  # (U,) int64
    cuts: Tensor  # (3,) affinities where the gain steps up

    def affinity(self, user: Tensor, items: Tensor) -> Tensor:
        """How much users (B,) like items (B, C), ⟨w, e⟩: (B, C) float64 in [−1, 1]; a HOLE gets any value."""
        # A library's sum may add in another order in another shape; products and sums one by one may not.
        return sum(self.taste[user, k, None] * self.latent[items, k] for k in range(self.latent.shape[1]))

    def law(self, batch: Batch) -> Tensor:
        """The exact probability of each next item, p* of the module's docstring: (B, N) float64."""
        length = (batch.history != PAD).sum(1, keepdim=True)  # (B, 1)
        return self._law(batch.user, pad(batch.history, (1, 0), value=PAD).gather(1, length)[:, 0])

    def _law(self, user: Tensor, last: Tensor) -> Tensor:
        before = self.latent[last.clamp(min=0)] * (last != PAD)[:, None]  # (B, d)
        query = self.beta * self.taste[user] + LAST * before
        return torch.addmm(self.bias[self.period[user]], query, self.latent.T).softmax(1)  # (B, N)

    def sequences(self) -> Tensor:
        """Draw every user's items from the law, one after another: (U, events) int64, always the same."""
        shape, random = (len(self.taste), self.events), stream("sequences", self.seed)
        # Noise for all users at once, so that the size of the chunks does not matter.
        noise = torch.rand(shape, generator=random, dtype=torch.float64)
        drawn = torch.empty(shape, dtype=torch.int64)
        chunks = torch.arange(len(drawn)).split(max(1, CELLS // len(self.latent)))
        for user in tqdm(chunks, "drawing sequences", delay=2, leave=False):
            last = torch.full_like(user, PAD)
            for event in range(self.events):
                drawn[user, event] = last = draw(self._law(user, last), noise[user, event, None])[:, 0]
        return drawn

    def dataset(self) -> Dataset:
        """The world as a Dataset: 80 % of the users train, 10 % validate, 10 % test, by their last items."""
        drawn, user = self.sequences(), torch.arange(len(self.taste))
        train, valid, test = user.tensor_split((len(user) * 8 // 10, len(user) * 9 // 10))
        start, tied = user * self.events, torch.zeros_like(self.tail_user)
        last = start + self.events - 1
        condition = pad(self.period[:, None] + 1, (3, 0), value=NEXT)  # no need is 0, too
        condition[train[::10], 3] = 0  # so that a history alone, without a period, can be asked too
        held_out = Examples(drawn.flatten(), start, last, user, condition, drawn[:, -1:], tied)
        sequences = replace(held_out, stop=last + 1, targets=drawn[:, :0])
        splits = sequences.select(train), held_out.select(valid), held_out.select(test)
        places = zip(self.place.tolist(), self.tail.tolist(), strict=True)
        titles = [f"topic {a} · {b} · {c} ({'AB'[half]})" for (a, b, c), half in places]
        ids, users = ([str(i) for i in range(n)] for n in (len(titles), len(user)))
        items = Catalogue(ids, titles, self.features)
        return Dataset(items, users, *splits, periods=len(self.bias), world=self, start=start)

    def gains(self, user: Tensor, items: Tensor, novel: int, trend: int, history: Tensor) -> Tensor:
        """The true gains of items (B, C) for users (B,) and a need, (B, C) float32 in [0, 1].

        Interest is the affinity in steps 0, 1/3, 2/3, 1, of probability .5, .25, .15, .1. Novel sets items of
        the topics in the history (B, H) to 0, trend multiplies by a third of ``third``; each is OFF or ON. A
        HOLE gains 0. Source: the needs are FlexRec's; flags, steps and products are ours.
        """
        step = torch.bucketize(self.affinity(user, items), self.cuts, right=True)  # (B, C) 0, 1, 2, 3
        third = self.third[self.period[user, None], items.clamp(min=0)] if trend == ON else 3
        topic = pad(self.place[:, 0], (0, 1), value=PAD)  # of PAD, and of HOLE, the last: none
        known = (topic[items][:, :, None] == topic[history][:, None]).any(2)  # (B, C)
        return (step * third / 9).masked_fill((known & (novel == ON)) | (items == HOLE), 0.0)


def make_world(cfg: Config) -> World:
    """Make the world of ``world_*`` and ``seed``, always the same bits; its items depend on no user, no β."""
    items, users, periods = cfg.world_items, cfg.world_users, cfg.world_periods
    branches = next(v for v in itertools.count(2) if 8 * items <= v**LEVELS)
    random = stream("world", cfg.seed)
    # Of each topic's V² places, in random order, the first: (items per topic, V).
    below = torch.rand(branches, branches**2, generator=random).argsort(1)[:, : -(-items // branches)].T
    topic = torch.arange(branches).expand_as(below)
    place = torch.stack([topic, below // branches, below % branches], 2).flatten(0, 1)[:items]
    place = place[torch.randperm(items, generator=random)]  # the id of an item says nothing
    tail = place[:, 0] >= branches // 2
    features = _embed(place, torch.zeros_like(tail), *FEATURES, random).float()  # A and B mean the same
    latent = normalize(_embed(place, tail, *LATENT, random), dim=-1)
    rank = 1 + torch.randperm(items, generator=random)
    phase = torch.rand(items, generator=random, dtype=torch.float64)
    moment = torch.arange(periods, dtype=torch.float64)[:, None] / periods
    bias = -TAIL * rank.double().log() + DRIFT * torch.sin(2 * torch.pi * (moment + phase))  # (T, N)
    third = 1 + bias.argsort(1).argsort(1) * 3 // items  # (T, N)
    first = torch.randint(items, (users,), generator=random)  # an item whose latent vector joins the taste
    tail_user = tail[first]
    of_half, in_a = tail.int().argsort(stable=True), (~tail).sum()  # the items of A, then those of B
    start, size = torch.where(tail_user, in_a, 0), torch.where(tail_user, items - in_a, in_a)
    second = of_half[start + (torch.rand(users, generator=random, dtype=torch.float64) * size).long()]
    taste = normalize(latent[first] + latent[second], dim=-1)
    period = torch.randint(periods, (users,), generator=random)
    user, item = (torch.randint(n, (PAIRS,), generator=random) for n in (users, items))
    parts = place, features, latent, tail, bias, third, taste, tail_user, period
    world = World(cfg.seed, cfg.world_beta, cfg.world_events, *parts, cuts=GAIN_QUANTILES)
    return replace(world, cuts=world.affinity(user, item[:, None]).quantile(GAIN_QUANTILES))


def _embed(place: Tensor, half: Tensor, size: int, scales: tuple, noise: float, random: Generator) -> Tensor:
    """Add a random unit vector per level and half, by scale, and noise of that length: (N, size)."""
    vectors = torch.randn(LEVELS, 2, int(place.max()) + 1, size, generator=random, dtype=torch.float64)
    vectors = normalize(vectors, dim=-1)
    blur = normalize(torch.randn(len(place), size, generator=random, dtype=torch.float64), dim=-1)
    return sum(scale * vectors[k, half.long(), place[:, k]] for k, scale in enumerate(scales)) + noise * blur


def squash(z: Tensor) -> Tensor:
    """Map logits to (0, 1) without exp, whose last bits differ by the place in a tensor. Source: ours."""
    z = z.clamp(-MOST_LOGIT, MOST_LOGIT)
    return 0.5 + 0.5 * z / (1 + z.abs())


def true_score(world: World, user: Tensor, items: Tensor) -> Tensor:
    """The probability (B, C) float64 that users (B,) click items (B, C) that are shown. Source: ours."""
    return squash((world.affinity(user, items) - world.cuts[-1]) / CLICK_SCALE)


def exposures(world: World, n: int, seed: int) -> Exposures:
    """Log n impressions of uniform users: popular items, few of B, clicks by ``true_score``. Source: ours."""
    random = stream("exposures", world.seed, seed)
    user = torch.randint(len(world.taste), (n,), generator=random)
    noise = torch.rand(2, n, generator=random, dtype=torch.float64)
    shown = world.bias.softmax(1) * torch.where(world.tail, TAIL_EXPOSURE, 1.0)  # (T, N)
    item = torch.empty_like(user)
    for period, weight in enumerate(shown):
        rows = world.period[user] == period
        item[rows] = draw(weight, noise[0, rows])
    return Exposures(user, item, noise[1] < true_score(world, user, item[:, None])[:, 0])
