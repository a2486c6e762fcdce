"""A run of next items, every stage of it against the same stage written out."""

import shutil
from dataclasses import replace

import pytest
import torch

from minirec import evaluate
from minirec.data import codes
from minirec.data.dataset import contexts
from minirec.data.vectors import item_vectors
from minirec.measure import evaluation, report
from minirec.measure.exact import entropy, expected_reward, item_logprobs
from minirec.measure.exact import kl as divergence
from minirec.run import experiment
from minirec.run.folder import find_run
from minirec.run.training import epoch_rows, learning_rate
from tests import literal_run, whole_run
from tests.literal_run import (
    Adam,
    assert_lines,
    assert_moved_alike,
    contexts_of,
    estimates,
    exact,
    uniform,
)
from tests.small_experience import catalogue

RATE = 0.02  # of the arms


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("items")
        return whole_run.run(folder, patch, "--objective", "grpo", "--rl-rate", str(RATE))


def ndcg(policy, trie, examples, history, top):
    """The mean NDCG@10 of contexts with one target each, among the ``top`` likeliest items."""
    batch, total = contexts_of(examples, torch.arange(len(examples)), history), 0.0
    logp = item_logprobs(policy, policy.encode(batch.condition, trie.encode(batch.history)), trie)
    for row, target in zip(logp, batch.targets[:, 0], strict=True):
        place = row.argsort(descending=True).tolist().index(target)
        total += 1 / torch.tensor(place + 2.0).log2().item() if place < min(10, top) else 0.0
    return total / len(batch)


@pytest.fixture(scope="module")
def supervised(run):
    """The supervised policy after every epoch, from its start, and the lines of metrics."""
    cfg, trie, train = run.cfg, run.trie, run.dataset.train
    with torch.random.fork_rng():
        torch.manual_seed(cfg.seed)
        start = run.untrained().eval()
    now, seen = exact(start, learns=True), train.lengths.clamp(max=cfg.history + 1)
    adam, policies, lines = Adam(now, cfg.clip, decay=0.01), [start], []
    per_epoch = len(epoch_rows(seen, cfg.batch, cfg.seed, 0))
    for epoch in range(cfg.epochs):
        total, items = 0.0, 0
        for i, rows in enumerate(epoch_rows(seen, cfg.batch, cfg.seed, epoch)):
            batch = contexts_of(train, rows, cfg.history + 1)
            loss = sum(literal_run.nll(now, batch, trie, b) for b in range(len(rows)))
            total, count = total + loss.item(), int((batch.history >= 0).sum())
            rate = learning_rate(epoch * per_epoch + i, cfg.epochs * per_epoch, cfg)
            adam.step(loss / (count * trie.levels), rate)
            items += count
        norms = adam.norms[-per_epoch:]
        lines.append({"nll": total / items, "gradient_norm": sum(norms) / per_epoch})
        lines[-1]["ndcg@10"] = ndcg(now, trie, run.dataset.valid, cfg.history, top=20)
        policies.append(exact(now))
    return policies, lines


def test_codes_are_fitted_to_what_supervised_training_sees(run):
    cfg, own = run.cfg, replace(run.dataset, fresh=None)
    fitted = [
        codes.fit(item_vectors(data, cfg.seed), cfg.levels, cfg.codes, cfg.seed).codes
        for data in (own, replace(own, train=run.dataset.known))
    ]
    assert torch.equal(run.trie.codes, fitted[0])
    assert not torch.equal(*fitted)


def test_supervised_training_is_adamw_on_the_nll_of_every_item(run, supervised):
    policies, lines = supervised
    assert_lines(whole_run.lines(run.folder), lines)
    assert_moved_alike(whole_run.weights(run, "checkpoint.pt", "policy"), policies[-1], policies[0])


def test_the_weights_that_were_best_on_validation_go_on(run, supervised):
    policies, lines = supervised
    best = max(range(len(lines)), key=lambda epoch: lines[epoch]["ndcg@10"])
    assert 0 < best < len(lines) - 1  # neither the first nor the last
    for policy in (whole_run.weights(run, "checkpoint.pt", "best"), run.trained()):
        assert_moved_alike(policy, policies[best + 1], policies[0])


@pytest.mark.parametrize("arm", ["grpo", "continued"])
def test_an_arm_is_adam_on_the_loss_of_its_own_rollouts(run, arm):
    cfg, start = replace(run.cfg, rl_rate=RATE), run.trained()
    fresh = contexts(run.dataset.fresh)
    by_hand, lines = literal_run.next_items(cfg, start, run.trie, fresh, learn=arm == "grpo")
    assert all(line["gradient_norm"] > cfg.clip for line in lines)
    assert all(0 < line["silent"] < 1 for line in lines)
    assert_lines(whole_run.lines(run.folder / arm)[1:], lines)
    assert_moved_alike(whole_run.weights(run, f"{arm}/checkpoint.pt", "policy"), by_hand, start)


def probed(run, policy, start, step):
    """The numbers of the probe, with an item's expected reward by its probability."""
    cfg, trie, valid = run.cfg, run.trie, run.dataset.valid
    rows = torch.arange(len(valid))  # all 40, as there may be 64
    batch, items = contexts_of(valid, rows, cfg.history), trie.codes.tolist()
    noise = uniform("rollouts", cfg, step, len(rows), cfg.group, trie.levels)
    rewards = torch.zeros(len(rows), cfg.group, dtype=torch.float64)
    for b, group in enumerate(noise):
        for g, u in enumerate(group):
            said = literal_run.say(policy, batch, trie, b, [u], catalogue(trie))
            rewards[b, g] = items.index(said[0]) == batch.targets[b, 0]
    values = estimates(rewards)
    prompts = [each.encode(batch.condition, trie.encode(batch.history)) for each in (policy, start)]
    now, before = (item_logprobs(*of, trie) for of in zip((policy, start), prompts, strict=True))
    target = torch.nn.functional.one_hot(batch.targets[:, 0], len(trie)).double()
    values |= {"exact_reward": expected_reward(now, target), "exact_entropy": entropy(now)}
    return {name: float(x.mean()) for name, x in (values | {"exact_kl": divergence(now, before)}).items()}


def test_a_line_has_the_estimates_and_the_truth_of_the_probe_and_of_validation(run):
    cfg, start = run.cfg, exact(run.trained())
    lines = whole_run.lines(run.folder / "grpo")
    for step, policy in ((0, start), (3, exact(whole_run.weights(run, "grpo/checkpoint.pt", "policy")))):
        want = probed(run, policy, start, step)
        want["ndcg@10"] = ndcg(policy, run.trie, run.dataset.valid, cfg.history, top=20)
        assert_lines([lines[step]], [want])


def test_every_method_of_the_report_is_measured_on_the_test_split(run, monkeypatch, capsys):
    rows, cfg = whole_run.table(run.folder), run.cfg
    assert (run.folder / "sasrec").is_dir()
    sasrec = find_run(run.folder / "sasrec", torch.device("cpu"))
    assert (sasrec.trie.levels, run.trie.levels) == (1, 2)
    policies = {"SASRec": (sasrec.trained(), sasrec.trie), "supervised": (run.trained(), run.trie)}
    for arm, name in (("continued", "supervised continued"), ("grpo", "GRPO")):
        policies[name] = whole_run.weights(run, f"{arm}/checkpoint.pt", "policy"), run.trie
    want = {
        name: ndcg(policy, trie, run.dataset.test, cfg.history, top=cfg.beam)
        for name, (policy, trie) in policies.items()
    }
    assert len(set(want.values())) == 4
    assert rows.keys() >= want.keys()
    assert {name: rows[name]["ndcg@10"] for name in want} == pytest.approx(want, rel=1e-6)
    monkeypatch.setattr("sys.argv", ["evaluate", "--run", str(run.folder)])
    evaluate.main()
    shown = capsys.readouterr().out
    assert report.table(list(rows.values()), report.MAIN) in shown  # as train printed it, with the arms
    assert report.table(list(rows.values()), report.MORE) in shown


def test_what_is_left_out_or_not_at_its_end_is_said(run, tmp_path):
    moved = tmp_path / "run"
    shutil.copytree(run.folder, moved)
    (moved / "grpo").rename(moved / "best")
    log = moved / "continued" / "metrics.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))
    results = experiment.measured(find_run(moved, torch.device("cpu")), "test")
    assert results.arms == ("supervised continued",)
    first, second = results.notes
    assert first.startswith("best: left out")
    assert second == "continued: not at its end"


def popular(events, targets):
    """ndcg@10 of a ranking by the number of events, against one target each."""
    order = torch.bincount(events, minlength=whole_run.ITEMS).argsort(descending=True, stable=True).tolist()
    places = [order.index(target) for target in targets[:, 0].tolist()]
    return sum(1 / torch.tensor(place + 2.0).log2().item() for place in places if place < 10) / len(places)


def test_floors_know_what_came_before_the_targets_and_no_more(run):
    data = run.dataset
    assert len(data.fresh)
    assert data.test.user.tolist() == data.valid.user.tolist() == list(range(whole_run.USERS))
    for split in ("valid", "test"):
        examples = getattr(data, split)
        spans = zip(examples.start.tolist(), examples.stop.tolist(), strict=True)
        events = torch.cat([examples.events[a:b] for a, b in spans])  # of every user up to the target
        want = popular(events, examples.targets)
        got = evaluation.floors(data, examples, run.cfg, split)["popularity"].values["ndcg@10"].mean().item()
        assert got == pytest.approx(want)
    assert whole_run.table(run.folder)["popularity"]["ndcg@10"] == pytest.approx(want)


def test_all_methods_are_measured_on_the_same_sample_of_test_contexts(run):
    cfg = replace(run.cfg, test_contexts=9)
    results = experiment.measured(replace(run, cfg=cfg), "test")
    assert {row["contexts"] for row in results.rows} == {9}
    assert report.text(results, 0).startswith("test split, 9 contexts of 40, a random sample; ")
    test = evaluation.sample(run.dataset.test, 9, cfg.seed)
    want = ndcg(run.trained(), run.trie, test, cfg.history, top=cfg.beam)
    got = results.methods["supervised"].values["ndcg@10"].mean().item()
    assert got == pytest.approx(want, rel=1e-6)
