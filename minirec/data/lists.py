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

from minirec.data.dataset import Dataset, Examples
from minirec.data.splits import windows
from minirec.data.vectors import training_events
from minirec.errors import InputError
from minirec.noise import stream
from minirec.records import CONDITION, LIST, OFF, ON, PAD, Lists
from minirec.settings import Config

NEEDS = {"interest": (OFF, OFF), "explore": (ON, OFF), "trend": (OFF, ON), "explore trend": (ON, ON)}
HELD_OUT = "explore trend"
PARTS = ("train", "valid", "test", "known")

WORLD_SETS = 8  # of a training user of the world, disjoint; of the others, one
RECENT_TOPICS = 10  # items of a log's history whose topics are not new; 50 films have nearly every genre
RECENT_EVENTS = 3  # training events per item of the catalogue over which a log's popularity is counted


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

    def draw(self, rows: Tensor, need: Tensor) -> Lists:
        """Gather contexts (B,), each for a need (B,), a place in NEEDS; with the true gains."""
        batch = self.contexts.batch(rows, self.history)
        condition = batch.condition.clone()
        condition[:, 0], condition[:, 1:3] = LIST, torch.tensor(list(NEEDS.values()))[need]
        batch = replace(batch, condition=condition)
        return Lists(batch, self.candidates[rows], self.gains[need, rows], self.observed[rows])

    def of_step(self, rows: Tensor, mine: Tensor, seed: int, step: int) -> Lists:
        """Gather a process's part ``mine`` (B,) of a step's contexts ``rows`` (A,), with the step's needs."""
        return self.draw(rows[mine], needs_of_step(seed, step, len(rows))[mine])

    def first(self, count: int, size: int) -> ListSource:
        """Return the first ``count`` contexts at most, with the first ``size`` candidates of each at most."""
        return ListSource(
            self.contexts.select(torch.arange(min(count, len(self)))),
            self.history,
            self.candidates[:count, :size],
            self.gains[:, :count, :size],
            self.popular[:count, :size],
            self.observed[:count, :size],
        )


def needs_of_step(seed: int, step: int, count: int) -> Tensor:
    """Draw the needs of a step's contexts, (count,) places in NEEDS, uniformly of the three that are trained.

    >>> needs_of_step(seed=0, step=0, count=8)
    tensor([1, 0, 1, 0, 0, 0, 0, 0])
    """
    trained = torch.tensor([place for place, need in enumerate(NEEDS) if need != HELD_OUT])
    return trained[torch.randint(len(trained), (count,), generator=stream("needs", seed, step))]


def make_lists(cfg: Config, dataset: Dataset, part: Literal["train", "valid", "test", "known"]) -> ListSource:
    """Make the closed sets of a part of the data, of a log or of a simulated world.

    "known" is "train" and the users of supervised training as well: what floors may be fitted on. Raises
    InputError if no users are left to RL, if the log lacks what gains are made of, or if no set is left.
    """
    if dataset.fresh is None:
        raise InputError("--objective: supervised training saw every user; train anew with --fresh 0.2")
    make = _log_lists if dataset.world is None else _world_lists
    return make(cfg, dataset, part)


def _world_lists(cfg: Config, dataset: Dataset, part: str) -> ListSource:
    world, users = dataset.world, getattr(dataset, {"train": "fresh"}.get(part, part))
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
