"""Metrics against slow transcriptions of their definitions."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minirec.data.dataset import Examples
from minirec.measure import metrics as M
from minirec.records import PAD

N = 12
quick = settings(max_examples=60, deadline=None)
lists = st.lists(st.integers(-1, N - 1), min_size=1, max_size=60)  # repeats, holes, longer than 50
sets = st.sets(st.integers(0, N - 1), min_size=1, max_size=N)
EXACT = 1e-12  # float64 sums in another order


def once(items):
    kept = []
    for item in items:
        if item == PAD or item not in kept:
            kept.append(item)
    return kept


def slow_metrics(items, targets):
    items, out = once(items), {}
    for k in M.KS:
        hits = [rank for rank, item in enumerate(items[:k], 1) if item in targets]
        ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(targets)) + 1))
        out[f"hr@{k}"] = float(bool(hits))
        out[f"recall@{k}"] = len(hits) / len(targets)
        out[f"ndcg@{k}"] = sum(1 / math.log2(rank + 1) for rank in hits) / ideal
        out[f"mrr@{k}"] = 1 / hits[0] if hits else 0.0
    return out


def law_of(weights):
    law = torch.tensor([weights], dtype=torch.float64)
    return law / law.sum(1, keepdim=True)


laws = st.lists(st.floats(0.01, 1), min_size=N, max_size=N).map(law_of)


@quick
@given(lists, sets)
def test_metrics_equal_their_definition(items, targets):
    padded = [*targets, PAD, PAD]
    got = M.metrics(torch.tensor([items]), torch.tensor([padded]))
    want = slow_metrics(items, targets)
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert got[name].dtype == torch.float64
        assert got[name].item() == pytest.approx(value, abs=EXACT), name


@quick
@given(lists, laws)
def test_expected_metrics_are_the_average_over_all_targets(items, law):
    got = M.expected_metrics(torch.tensor([items]), law)
    everyone = torch.arange(N)[:, None]
    each = M.metrics(torch.tensor([items]).expand(N, -1), everyone)
    assert got.keys() == each.keys()
    for name, value in each.items():
        assert got[name].item() == pytest.approx((law[0] * value).sum().item(), abs=EXACT), name


@quick
@given(lists, laws)
def test_the_ideal_order_is_the_best(items, law):
    best = M.expected_metrics(law.argsort(descending=True), law)
    got = M.expected_metrics(torch.tensor([items]), law)
    assert all(got[name] <= best[name] + EXACT for name in got)


def test_rows_do_not_mix():
    items, targets = torch.tensor([[1, 2, 3], [3, 1, -1]]), torch.tensor([[2, -1], [4, 3]])
    both = M.metrics(items, targets)
    for row in range(2):
        alone = M.metrics(items[row : row + 1], targets[row : row + 1])
        assert all(both[name][row] == alone[name][0] for name in both)


def test_holes_never_count_and_cost_their_rank():
    holes = torch.full((1, 5), -1)
    assert all(value.item() == 0 for value in M.metrics(holes, torch.tensor([[3, -1]])).values())
    assert all(value.item() == 0 for value in M.expected_metrics(holes, law_of([1.0] * N)).values())
    assert M.metrics(torch.tensor([[-1, 3]]), torch.tensor([[3, -1]]))["mrr@5"].item() == 0.5


def test_a_repeated_item_counts_once_and_frees_its_place():
    got = M.metrics(torch.tensor([[7, 7, 3, 3]]), torch.tensor([[3, 7]]))
    assert got["recall@5"].item() == 1  # not 2
    assert got["ndcg@5"].item() == 1  # 3 moves up to rank 2
    repeated = M.metrics(torch.tensor([[7, 3]]), torch.tensor([[3, 3, 7]]))  # targets are a set, too
    assert repeated["recall@1"].item() == 0.5


def test_a_context_without_target_is_an_error():
    with pytest.raises(ValueError, match="context 1 of the batch has none"):
        M.metrics(torch.tensor([[0], [1]]), torch.tensor([[0], [-1]]))


@quick
@given(lists, st.integers(1, 60))
def test_distinct(items, width):
    want = (once(items) + [PAD] * width)[:width]
    assert M.distinct(torch.tensor([items]), width).tolist() == [want]


@quick
@given(lists, st.lists(st.integers(-1, N - 1), max_size=8))
def test_drop_seen_keeps_the_order_of_the_rest(items, seen):
    left = [i for i in items if i == PAD or i not in seen]
    want = left + [PAD] * (len(items) - len(left))
    got = M.drop_seen(torch.tensor([items]), torch.tensor([seen], dtype=torch.int64))
    assert got.tolist() == [want]


def test_hallucination_reads_the_top_ten():
    items = torch.tensor([[-1] * 3 + [4] * 7 + [-1] * 40, [1] * 10 + [-1] * 40])
    assert M.hallucination(items).tolist() == [0.3, 0.0]


def test_coverage():
    items = torch.tensor([[0, 1, 2], [0, 3, -1]])
    assert M.coverage(items, catalogue=8, k=1) == 1 / 8
    assert M.coverage(items, catalogue=8, k=3) == 4 / 8  # padding is no item


def windows(events, spans):
    start, stop = torch.tensor(spans).T
    size = len(spans)
    return Examples(
        events=torch.tensor(events),
        start=start,
        stop=stop,
        user=torch.zeros(size, dtype=torch.int64),
        condition=torch.zeros(size, 4, dtype=torch.int64),
        targets=torch.empty(size, 0, dtype=torch.int64),
        tied=torch.zeros(size, dtype=torch.bool),
    )


def test_buckets_hold_a_third_of_the_training_events_each():
    events = [0] * 4 + [1] * 2 + [2] * 2 + [3, 4, 5, 6] + [6] * 50  # 12 of training, then held out
    train = windows(events, [(0, 8), (8, 12)])
    assert M.popularity_buckets(train, 8).tolist() == [0, 1, 1, 2, 2, 2, 2, 2]


@quick
@given(st.lists(st.integers(0, N - 1), min_size=1, max_size=40))
def test_buckets_fall_in_popularity(events):
    bucket = M.popularity_buckets(windows(events, [(0, len(events))]), N)
    count = torch.bincount(torch.tensor(events), minlength=N)
    order = count.argsort(descending=True, stable=True)
    assert (bucket[order].diff() >= 0).all()
    before = 0
    for item in order.tolist():
        assert bucket[item] == min(2, 3 * before // len(events))
        before += int(count[item])


@quick
@given(lists, laws, st.lists(st.integers(0, 2), min_size=N, max_size=N))
def test_buckets_split_recall(items, law, bucket):
    bucket = torch.tensor(bucket)
    found, mass = M.by_bucket(torch.tensor([items]), law, bucket).transpose(0, 1)
    top = [item for item in once(items)[:10] if item != PAD]
    for b in range(3):
        inside = sum(law[0, item].item() for item in top if bucket[item] == b)
        assert found[0, b].item() == pytest.approx(inside, abs=EXACT)
        assert mass[0, b].item() == pytest.approx(law[0, bucket == b].sum().item(), abs=EXACT)
    recall = M.expected_metrics(torch.tensor([items]), law)["recall@10"]
    assert found.sum().item() == pytest.approx(recall.item(), abs=EXACT)


def test_bootstrap_of_equal_methods_is_exactly_zero():
    values = torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert M.paired_bootstrap(values, values.clone(), seed=3) == (0.0, 0.0, 0.0)


def test_bootstrap_is_paired():
    generator = torch.Generator().manual_seed(0)
    b = 100 * torch.rand(400, dtype=torch.float64, generator=generator)  # spread far above the shift
    noise = torch.randn(400, dtype=torch.float64, generator=generator)
    difference, low, high = M.paired_bootstrap(b + 2 + noise, b, seed=1)
    assert difference == pytest.approx((2 + noise).mean().item())
    error = noise.std().item() / math.sqrt(400)
    # The percentile interval of a mean is ±1.96 standard errors; 2000 draws place its ends within 15 %.
    assert low == pytest.approx(difference - 1.96 * error, abs=0.15 * 1.96 * error)
    assert high == pytest.approx(difference + 1.96 * error, abs=0.15 * 1.96 * error)
    assert M.paired_bootstrap(b + 2 + noise, b, seed=1) == (difference, low, high)
    assert M.paired_bootstrap(b + 2 + noise, b, seed=2) != (difference, low, high)


def test_bootstrap_covers():
    # 95 % intervals of 200 samples with mean 0: the number that miss is about Binomial(200, .05 to .07).
    values = torch.randn(200, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    zero = torch.zeros(40, dtype=torch.float64)
    intervals = [M.paired_bootstrap(row, zero, seed=i, draws=300) for i, row in enumerate(values)]
    missed = sum(not low <= 0 <= high for _, low, high in intervals)
    assert 2 <= missed <= 27
