"""Closed sets: what is in them, what it is worth, and that nothing later than a set reaches it."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minirec.data import catalogue, codes, lists, logs, prepare
from minirec.data.dataset import leave_fresh
from minirec.data.lists import HELD_OUT, NEEDS, PARTS, make_lists, needs_of_step
from minirec.data.world import make_world
from minirec.errors import InputError
from minirec.measure.rankings import list_floors
from minirec.records import LIST, ON, PAD
from minirec.run import folder
from minirec.settings import Config
from minirec.tasks import Processes

MOVIELENS = Path(__file__).parents[2] / ".." / "shared" / "data" / "ml_latest_small"
WORLD = Config(world_items=96, world_users=60, history=4, candidates=5, fresh=0.25, feedback=0.5, seed=3)
GENRES = ["war", "war|drama", "drama", "comedy", "sport", "comedy|sport", "war|news", "news"]


def world_parts(cfg=WORLD):
    dataset, _ = prepare.read(cfg)
    return dataset, {part: make_lists(cfg, dataset, part) for part in PARTS}


def flags(need):
    return NEEDS[need][0] == ON, NEEDS[need][1] == ON


def test_every_context_of_the_world_has_the_gains_of_its_need_one_by_one():
    dataset, parts = world_parts()
    world = make_world(WORLD)
    source = parts["train"]
    for place, need in enumerate(NEEDS):
        novel, trend = flags(need)
        drawn = source.draw(torch.arange(len(source)), torch.full((len(source),), place))
        for row, user in enumerate(drawn.batch.user.tolist()):
            start = user * world.events
            past = dataset.train.events[start : start + world.events].tolist()[-WORLD.history :]
            assert drawn.batch.history[row].tolist() == past
            for item, gain in zip(drawn.candidates[row].tolist(), drawn.gains[row].tolist(), strict=True):
                affinity = world.affinity(torch.tensor([user]), torch.tensor([[item]])).item()
                worth = sum(affinity >= cut for cut in world.cuts.tolist()) / 3
                if novel and world.place[item, 0] in world.place[past, 0]:
                    worth = 0.0
                if trend:
                    worth *= world.third[world.period[user], item].item() / 3
                assert gain == pytest.approx(worth, abs=1e-6)  # float32


def test_a_context_tells_the_policy_its_need_and_its_period_and_no_target():
    dataset, parts = world_parts()
    source = parts["valid"]
    need = torch.arange(len(source)) % 4
    batch = source.draw(torch.arange(len(source)), need).batch
    told = [[LIST, *list(NEEDS.values())[n]] for n in need.tolist()]
    assert batch.condition[:, :3].tolist() == told
    assert torch.equal(batch.condition[:, 3], dataset.valid.condition[:, 3])
    assert batch.targets.shape == (len(source), 0)


def test_training_users_of_the_world_have_disjoint_sets_and_the_parts_have_their_own_users():
    dataset, parts = world_parts()
    for part, users in {"train": "fresh", "known": "known", "valid": "valid", "test": "test"}.items():
        source = parts[part]
        expected = getattr(dataset, users).user
        sets = 8 if part in ("train", "known") else 1
        assert torch.equal(source.contexts.user, expected.repeat_interleave(sets))
        together = source.candidates.view(len(expected), -1).sort(1).values
        assert (together[:, 1:] != together[:, :-1]).all()
        assert together.min() >= 0
        assert together.max() < WORLD.world_items
    assert not torch.equal(parts["valid"].candidates, parts["test"].candidates)


def test_few_items_make_fewer_sets_and_too_few_are_refused():
    cfg = replace(WORLD, world_items=16, candidates=7)
    dataset, parts = world_parts(cfg)
    assert len(parts["train"]) == 2 * len(dataset.fresh)
    with pytest.raises(InputError, match="--candidates: 17 of 16 items"):
        make_lists(replace(cfg, candidates=17), dataset, "train")


def test_candidates_of_the_world_are_uniform():
    cfg = replace(WORLD, world_items=16, world_users=4000, candidates=2)
    _, parts = world_parts(cfg)
    count = torch.bincount(parts["valid"].candidates.flatten(), minlength=16).double()
    expected = count.sum() / 16
    # 15 degrees of freedom; two candidates of one set differ, which only makes counts more even: a false
    # alarm in fewer than 1 of 10,000 seeds
    assert ((count - expected).square() / expected).sum() < 44.3


def test_feedback_is_seen_with_its_share_once_for_all_needs_and_steps():
    cfg = replace(WORLD, world_users=2000, feedback=0.3)
    _, parts = world_parts(cfg)
    source = parts["train"]
    seen = source.observed.double()
    error = math.sqrt(0.3 * 0.7 / seen.numel())
    assert abs(seen.mean().item() - 0.3) < 4 * error  # false alarm in 6 of 100,000 seeds
    rows = torch.tensor([5, 2, 5])
    one, other = (source.draw(rows, torch.full((3,), need)) for need in (0, 3))
    assert torch.equal(one.observed, other.observed)
    assert torch.equal(one.observed, source.observed[rows])
    everything = make_lists(replace(cfg, feedback=1.0), prepare.read(cfg)[0], "train")
    assert everything.observed.all()


def test_rows_are_drawn_alike_alone_and_together_and_a_smaller_set_is_the_first_of_it():
    _, parts = world_parts()
    source = parts["train"]
    rows, need = torch.tensor([7, 0, 31]), torch.tensor([1, 2, 3])
    together = source.draw(rows, need)
    for k in range(3):
        alone = source.first(40, 3).draw(rows[k : k + 1], need[k : k + 1])
        for name in ("candidates", "gains", "observed"):
            assert torch.equal(getattr(alone, name)[0], getattr(together, name)[k, :3])


def test_needs_of_a_step_are_the_three_trained_ones_uniformly():
    drawn = torch.cat([needs_of_step(seed=1, step=step, count=30) for step in range(100)])
    count = torch.bincount(drawn, minlength=4).double()
    assert count[list(NEEDS).index(HELD_OUT)] == 0
    # chi-square, 2 degrees of freedom: a false alarm in 1 of 10,000 seeds
    assert ((count[:3] - 1000).square() / 1000).sum() < 18.4
    assert torch.equal(needs_of_step(1, 5, 8), needs_of_step(1, 5, 8))
    assert not torch.equal(needs_of_step(1, 5, 30), needs_of_step(1, 6, 30))


def log(tmp_path, events, genres=GENRES, header="user,item,rating,time"):
    """A run's data from (user, item, rating, time) events; the second half of the users is left to RL."""
    path = tmp_path / "log.csv"
    path.write_text("\n".join([header, *(",".join(map(str, e)) for e in events)]) + "\n")
    side = tmp_path / "items.csv"
    side.write_text("item,genres\n" + "".join(f"i{i},{genre}\n" for i, genre in enumerate(genres)))
    dataset, _ = logs.load(Config(data=str(path), items=str(side), core=0))
    users = dataset.train.user
    late = users >= len(dataset.users) // 2
    return replace(dataset, train=dataset.train.select(~late), fresh=dataset.train.select(late))


def by_hand(dataset, events, part, size, recent_events):
    """Slowly: {user: [(history, {item: gains of the four needs})]}; names instead of numbers."""
    users = list(dict.fromkeys(u for u, *_ in events))
    first_rl = len(users) // 2
    line = {u: sorted((e for e in events if e[0] == u), key=lambda e: e[3]) for u in users}
    train = {u: own[:-2] for u, own in line.items()}  # leave last out
    every = sorted((e for own in train.values() for e in own), key=lambda e: e[3])
    low, high = min(e[2] for e in events), max(e[2] for e in events)
    topics = {f"i{i}": set(genre.split("|")) for i, genre in enumerate(GENRES)}
    found = {}
    for u in users:
        own, fresh, cuts = train[u], users.index(u) >= first_rl, []
        stop = len(own)
        while stop - size >= 1:
            cuts.append((stop - size, stop))
            stop -= size
        if part == "known" and not fresh:
            wanted = cuts
        elif not fresh:
            wanted = []
        else:
            wanted = {"test": cuts[:1], "valid": cuts[1:2]}.get(part, cuts[2:])
        for start, stop in wanted[::-1]:
            window, history = own[start:stop], [e[1] for e in own[:start]]
            if len({e[1] for e in window}) < size:
                continue
            known = set().union(*(topics[i] for i in history[-lists.RECENT_TOPICS :]))
            before = [e[1] for e in every if e[3] < window[0][3]][-recent_events:]
            gains = {}
            for _, item, rating, _ in window:
                liking = (rating - low) / (high - low)
                new = float(bool(topics[item] - known))
                lesser = sum(before.count(other) < before.count(item) for other in before)
                third = (1 + math.floor(3 * lesser / len(before))) / 3 if before else 1 / 3
                gains[item] = [liking, liking * new, liking * third, liking * new * third]
            found.setdefault(u, []).append((history, gains))
    return found


def as_names(dataset, source, history=50):
    """A source in the form of ``by_hand``."""
    item, found = dataset.catalogue.ids, {}
    every = torch.arange(len(source))
    drawn = [source.draw(every, torch.full_like(every, need)) for need in range(4)]
    for row, user in enumerate(drawn[0].batch.user.tolist()):
        past = [item[i] for i in drawn[0].batch.history[row].tolist() if i != PAD]
        worth = [dict(zip(d.candidates[row].tolist(), d.gains[row].tolist(), strict=True)) for d in drawn]
        gains = {item[i]: [w[i] for w in worth] for i in worth[0]}
        found.setdefault(dataset.users[user], []).append((past, gains))
    return found


def random_events(seed, users=8, size=24):
    """Every user's times are distinct, but users share them; some windows hold an item twice."""
    random = torch.Generator().manual_seed(seed)
    events = []
    for user in range(users):
        times = (1 + torch.randperm(40, generator=random)[:size]).sort().values.tolist()
        items = torch.randint(len(GENRES), (size,), generator=random).tolist()
        stars = (torch.randint(1, 6, (size,), generator=random)).tolist()
        events += [(f"u{user}", f"i{i}", r, t) for i, r, t in zip(items, stars, times, strict=True)]
    return events


@pytest.mark.parametrize("part", PARTS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(2, 4))
def test_sets_of_a_log_are_those_cut_by_hand(tmp_path_factory, part, seed, size):
    first = [("u0", f"i{i}", 3, i / 100) for i in range(len(GENRES))]  # every item occurs
    events = first + random_events(seed)
    dataset = log(tmp_path_factory.mktemp("log"), events)
    recent = lists.RECENT_EVENTS * len(GENRES)
    expected = by_hand(dataset, events, part, size, recent)
    try:
        source = make_lists(replace(Config(), candidates=size), dataset, part)
    except InputError:
        assert not expected
        return
    found = as_names(dataset, source)
    assert found.keys() == expected.keys()
    for user, sets in expected.items():
        assert [history for history, _ in found[user]] == [history for history, _ in sets]
        for (_, got), (_, want) in zip(found[user], sets, strict=True):
            assert got.keys() == want.keys()
            for item in want:
                assert got[item] == pytest.approx(want[item], abs=1e-6)  # float32


def test_candidates_of_a_log_do_not_stand_in_order_of_time(tmp_path):
    dataset = log(tmp_path, random_events(0, users=40))
    source = make_lists(replace(Config(), candidates=2), dataset, "train")
    place = source.contexts.stop[:, None] + torch.arange(2)
    kept = (source.contexts.events[place] == source.candidates).all(1).double()
    assert abs(kept.mean().item() - 0.5) < 4 * math.sqrt(0.25 / len(kept))  # 6 false alarms in 100,000 seeds


def test_parts_of_a_log_share_no_event_and_hold_no_target_of_the_next_item(tmp_path):
    dataset = log(tmp_path, random_events(1))
    cfg, places = replace(Config(), candidates=2), {}
    for part in ("train", "valid", "test"):
        source = make_lists(cfg, dataset, part)
        places[part] = {p + k for p in source.contexts.stop.tolist() for k in range(2)}
        assert set(source.contexts.user.tolist()) <= set(dataset.fresh.user.tolist())
    assert not places["train"] & places["valid"]
    assert not (places["train"] | places["valid"]) & places["test"]
    targets = set(dataset.valid.stop.tolist()) | set(dataset.test.stop.tolist())
    assert not targets & (places["train"] | places["valid"] | places["test"])


def test_what_happens_at_the_time_of_a_set_or_later_changes_no_gain_of_it(tmp_path):
    events = random_events(2)
    dataset = log(tmp_path, events)
    cfg = replace(Config(), candidates=2)
    source = make_lists(cfg, dataset, "valid")
    row = int(dataset.time[source.contexts.stop].argmin())
    begin = dataset.time[source.contexts.stop[row]]
    later = dataset.time >= begin
    own = torch.arange(2) + source.contexts.stop[row]
    later[own] = False
    shuffled = dataset.train.events.clone()
    shuffled[later] = 0  # whatever is later: the same item everywhere
    parts = {
        name: replace(getattr(dataset, name), events=shuffled) for name in ("train", "fresh", "valid", "test")
    }
    changed = replace(dataset, **parts)
    _, place = lists._windows(dataset, 2, "valid")
    contexts = replace(source.contexts.select(torch.tensor([row])), events=shuffled)
    before = lists._recent_popularity(dataset, source.contexts, source.contexts.events[place])
    after = lists._recent_popularity(changed, contexts, source.contexts.events[place[row : row + 1]])
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one[row : row + 1], other)


def test_an_item_without_topics_is_never_new(tmp_path):
    assert catalogue.topics([{"genres=war"}, set()]).tolist() == [[0], [PAD]]
    found = catalogue.topics([{"genre=war", "genre=drama"}, {"year=1990"}, {"genre=war"}])
    assert found.tolist() == [[0, 1], [PAD, PAD], [1, PAD]]
    events = [e for e in random_events(3) if e[1] != "i7"]
    dataset = log(tmp_path, events, genres=[*GENRES[:3], "", *GENRES[4:]])
    source = make_lists(replace(Config(), candidates=2), dataset, "known")
    blank = source.candidates == dataset.catalogue.ids.index("i3")
    assert source.gains[0][blank].sum() > 0
    assert source.gains[1][blank].sum() == 0


def test_ratings_times_and_topics_survive_the_run_folder(tmp_path):
    dataset = log(tmp_path, random_events(4))
    fitted = codes.fit(torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), 2, 4, 0)
    folder.save_data(tmp_path, dataset, fitted, [])
    read = folder.open_run(Config(out=str(tmp_path)), Processes()).dataset
    assert torch.equal(read.rating, dataset.rating)
    assert torch.equal(read.time, dataset.time)
    assert torch.equal(read.catalogue.topics, dataset.catalogue.topics)
    one, other = (make_lists(replace(Config(), candidates=2), d, "train") for d in (dataset, read))
    assert torch.equal(one.gains, other.gains)
    assert torch.equal(one.candidates, other.candidates)


def test_ratings_and_times_stand_beside_their_events(tmp_path):
    events = random_events(5)
    dataset = log(tmp_path, events[::-1])
    at = {(u, t): (i, r) for u, i, r, t in events}
    for part in (dataset.train, dataset.fresh):
        for user, start, stop in zip(part.user, part.start, part.stop, strict=True):
            for place in range(start, stop):
                item, rating = at[dataset.users[user], dataset.time[place].item()]
                assert dataset.catalogue.ids[part.events[place]] == item
                assert dataset.rating[place] == rating


BROKEN = {
    "no rating": ("user,item,time", lambda e: (e[0], e[1], e[3]), "need ratings, and this log has none"),
    "no time": ("user,item,rating", lambda e: e[:3], "need times, and this log has none"),
    "one rating": ("user,item,rating,time", lambda e: (e[0], e[1], 4, e[3]), "every rating of this log is 4"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_log_without_what_gains_are_made_of_is_refused(tmp_path, case):
    header, change, message = BROKEN[case]
    dataset = log(tmp_path, [change(e) for e in random_events(6)], header=header)
    with pytest.raises(InputError, match=message):
        make_lists(Config(), dataset, "train")


def test_a_log_without_topics_too_large_sets_and_no_users_for_rl_are_refused(tmp_path):
    dataset = log(tmp_path, random_events(7))
    bare = replace(dataset, catalogue=replace(dataset.catalogue, topics=None))
    with pytest.raises(InputError, match="need topics"):
        make_lists(Config(), bare, "train")
    with pytest.raises(InputError, match="enough events for a set of 9 of the valid part"):
        make_lists(replace(Config(), candidates=9), dataset, "valid")
    with pytest.raises(InputError, match="--fresh"):
        make_lists(Config(), replace(dataset, fresh=None), "train")


@pytest.mark.skipif(not MOVIELENS.is_dir(), reason="real data is not there")
def test_movielens_has_sets_for_every_need_and_the_item_mean_is_above_chance():
    cfg = Config(data=str(MOVIELENS / "ratings.csv.gz"), items=str(MOVIELENS / "movies.csv"), fresh=0.2)
    dataset, _ = logs.load(cfg)
    train, fresh = leave_fresh(dataset.train, cfg.fresh, cfg.seed)
    dataset = replace(dataset, train=train, fresh=fresh)
    parts = {part: make_lists(cfg, dataset, part) for part in ("train", "test")}
    assert {part: len(source) for part, source in parts.items()} == {"train": 1257, "test": 122}
    assert ((parts["train"].gains.sum(2) > 0).double().mean(1) > 0.9).all()
    found = list_floors(parts["train"], parts["test"], len(dataset.catalogue), seed=0)
    gap = found["item mean"]["interest"] - found["random"]["interest"]
    assert gap.mean() > 2 * gap.std() / math.sqrt(len(gap))  # fixed data; 3.9 errors when this was written
