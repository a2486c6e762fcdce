"""Closed sets to rank, and what their items are worth: the contexts of FlexRec (2603.11901).

A *need* says what a good list is: *interest*, how much the user likes an item; *explore*, liked and of a
topic that the recent history lacks; *trend*, interest × recent popularity [paper]. Here a need is two flags,
novel and trend, and both together are a fourth need, which training never sees [ours]:

    gain = liking × [has a topic that the recent history lacks, if novel] × [1/3, 2/3, 1 by third of
           popularity, if trend]

where liking is, on the simulated world, the user's affinity in four steps (``World.gains``), and on a log the
rating, from 0 for the lowest of the scale to 1 for the highest [ours].

On the world candidates are drawn uniformly, ``WORLD_SETS`` sets for a training user and one for another. On a
log a user's training events but the first are cut into windows: the items of a window are the candidates, all
before it is the history. The last window of a user is for test, the one before for validation, all earlier
are for training. These users are the ones left to RL, so the supervised policy knows none of them [ours].

Whether the feedback on a candidate was seen is drawn once per set, not at every step: what is missing stays
missing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from minirec import rewards
from minirec.data.splits import windows
from minirec.data.vectors import training_events
from minirec.data.world import World, make_world
from minirec.errors import InputError
from minirec.noise import stream
from minirec.records import CONDITION, LIST, OFF, ON, PAD, Batch, Dataset, Examples, check
from minirec.settings import Config

NEEDS = {"interest": (OFF, OFF), "explore": (ON, OFF), "trend": (OFF, ON), "explore trend": (ON, ON)}
HELD_OUT = "explore trend"
PARTS = ("train", "valid", "test", "known")

WORLD_SETS = 8  # of a training user of the world, disjoint; of the others, one
RECENT_TOPICS = 10  # items of a log's history whose topics are not new; 50 films have nearly every genre
RECENT_EVENTS = 3  # training events per item of the catalogue over which a log's popularity is counted
CUT = 5  # of NDCG and recall
RELEVANT = 2 / 3 - 1e-6  # gain from which an item counts for recall; two thirds, whatever the rounding
PRIOR = 5.0  # observations that the mean of all items weighs in the mean of one


@dataclass(frozen=True)
class Lists:
    """B closed sets to rank."""

    batch: Batch  # its condition holds the need; no targets
    candidates: Tensor  # (B, C) int64, distinct in a row
    gains: Tensor  # (B, C) float32 in [0, 1], true for the need
    observed: Tensor  # (B, C) bool, whether the feedback on a candidate was seen

    def __post_init__(self) -> None:
        check("candidates", self.candidates, len(self.batch), None)
        check("gains", self.gains, *self.candidates.shape, dtype=torch.float32)
        check("observed", self.observed, *self.candidates.shape, dtype=torch.bool)


@dataclass(frozen=True)
class ListSource:
    """S contexts with a set of C candidates each, and the gains for all needs."""

    contexts: Examples  # S, without targets
    history: int  # most recent items that the policy sees
    candidates: Tensor  # (S, C) int64, in random order
    gains: Tensor  # (needs, S, C) float32, in the order of NEEDS
    popular: Tensor  # (S, C) float64, recent popularity; only its order counts
    observed: Tensor  # (S, C) bool

    def __len__(self) -> int:
        return len(self.contexts)

    def draw(self, rows: Tensor, need: Tensor, size: int | None = None) -> Lists:
        """Gather contexts, each for a need.

        Args:
            rows: (B,) int64, which contexts.
            need: (B,) int64, places in NEEDS.
            size: candidates of each, the first of its set; None is all C.

        Returns:
            The Lists; a function of the arguments alone.
        """
        batch = self.contexts.batch(rows, self.history)
        condition = batch.condition.clone()
        condition[:, 0], condition[:, 1:3] = LIST, torch.tensor(list(NEEDS.values()))[need]
        return Lists(
            replace(batch, condition=condition),
            self.candidates[rows, :size],
            self.gains[need, rows, :size],
            self.observed[rows, :size],
        )


def needs_of_step(seed: int, step: int, count: int) -> Tensor:
    """Draw the needs of a step, uniformly of the three that are trained.

    Args:
        seed: of the run.
        step: from 0.
        count: B, contexts of all processes.

    Returns:
        (B,) int64, places in NEEDS.

    Source: ours.

    >>> needs_of_step(seed=0, step=0, count=8)
    tensor([1, 0, 1, 0, 0, 0, 0, 0])
    """
    trained = torch.tensor([place for place, need in enumerate(NEEDS) if need != HELD_OUT])
    return trained[torch.randint(len(trained), (count,), generator=stream("needs", seed, step))]


def make_lists(
    cfg: Config,
    dataset: Dataset,
    part: Literal["train", "valid", "test", "known"],
    world: World | None = None,
) -> ListSource:
    """Make the closed sets of a part of the data.

    Args:
        cfg: candidates, feedback, history and seed are read.
        dataset: a log's, or a simulated world's.
        part: "train", "valid" or "test"; "known" is "train" and the users of supervised training as well:
            what floors may be fitted on.
        world: of a simulated dataset, if it has been made already.

    Returns:
        The ListSource.

    Raises:
        InputError: no users are left to RL, the log lacks what gains are made of, or no set is left.
    """
    if dataset.fresh is None:
        raise InputError("--objective: supervised training saw every user; train anew with --fresh 0.2")
    if dataset.law is None:
        return _log_lists(cfg, dataset, part)
    users = {"train": dataset.fresh, "known": dataset.known, "valid": dataset.valid, "test": dataset.test}
    return _world_lists(cfg, world or make_world(cfg), users[part], part)


def _without_targets(examples: Examples) -> Examples:
    return replace(examples, targets=examples.targets[:, :0])


def _world_lists(cfg: Config, world: World, users: Examples, part: str) -> ListSource:
    size, items = cfg.candidates, len(world.latent)
    if size > items:
        raise InputError(f"--candidates: {size} of {items} items; expected at most as many as there are")
    sets = min(WORLD_SETS, items // size) if part in ("train", "known") else 1
    random = stream("candidates", cfg.seed, PARTS.index(part))
    drawn = [
        torch.rand(len(chunk), items, generator=random).topk(sets * size).indices.view(-1, size)
        for chunk in users.user.split(1024)  # so that users × N never exists
    ]
    candidates = torch.cat(drawn)  # (S, C)
    every = torch.arange(len(users)).repeat_interleave(sets)  # (S,)
    contexts = replace(users, targets=users.targets[:, :0]).select(every)
    user, recent = contexts.user, contexts.batch(torch.arange(len(every)), cfg.history).history
    yes = torch.ones(len(every), dtype=torch.bool)
    gains = [
        world.gains(user, candidates, yes & (novel == ON), yes & (trend == ON), recent)
        for novel, trend in NEEDS.values()
    ]
    popular = world.bias[world.period[user, None], candidates]
    observed = torch.rand(candidates.shape, generator=random) < cfg.feedback
    return ListSource(contexts, cfg.history, candidates, torch.stack(gains), popular, observed)


def _log_lists(cfg: Config, dataset: Dataset, part: str) -> ListSource:
    lacking = {
        "ratings": dataset.rating,
        "times": dataset.time,
        "topics (a csv in --items with a column of genres or categories)": dataset.catalogue.topics,
    }
    for name, value in lacking.items():
        if value is None:
            raise InputError(f"--objective: flexrec and list on a log need {name}, and this log has none")
    low, high = dataset.rating.min(), dataset.rating.max()  # the scale, not a fact about any user
    if low == high:
        raise InputError(f"--objective: flexrec and list need gains; every rating of this log is {low:g}")
    contexts, place = _windows(dataset, cfg.candidates, part)  # (S, C) places of the candidates' events
    random = stream("candidates", cfg.seed, PARTS.index(part))
    place = place.gather(1, torch.rand(place.shape, generator=random).argsort(1))  # a tie tells no time
    candidates, liking = contexts.events[place], (dataset.rating[place] - low) / (high - low)  # (S, C)
    popular, third = _recent_popularity(dataset, contexts, candidates)
    novelty = {OFF: 1.0, ON: _new(dataset.catalogue.topics, contexts, candidates)}
    trendiness = {OFF: 1.0, ON: third / 3}
    gains = [liking * novelty[novel] * trendiness[trend] for novel, trend in NEEDS.values()]
    observed = torch.rand(place.shape, generator=random) < cfg.feedback
    return ListSource(contexts, cfg.history, candidates, torch.stack(gains).float(), popular, observed)


def _windows(dataset: Dataset, size: int, part: str) -> tuple[Examples, Tensor]:
    """Cut users' events into sets: contexts that end before a set, and the (S, C) places of its events."""
    sequences = dataset.known if part == "known" else dataset.fresh
    users, count = sequences.user.unique_consecutive(return_counts=True)
    last = count.cumsum(0) - 1  # each user's last training window
    first, end = sequences.start[last - count + 1], sequences.stop[last]  # (U,) one sequence again
    cut = windows((first + 1).numpy(), end.numpy(), size)
    owner, start, stop = map(torch.from_numpy, cut)  # (S,); a first event is nobody's candidate
    later = (end[owner] - stop) // size  # windows of the user that follow
    fresh = torch.isin(users[owner], dataset.fresh.user)
    asked = {"train": later >= 2, "valid": later == 1, "test": later == 0, "known": ~fresh | (later >= 2)}
    keep = (asked[part] & (stop - start == size)).nonzero()[:, 0]
    place = start[keep, None] + torch.arange(size)  # (S, C)
    items = sequences.events[place].sort(1).values
    distinct = (items[:, 1:] != items[:, :-1]).all(1)
    owner, place = owner[keep[distinct]], place[distinct]
    if not len(place):
        raise InputError(
            f"--candidates: no user left to RL has enough events for a set of {size} of the {part} part; "
            "use a smaller number, a larger --fresh or a longer log"
        )
    contexts = Examples(
        events=sequences.events,
        start=first[owner],
        stop=place[:, 0],
        user=users[owner],
        condition=torch.zeros(len(place), len(CONDITION), dtype=torch.int64),
        targets=torch.empty(len(place), 0, dtype=torch.int64),
        tied=torch.zeros(len(place), dtype=torch.bool),
    )
    return contexts, place


def _new(topics: Tensor, contexts: Examples, candidates: Tensor) -> Tensor:
    """Whether a candidate has a topic that none of the last RECENT_TOPICS items has: (S, C) bool."""
    table = torch.zeros(len(topics), int(topics.max()) + 2, dtype=torch.bool)
    has = table.scatter_(1, topics.remainder(table.shape[1]), True)[:, :-1]  # (N, topics); the last was PAD
    recent = contexts.batch(torch.arange(len(contexts)), RECENT_TOPICS).history  # (S, H)
    past = (has[recent.clamp(min=0)] & (recent != PAD)[:, :, None]).any(1)  # (S, topics)
    return (has[candidates] & ~past[:, None]).any(2)


def _recent_popularity(dataset: Dataset, contexts: Examples, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Training events of each candidate just before its set, and the third that puts it in: (S, C) each.

    Thirds are of events, not of items: an item of the top third is one that less popular items leave at most
    a third of the events to. An item without an event is in the first.
    """
    events, items = contexts.events, len(dataset.catalogue)
    _, place = training_events(replace(dataset.known, events=torch.arange(len(events))))
    place = place[dataset.time[place].argsort(stable=True)]  # training events in order of time
    until = torch.searchsorted(dataset.time[place], dataset.time[contexts.stop])  # (S,) strictly before
    popular, third = torch.empty(candidates.shape, dtype=torch.float64), torch.empty_like(candidates)
    for row, stop in enumerate(until.tolist()):
        recent = events[place[max(0, stop - RECENT_EVENTS * items) : stop]]
        count = torch.bincount(recent, minlength=items)  # (N,)
        own, (ordered, _) = count[candidates[row]], count.sort()  # (C,), (N,)
        fewer = ordered.cumsum(0) - ordered  # (N,) events of all less popular items, at the first of equals
        below = fewer[torch.searchsorted(ordered, own)]  # (C,)
        popular[row], third[row] = own.double(), 1 + 3 * below // max(1, len(recent))
    return popular, third


def item_mean(known: ListSource, items: int) -> Tensor:
    """Mean observed gain of each item for each need, drawn towards the mean of all.

    Args:
        known: the lists to learn from.
        items: N.

    Returns:
        (needs, N) float64, (sum + PRIOR × mean of all) / (observations + PRIOR).

    Source: definition; PRIOR is ours.
    """
    seen = known.observed.double().flatten()  # (S*C,)
    gains = known.gains.double().flatten(1) * seen  # (needs, S*C)
    item = known.candidates.flatten()
    count = torch.zeros(items, dtype=torch.float64).index_add_(0, item, seen)
    total = torch.zeros(len(NEEDS), items, dtype=torch.float64).index_add_(1, item, gains)
    mean = gains.sum(1, keepdim=True) / seen.sum().clamp(min=1)  # (needs, 1)
    return (total + PRIOR * mean) / (count + PRIOR)


def by_score(scores: Tensor, gains: Tensor) -> Tensor:
    """Put gains in the order of falling scores; equal scores keep the order of the candidates.

    Args:
        scores: (B, C).
        gains: (B, C).

    Returns:
        (B, C).

    Source: definition.
    """
    return gains.gather(1, scores.argsort(dim=1, descending=True, stable=True))


def evaluate_order(placed: Tensor, gains: Tensor) -> dict[str, Tensor]:
    """Measure lists by their true gains.

    Args:
        placed: (B, K) true gains in the order of the list.
        gains: (B, C) those of all candidates, K <= C, in any order.

    Returns:
        By name, (B,) float64: ndcg@5, NaN where no candidate has a gain; recall@5, the share of the relevant
        candidates that stand in the first five, NaN where none is relevant.

    Source: definition; relevant is a gain of two thirds or more (ours, as FlexRec's is not known).

    >>> gains = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    >>> evaluate_order(gains, gains)["ndcg@5"]
    tensor([0.6309,    nan], dtype=torch.float64)
    """
    placed, gains = placed.double(), gains.double()
    best = rewards.ideal(gains, placed.shape[1], CUT)
    relevant, found = ((x >= RELEVANT).double() for x in (gains, placed[:, :CUT]))
    return {
        f"ndcg@{CUT}": rewards.ndcg(placed, best, CUT).masked_fill(best == 0, torch.nan),
        f"recall@{CUT}": found.sum(1) / relevant.sum(1),  # 0 / 0 is NaN
    }


def floors(known: ListSource, source: ListSource, items: int, seed: int) -> dict[str, dict[str, dict]]:
    """Rank closed sets without a policy: in random order, by recent popularity, by the items' mean gains.

    Args:
        known: the lists that means are learned from; feedback holds for every need, so for the held-out too.
        source: the lists to rank.
        items: N.
        seed: of the random order.

    Returns:
        By need and by floor, what ``evaluate_order`` returns, of all S contexts.

    Source: definition.
    """
    mean = item_mean(known, items)
    noise = torch.rand(source.candidates.shape, generator=stream("random order", seed), dtype=torch.float64)
    result = {}
    for place, need in enumerate(NEEDS):
        gains = source.gains[place]
        scores = {"random": noise, "popularity": source.popular, "item mean": mean[place][source.candidates]}
        result[need] = {name: evaluate_order(by_score(score, gains), gains) for name, score in scores.items()}
    return result
