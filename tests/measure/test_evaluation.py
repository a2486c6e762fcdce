from dataclasses import replace

import pytest
import torch

from minirec import rollout
from minirec.errors import InputError
from minirec.measure import baselines, evaluation, metrics
from minirec.measure.exact import item_logprobs
from tests.small_run import CFG, ITEMS, USERS, make_dataset, make_policy

PLAIN = replace(CFG, keep_seen=True)


def scorer(batch):
    """Scores that depend on the context, so that a mixed-up order shows; no equal ones."""
    return torch.sin(1.7 * batch.user[:, None] + torch.arange(ITEMS)[None] ** 2 + 0.1)


def fixed_law(batch):
    law = 1 + torch.cos(batch.user[:, None] + 3.0 * torch.arange(ITEMS)).double()
    return law / law.sum(1, keepdim=True)


def test_a_scorer_gets_its_metrics_in_the_order_of_the_examples():
    data = make_dataset()
    result = evaluation.evaluate_scorer(scorer, data, data.test, PLAIN)
    everything = data.test.batch(torch.arange(USERS), 4)
    order = scorer(everything).argsort(1, descending=True)
    assert torch.equal(result.items[:, :ITEMS], order)
    assert (result.items[:, ITEMS:] == -1).all()
    want = metrics.metrics(order, data.test.targets)
    assert want.keys() == result.values.keys()
    assert all(torch.equal(result.values[name], want[name]) for name in want)
    assert torch.equal(result.tied, data.test.tied)


@pytest.mark.parametrize("law", [None, fixed_law])
def test_batches_do_not_change_the_result(monkeypatch, law):
    data, (policy, trie) = make_dataset(law), make_policy()
    run = lambda: evaluation.evaluate_policy(policy, trie, data, data.test, CFG, full=False)  # noqa: E731
    whole = run()
    monkeypatch.setattr(evaluation, "MOST_CONTEXTS", 1)
    single = run()
    # The beam is wider where a neighbour in the batch has seen more; its first places do not depend on it.
    assert torch.equal(whole.items[:, :5], single.items[:, :5])
    for name in ("hr@5", "ndcg@5"):
        assert torch.equal(whole.values[name], single.values[name])


def test_batches_cover_every_row_once_and_keep_to_the_limit(monkeypatch):
    monkeypatch.setattr(evaluation, "MOST_NUMBERS", 100)
    lengths = torch.tensor([3, 50, 1, 20, 200, 7, 7])
    parts = list(evaluation.batches(lengths, lambda length: 2 * length))
    assert sorted(torch.cat(parts).tolist()) == list(range(7))
    assert all(len(rows) == 1 or len(rows) * 2 * lengths[rows].max() <= 100 for rows in parts)
    assert len(parts) < 7


def test_seen_items_are_left_out_and_the_lists_stay_full():
    data, (policy, trie) = make_dataset(), make_policy()
    batch = data.test.batch(torch.arange(USERS), 4)
    results = evaluation.floors(data, data.test, CFG)
    results["supervised"] = evaluation.evaluate_policy(policy, trie, data, data.test, CFG, full=False)
    for result in results.values():
        for items, seen in zip(result.items.tolist(), batch.seen.tolist(), strict=True):
            assert not set(items) & {item for item in seen if item >= 0}
            assert all(item >= 0 for item in items[: CFG.beam])
    kept = evaluation.evaluate_policy(policy, trie, data, data.test, PLAIN, full=False)
    assert not torch.equal(kept.items, results["supervised"].items)


def test_the_recency_of_item_knn_is_the_best_on_validation(monkeypatch):
    data = make_dataset()
    quality = {}
    for recency in (0.01, 0.5, 1.0):
        scorer = baselines.item_knn(data.known, ITEMS, recency)
        result = evaluation.evaluate_scorer(scorer, data, data.valid, PLAIN)
        quality[recency] = result.values["ndcg@10"].mean().item()
    order = sorted(quality, key=quality.get)
    assert quality[order[0]] < quality[order[-1]]
    for recencies in (order, order[::-1]):  # whichever stands first
        monkeypatch.setattr(baselines, "RECENCY", tuple(recencies))
        found = evaluation.floors(data, data.test, PLAIN)["item-kNN"]
        scorer = baselines.item_knn(baselines.before_test(data), ITEMS, order[-1])
        want = evaluation.evaluate_scorer(scorer, data, data.test, PLAIN)
        assert torch.equal(found.items, want.items)


def test_the_policy_is_ranked_by_its_exact_probabilities():
    data, (policy, trie) = make_dataset(), make_policy()
    cfg = replace(PLAIN, beam=ITEMS)
    result = evaluation.evaluate_policy(policy, trie, data, data.test, cfg, full=False)
    batch = data.test.batch(torch.arange(USERS), 4)
    logp = item_logprobs(policy, policy.encode(batch.condition, trie.encode(batch.history)), trie)
    assert torch.equal(result.items[:, :ITEMS], logp.argsort(1, descending=True))


def test_full_evaluation_adds_samples_and_holes():
    data, (policy, trie) = make_dataset(), make_policy()
    policy.train()
    result = evaluation.evaluate_policy(policy, trie, data, data.test, CFG)
    assert not policy.training
    again = evaluation.evaluate_policy(policy, trie, data, data.test, CFG)
    assert all(torch.equal(result.values[name], again.values[name]) for name in result.values)
    batch = data.test.batch(torch.arange(USERS), 4)
    prompt = policy.encode(batch.condition, trie.encode(batch.history))
    free = rollout.beam(policy, prompt, trie, 50, constrained=False)[0]
    assert torch.equal(result.values["hallucination"], (free[:, :10] == -1).double().mean(1))
    assert 0 < result.values["hallucination"].mean() < 1
    assert (result.values["pass@5"] >= result.values["pass@1"]).all()
    assert 0 < result.values["pass@5"].mean() < 1
    assert (
        "pass@1"
        not in evaluation.evaluate_policy(policy, trie, data, data.test, replace(CFG, samples=0)).values
    )


@pytest.mark.parametrize("keep_seen", [False, True])
def test_pass_at_k_is_of_samples_and_not_of_the_beam(keep_seen):
    data, (policy, trie) = make_dataset(), make_policy()
    again = data.test.targets.clone()  # every second user comes back to the first item
    again[::2, 0] = data.test.events[data.test.start[::2]]
    data = replace(data, test=replace(data.test, targets=again))
    cfg = replace(CFG, keep_seen=keep_seen, samples=5)
    result = evaluation.evaluate_policy(policy, trie, data, data.test, cfg)
    (rows,) = evaluation.batches(data.test.lengths, lambda length: 1)  # one batch, longest first
    batch = data.test.batch(rows, 4)
    noise = torch.rand(
        USERS, cfg.samples, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(cfg.seed)
    )
    prompt = policy.encode(batch.condition, trie.encode(batch.history))
    drawn = rollout.sample(policy, prompt, trie, noise).items[..., 0]
    hit = (drawn == batch.targets).any(1)  # one target; all five samples
    known = (batch.seen == batch.targets).any(1)
    assert (hit & known).any()
    want = hit if keep_seen else hit & ~known
    assert torch.equal(result.values["pass@5"][rows], want.double())


def at(row, stem):
    """The K at which a row has a metric."""
    return [int(name.split("@")[1]) for name in row if name.startswith(f"{stem}@")]


@pytest.mark.parametrize("law", [None, fixed_law])
@pytest.mark.parametrize(
    ("beam", "places"),
    [(1, [1]), (9, [1, 5]), (12, [1, 5, 10]), (ITEMS - 1, [1, 5, 10, 20]), (ITEMS, [*metrics.KS])],
)
def test_what_was_not_searched_is_not_measured(law, beam, places):
    data, (policy, trie) = make_dataset(law), make_policy()
    cfg = replace(CFG, beam=beam)
    row = evaluation.summary(evaluation.evaluate_policy(policy, trie, data, data.test, cfg))
    for stem in ("hr", "recall", "ndcg", "mrr", "coverage"):
        assert at(row, stem) == places, stem
    for name in ("tail recall@10", "tied recall@10", "tied ndcg@10"):
        assert (name in row) == (10 in places), name
    assert at(row, "pass") == [1, 5]  # of 6 samples
    floors = evaluation.floors(data, data.test, cfg)  # which rank the whole catalogue
    assert all(at(evaluation.summary(floor), "recall") == [*metrics.KS] for floor in floors.values())


def test_a_sample_of_contexts_is_random_the_same_for_a_seed_and_none_at_all_for_0():
    test = make_dataset().test
    few = [evaluation.sample(test, 9, seed).user.tolist() for seed in (0, 0, 1)]
    assert few[0] == few[1] != few[2]
    assert len(set(few[0])) == 9
    assert max(few[0]) > 9 < max(few[2])
    for count in (0, USERS, USERS + 1):
        assert evaluation.sample(test, count, 0) is test


def test_target_sets_are_shared_out_over_the_buckets():
    data = make_dataset()
    pairs = torch.stack([torch.arange(USERS), torch.arange(USERS) + 3], 1)
    pairs[::2, 1] = -1
    result = evaluation.evaluate_scorer(scorer, data, replace(data.test, targets=pairs), PLAIN)
    assert torch.allclose(result.buckets[:, 1].sum(1), torch.ones(USERS).double())
    assert torch.allclose(result.buckets[:, 0].sum(1), result.values["recall@10"])
    assert 0 < result.values["recall@10"].mean() < 1


def test_a_law_gives_expected_metrics():
    data = make_dataset(fixed_law)
    best = evaluation.evaluate_scorer(lambda batch: fixed_law(batch).float(), data, data.test, PLAIN)
    law = fixed_law(data.test.batch(torch.arange(USERS), 4))
    top = law.sort(1, descending=True).values
    assert torch.allclose(best.values["hr@10"], top[:, :10].sum(1), rtol=0, atol=1e-6)  # float32 near ties
    assert torch.allclose(best.buckets[:, 1].sum(1), torch.ones(USERS).double())


def test_summary_holds_together():
    data, (policy, trie) = make_dataset(), make_policy()
    result = evaluation.evaluate_policy(policy, trie, data, data.test, CFG)
    row = evaluation.summary(result)
    assert row["contexts"] == USERS
    assert row["ndcg@10"] == pytest.approx(result.values["ndcg@10"].mean().item())
    share = result.buckets[:, 1].sum(0) / USERS
    by_bucket = sum(
        share[i].item() * row.get(f"{name} recall@10", 0.0) for i, name in enumerate(metrics.BUCKETS)
    )
    assert by_bucket == pytest.approx(row["recall@10"])
    assert row["tied share"] == 1 / 3
    assert row["tied ndcg@10"] == pytest.approx(result.values["ndcg@10"][::3].mean().item())
    untied = evaluation.summary(replace(result, tied=torch.zeros(USERS, dtype=torch.bool)))
    assert not any(name.startswith("tied") for name in untied)


def test_every_number_of_a_row_is_defined():
    data, (policy, trie) = make_dataset(), make_policy()
    row = evaluation.summary(evaluation.evaluate_policy(policy, trie, data, data.test, CFG))
    for name in row:
        stem, _, k = name.partition("@")
        assert name in metrics.DEFINITIONS or (f"{stem}@K" in metrics.DEFINITIONS and int(k) in metrics.KS), (
            name
        )


def test_an_empty_split_is_one_line():
    data = make_dataset()
    with pytest.raises(InputError, match="no contexts"):
        evaluation.floors(data, data.test.select(torch.arange(0)), CFG)
