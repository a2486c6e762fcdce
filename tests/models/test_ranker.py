"""Rankers against slow transcriptions, what they may not see, and where they are right and wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from minirec.data.dataset import Examples, contexts, leave_fresh
from minirec.data.world import World, make_world, squash, true_score
from minirec.errors import InputError
from minirec.measure.rankings import hr10, ordered
from minirec.models.ranker import ExposureRanker, LogRanker, designed, trained_on_exposures, trained_on_log
from minirec.records import HOLE, PAD, Batch
from minirec.settings import Config
from tests.small import examples, log, random_log

ITEMS, HISTORY = 30, 4


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(Config(world_items=512, world_users=1000, seed=3))


@pytest.fixture(scope="module")
def clicked(world: World) -> list[ExposureRanker]:
    """Two rankers from two logs of 500 impressions per user, with other weights at the start."""
    return [trained_on_exposures(world, 500_000, seed) for seed in (0, 1)]


def batch(histories: list[list[int]], users: list[int] | None = None) -> Batch:
    made = examples(histories).batch(torch.arange(len(histories)), 100)
    return made if users is None else replace(made, user=torch.tensor(users))


def random_log_ranker(seed: int = 0) -> LogRanker:
    """A ranker with large random weights."""
    model, random = LogRanker(ITEMS, HISTORY), torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape, generator=random))
    return model


# --- scores -----------------------------------------------------------------------------------------------


def test_the_log_ranker_equals_its_slow_transcription() -> None:
    model, asked = random_log_ranker(), [[3, 7, 3, 9, 1, 4], [5], []]
    scores = model(batch(asked), torch.arange(ITEMS).expand(3, -1))
    vector, age = model.item.double(), model.age[:, 0].double()
    for row, history in zip(scores, asked, strict=True):
        for item in range(ITEMS):
            z = model.log_q[item].double() + (model.again.double() if item in history else 0)
            for past, other in enumerate(reversed(history)):
                z = z + age[min(past, HISTORY - 1)] * (vector[other] @ vector[item])
            expected = 0.5 + 0.5 * z / (1 + z.abs())
            # float32 sums of 64 products of size 10, whose slope in the score is at most one half
            torch.testing.assert_close(row[item].double(), expected, rtol=0, atol=1e-4)


def test_the_exposure_ranker_equals_its_slow_transcription() -> None:
    random = torch.Generator().manual_seed(0)
    model = ExposureRanker(5, torch.randn(ITEMS, 8, generator=random))
    for tensor in model.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape, generator=random))
    users, items = [4, 0, 4], torch.tensor([[1, 2], [2, 29], [0, 1]])
    scores = model(batch([[1], [], [2, 3]], users), items)
    for b, user in enumerate(users):
        for c, item in enumerate(items[b].tolist()):
            own = model.features[item] @ model.map + model.shift
            z = (model.offset + model.user[user] @ own).double()
            torch.testing.assert_close(
                scores[b, c].double(), 0.5 + 0.5 * z / (1 + z.abs()), rtol=0, atol=1e-4
            )


kinds = st.sampled_from(["log", "exposures", "right", "noise", "harmful"])


@settings(max_examples=40, deadline=None)
@given(kind=kinds, rows=st.integers(1, 5), width=st.integers(2, 37), padding=st.integers(0, 9))
def test_equal_items_have_equal_bits_wherever_they_stand(
    world: World, kind: str, rows: int, width: int, padding: int
) -> None:
    model = {
        "log": lambda: random_log_ranker(),
        "exposures": lambda: ExposureRanker(9, torch.randn(ITEMS, 8)),
    }.get(kind, lambda: designed(world, kind))()
    if kind == "exposures":
        torch.nn.init.normal_(model.map)
    items = (torch.arange(rows * width) * 7 % ITEMS).view(rows, width)
    items[:, -1] = HOLE
    whole = batch([[3, 7, 9, row, 1][: row + 1] for row in range(rows)], list(range(rows)))
    scores = model(whole, items)
    assert scores.dtype == torch.float32
    assert (scores[:, -1] == 0).all()
    assert (scores[:, :-1] > 0).all()
    assert (scores < 1).all()
    wide = replace(whole, history=torch.nn.functional.pad(whole.history, (0, padding), value=PAD))
    assert torch.equal(model(wide, items), scores)
    for row in range(rows):
        one = whole.select(torch.tensor([row]))
        for column in range(width):
            assert model(one, items[row : row + 1, column : column + 1])[0, 0] == scores[row, column]


@given(st.floats(-1e38, 1e38), st.floats(-1e38, 1e38))
def test_squash_is_monotone_and_never_reaches_0_or_1(a: float, b: float) -> None:
    low, high = squash(torch.tensor(sorted([a, b])))
    assert 0 < low <= high < 1


def test_squash_by_hand() -> None:
    assert squash(torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0])).tolist() == [0.125, 0.25, 0.5, 0.75, 0.875]


# --- what a ranker may see --------------------------------------------------------------------------------


def test_no_target_of_rl_validation_or_test_is_among_the_examples() -> None:
    sequences = random_log(60, 6, torch.ones(ITEMS))
    whole = log(sequences, keep_out=2)
    train, fresh = leave_fresh(whole.train, 0.3, seed=0)
    dataset = replace(whole, train=train, fresh=fresh)
    read = torch.zeros(len(train.events), dtype=torch.bool)
    for start, stop in zip(train.start.tolist(), train.stop.tolist(), strict=True):
        read[start:stop] = True
    assert 0 < read.sum() < len(read)
    poisoned = torch.where(read, train.events, (train.events + 11) % ITEMS)

    def poison(part: Examples) -> Examples:
        return replace(part, events=poisoned, targets=(part.targets + 11) % ITEMS)

    other = replace(
        dataset,
        train=replace(train, events=poisoned),
        fresh=poison(fresh),
        valid=poison(dataset.valid),
        test=poison(dataset.test),
    )
    one, same = (trained_on_log(d, HISTORY, seed=0).state_dict() for d in (dataset, other))
    assert all(torch.equal(one[name], same[name]) for name in one)
    seen = replace(dataset, train=replace(train, events=torch.where(read, poisoned.flip(0), poisoned)))
    assert not torch.equal(trained_on_log(seen, HISTORY, seed=0).item, one["item"])  # the test can fail


def test_equal_seeds_give_equal_bits_others_do_not_and_the_global_generator_is_left_alone(
    world: World,
) -> None:
    small, dataset = (
        make_world(Config(world_items=30, world_users=100)),
        log(random_log(50, 5, torch.ones(ITEMS))),
    )
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for train in (lambda s: trained_on_log(dataset, 4, s), lambda s: trained_on_exposures(small, 20_000, s)):
        one, same, other = (train(seed).state_dict() for seed in (0, 0, 1))
        assert all(torch.equal(one[name], same[name]) for name in one)
        assert not all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_state_dict_brings_a_trained_ranker_back(world: World, clicked: list[ExposureRanker]) -> None:
    dataset, items = log(random_log(50, 5, torch.ones(ITEMS))), torch.arange(ITEMS).expand(2, -1)
    asked = batch([[1, 2], [3]], [5, 6])
    trained = trained_on_log(dataset, HISTORY, 0)
    again = LogRanker(ITEMS, HISTORY, seed=9)
    again.load_state_dict(trained.state_dict())
    assert torch.equal(again(asked, items), trained(asked, items))
    again = ExposureRanker(1000, torch.zeros_like(world.features), seed=9)
    again.load_state_dict(clicked[0].state_dict())
    assert torch.equal(again(asked, items), clicked[0](asked, items))


def test_a_log_without_two_events_of_one_user_is_refused() -> None:
    with pytest.raises(InputError, match="no training user has two events"):
        trained_on_log(log([[1], [2]]), HISTORY, 0)


# --- training events --------------------------------------------------------------------------------------


def test_the_logq_correction_brings_popularity_back() -> None:
    weight = 0.5 ** torch.arange(8.0)  # what came before tells nothing, so the order is that of popularity
    dataset = log(random_log(2000, 5, weight, seed=1), items=8)
    model = trained_on_log(dataset, HISTORY, seed=0)
    order = model(batch([[]]), torch.arange(8)[None])[0].argsort(descending=True)
    assert order.tolist() == list(range(8))
    # log p is log q + a constant here. The vectors may not unlearn it: within a factor of 2, where the
    # popularities span one of 128.
    asked = batch(random_log(200, 4, weight, seed=2))
    learned = model.query(asked.history) @ model.item.T  # (200, 8) log p - log q
    spread = learned.mean(0)[:5]  # items with a hundred events and more
    assert spread.max() - spread.min() < torch.tensor(2.0).log()


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_items_of_the_history_have_the_probability_with_which_they_came_again(share: float) -> None:
    random = torch.Generator().manual_seed(0)
    sequences = [torch.randperm(ITEMS, generator=random)[:5].tolist() for _ in range(300)]
    for sequence in sequences[: round(share * 300)]:
        sequence[3] = sequence[1]
    dataset = log(sequences)
    model = trained_on_log(dataset, HISTORY, seed=0)
    asked = contexts(dataset.train)
    asked = asked.batch(torch.arange(len(asked)), HISTORY)
    everything = torch.arange(ITEMS).expand(len(asked), -1)
    known = model.known(asked.history, everything)
    assert torch.equal(known, (asked.history[:, :, None] == everything[:, None]).any(1))
    z = model.query(asked.history) @ model.item.T + model.log_q + model.again * known
    wanted = (known.gather(1, asked.targets).sum() + 0.5) / (len(asked) + 1)
    # float32 sums; the fixed point has converged far below that
    torch.testing.assert_close((z.softmax(1) * known).sum(1).mean(), wanted, rtol=1e-3, atol=0)


def test_the_log_ranker_is_above_popularity_and_below_the_law() -> None:
    dataset = make_world(Config(world_items=100, world_users=2000)).dataset()
    own = hr10(trained_on_log(dataset, 6, seed=0), dataset, dataset.valid, 6)
    everything = dataset.valid.batch(torch.arange(len(dataset.valid)), 6)
    best = dataset.law(everything).topk(10).values.sum(1).mean().item()
    popular = torch.bincount(dataset.train.events, minlength=100).topk(10).indices
    floor = dataset.law(everything)[:, popular].sum(1).mean().item()
    # The law is exact and the seed is fixed: a third of the way from popularity to the best there is.
    assert floor + (best - floor) / 3 < own < best


# --- impressions ------------------------------------------------------------------------------------------


def within(a: Tensor, b: Tensor) -> float:
    """Correlation of two scores (B, C) over the items of a context, mean over contexts."""
    a, b = (x.double() - x.double().mean(1, keepdim=True) for x in (a, b))
    return ((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))).mean().item()


def test_the_exposure_ranker_is_right_where_the_log_exposes(
    world: World, clicked: list[ExposureRanker]
) -> None:
    users = torch.arange(300)
    share = ordered(clicked[0], world, batch([[]] * 300, users.tolist()))
    tail = world.tail_user[users]
    a, b = share[~tail], share[tail]
    assert a.mean() - 4 * a.std() / len(a) ** 0.5 > 0.8  # four standard errors
    assert b.mean() + 4 * b.std() / len(b) ** 0.5 < 0.6


def test_the_exposure_ranker_is_wrong_in_the_tail_with_a_system(
    world: World, clicked: list[ExposureRanker]
) -> None:
    users = world.tail_user.nonzero()[:200, 0]
    items = world.tail.nonzero()[:, 0].expand(200, -1)
    asked = batch([[]] * 200, users.tolist())
    one, other = (model(asked, items) for model in clicked)
    true = true_score(world, users, items)
    # What the features would be worth if they meant in B what they mean in A: a ridge regression on A.
    x = torch.cat([world.features, torch.ones(512, 1)], 1).double()
    a = x[~world.tail]
    meaning = torch.linalg.solve(a.T @ a + 0.1 * torch.eye(65), a.T @ world.latent[~world.tail])
    reading = (world.taste[users] @ (x @ meaning).T)[:, world.tail]
    # Noise would correlate with neither: 256 items and 200 users give it a standard error of .0044.
    assert within(one, other) > 0.4
    assert within(one, reading) > 0.3
    assert within(one, true) < 0.5 * within(one, reading)
    in_a = clicked[0](asked, (~world.tail).nonzero()[:, 0].expand(200, -1))
    assert one.std(1).mean() > 0.5 * in_a.std(1).mean()  # nearly as sure of itself as in A
