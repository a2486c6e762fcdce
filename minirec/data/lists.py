"""Closed sets to rank, and what their items are worth: the contexts of FlexRec (2603.11901).

A *need* says what a good list is: *interest*, how much the user likes an item; *explore*, liked and of a
topic that the recent history lacks; *trend*, interest × recent popularity [paper]. Here a need is two flags,
novel and trend, and both together are a fourth need, which training never sees [ours]:

    gain = liking × [topic new to recent history, if novel] × [1/3, 2/3, 1 by third of popularity, if trend]

On the world liking is affinity in four steps (``World.gains``), and candidates are drawn uniformly. On a log
it is the rating, from 0 to 1, and a user's training events but the first are cut into windows: the items of a
window are the candidates, all before it is the history. A user's last window is for test, the one before for
validation, all earlier are for training. These users are left to RL, so the supervised policy knows none of
them. Whether feedback was seen is drawn once per set [ours].
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from minirec.data import splits, vectors
from minirec.data.dataset import Dataset, Examples, whole
from minirec.errors import InputError
from minirec.noise import stream
from minirec.records import LIST, OFF, ON, PAD, Lists
from minirec.settings import Config

NEEDS = {"interest": (OFF, OFF), "explore": (ON, OFF), "trend": (OFF, ON), "explore trend": (ON, ON)}
HELD_OUT = "explore trend"
PARTS = ("train", "valid", "test", "known")  # the last, for floors: "train" and what supervised training saw
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
        """Gather contexts (B,), each for a need (B,), a place in NEEDS, with the true gains."""
        batch = self.contexts.batch(rows, self.history)  # copies
        batch.condition[:, 0], batch.condition[:, 1:3] = LIST, torch.tensor(list(NEEDS.values()))[need]
        return Lists(batch, self.candidates[rows], self.gains[need, rows], self.observed[rows])

    def of_step(self, rows: Tensor, part: Tensor, seed: int, step: int) -> Lists:
        """Gather a process's ``part`` (B,) of a step's contexts ``rows`` (A,), with the step's needs."""
        return self.draw(rows[part], needs_of_step(seed, step, len(rows))[part])

    def first(self, count: int, size: int) -> ListSource:
        """Return the first ``count`` contexts at most, with the first ``size`` candidates of each at most."""
        contexts = self.contexts.select(torch.arange(min(count, len(self))))
        tables = self.candidates, self.gains, self.popular, self.observed  # the last dimensions are S and C
        return ListSource(contexts, self.history, *(table[..., :count, :size] for table in tables))


def needs_of_step(seed: int, step: int, count: int) -> Tensor:
    """Draw the needs of a step's contexts, (count,) places in NEEDS, uniformly of the three trained ones."""
    trained = torch.tensor([place for place, need in enumerate(NEEDS) if need != HELD_OUT])
    return trained[torch.randint(len(trained), (count,), generator=stream("needs", seed, step))]


def make_lists(cfg: Config, dataset: Dataset, part: str) -> ListSource:
    """Make the closed sets of one of the PARTS of a log or a simulated world; InputError if none is left."""
    if dataset.fresh is None:
        raise InputError("--objective: supervised training saw every user; train anew with --fresh 0.2")
    random = stream("candidates", cfg.seed, PARTS.index(part))
    make = _world_lists if dataset.world else _log_lists
    contexts, candidates, gains, popular = make(cfg, dataset, part, random)
    observed = torch.rand(candidates.shape, generator=random) < cfg.feedback
    return ListSource(contexts, cfg.history, candidates, torch.stack(gains).float(), popular, observed)


def _world_lists(cfg: Config, dataset: Dataset, part: str, random: Generator) -> tuple:
    world, users = dataset.world, getattr(dataset, {"train": "fresh"}.get(part, part))
    size, items = cfg.candidates, len(world.latent)
    if size > items:
        raise InputError(f"--candidates: {size} of {items} items; expected at most as many as there are")
    sets = min(WORLD_SETS, items // size) if part in ("train", "known") else 1
    chunks = (len(chunk) for chunk in users.user.split(1024))  # so that users × N never exists
    drawn = [torch.rand(n, items, generator=random).topk(sets * size).indices.view(-1, size) for n in chunks]
    candidates = torch.cat(drawn)  # (S, C)
    every = torch.arange(len(users)).repeat_interleave(sets)  # (S,)
    contexts = replace(users, targets=users.targets[:, :0]).select(every)
    user, recent = contexts.user, contexts.batch(torch.arange(len(every)), cfg.history).history
    gains = [world.gains(user, candidates, *need, recent) for need in NEEDS.values()]
    return contexts, candidates, gains, world.bias[world.period[user, None], candidates]


def _log_lists(cfg: Config, dataset: Dataset, part: str, random: Generator) -> tuple:
    topics = dataset.catalogue.topics
    advice = "topics (a csv in --items with a column of genres or categories)"
    for name, value in {"ratings": dataset.rating, "times": dataset.time, advice: topics}.items():
        if value is None:
            raise InputError(f"--objective: flexrec and list on a log need {name}, and this log has none")
    low, high = dataset.rating.min(), dataset.rating.max()  # the scale, not a fact about any user
    if low == high:
        raise InputError(f"--objective: flexrec and list need gains; every rating of this log is {low:g}")
    contexts, place = _windows(dataset, cfg.candidates, part)  # (S, C) places of the candidates' events
    place = place.gather(1, torch.rand(place.shape, generator=random).argsort(1))  # a tie tells no time
    candidates, liking = contexts.events[place], (dataset.rating[place] - low) / (high - low)  # (S, C)
    popular, third = _recent_popularity(dataset, contexts, candidates)
    factors = {OFF: (1.0, 1.0), ON: (_new(topics, contexts, candidates), third / 3)}
    gains = [liking * factors[novel][0] * factors[trend][1] for novel, trend in NEEDS.values()]
    return contexts, candidates, gains, popular


def _windows(dataset: Dataset, size: int, part: str) -> tuple[Examples, Tensor]:
    """Cut users' events into sets: contexts that end before a set, and the (S, C) places of its events."""
    users = whole(dataset.known if part == "known" else dataset.fresh)
    begin = (users.start + 1).numpy()  # a first event is nobody's candidate
    owner, start, stop = map(torch.from_numpy, splits.windows(begin, users.stop.numpy(), size))  # (S,)
    later = (users.stop[owner] - stop) // size  # windows of the user that follow
    fresh = torch.isin(users.user[owner], dataset.fresh.user)
    asked = {"train": later >= 2, "valid": later == 1, "test": later == 0, "known": ~fresh | (later >= 2)}
    keep = asked[part] & (stop - start == size)
    owner, place = owner[keep], start[keep, None] + torch.arange(size)  # (S, C)
    distinct = (users.events[place].sort(1).values.diff(dim=1) != 0).all(1)
    if not distinct.any():
        fault = f"no user left to RL has enough events for a set of {size} of the {part} part"
        raise InputError(f"--candidates: {fault}; use a smaller number, a larger --fresh or a longer log")
    return replace(users.select(owner[distinct]), stop=place[distinct, 0]), place[distinct]


def _new(topics: Tensor, contexts: Examples, candidates: Tensor) -> Tensor:
    """Whether a candidate has a topic that none of the last RECENT_TOPICS items has: (S, C) bool."""
    table = torch.zeros(len(topics), int(topics.max()) + 2, dtype=torch.bool)
    has = table.scatter_(1, topics.remainder(table.shape[1]), True)[:, :-1]  # (N, topics); the last was PAD
    recent = contexts.batch(torch.arange(len(contexts)), RECENT_TOPICS).history  # (S, H)
    past = (has[recent.clamp(min=0)] & (recent != PAD)[:, :, None]).any(1)  # (S, topics)
    return (has[candidates] & ~past[:, None]).any(2)


def _recent_popularity(dataset: Dataset, contexts: Examples, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Count each candidate's training events just before its set, and find its third of all: (S, C) each."""
    events, items = contexts.events, len(dataset.catalogue)
    _, place = vectors.training_events(replace(dataset.known, events=torch.arange(len(events))))
    place = place[dataset.time[place].argsort(stable=True)]  # training events in order of time
    until = torch.searchsorted(dataset.time[place], dataset.time[contexts.stop])  # (S,) strictly before
    popular, third = torch.empty(candidates.shape, dtype=torch.float64), torch.empty_like(candidates)
    for row, stop in enumerate(until.tolist()):
        recent = events[place[max(0, stop - RECENT_EVENTS * items) : stop]]
        count = torch.bincount(recent, minlength=items)  # (N,)
        popular[row], ordered = count[candidates[row]], count.sort().values  # (C,), (N,)
        # Events of all less popular items, at the first of equals: two thirds or more make the top third.
        fewer = ordered.cumsum(0) - ordered  # (N,)
        third[row] = 1 + 3 * fewer[torch.searchsorted(ordered, count[candidates[row]])] // max(1, len(recent))
    return popular, third
