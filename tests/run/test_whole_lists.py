"""A run of rankings, every stage of it against the same stage written out."""

import itertools
import math
import shutil
from dataclasses import replace

import pytest
import torch

from minirec import evaluate, settings
from minirec.data.lists import HELD_OUT, NEEDS, PARTS, make_lists, needs_of_step
from minirec.data.vectors import item_vectors
from minirec.errors import InputError
from minirec.measure import report
from minirec.measure.rankings import list_floors
from minirec.models.critic import Critic, train_critic
from minirec.run import lists
from minirec.run.lists import ListArms
from tests import literal, literal_run, whole_run
from tests.literal_run import (
    assert_lines,
    assert_moved_alike,
    estimates,
    exact,
    likelihood,
    say,
    sets_of,
    uniform,
)
from tests.small_experience import closed

CLIP = 0.9  # of the control
RATE = 5e-4  # of the list start, and of the arms, as the command line names none
TRAINED = [need for need in NEEDS if need != HELD_OUT]
COMPARED = ("FlexRec", "list-level GRPO")
ARMS = {"flexrec": ("causal", True), "list": ("list", False)}  # credit, and whether the variance counts


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        flags = "--objective flexrec --candidates 3 --feedback 0.5 --contexts 5 --group 6 --no-sasrec".split()
        return whole_run.run(tmp_path_factory.mktemp("lists"), patch, *flags)


@pytest.fixture(scope="module")
def sources(run):
    return {part: make_lists(run.cfg, run.dataset, part) for part in PARTS}


@pytest.fixture(scope="module")
def critic(run):
    model = Critic(item_vectors(run.dataset, run.cfg.seed), run.dataset.periods)
    model.load_state_dict(torch.load(run.folder / "critic.pt", weights_only=True)["weights"])
    return model.requires_grad_(False).eval()


@pytest.fixture(scope="module")
def start(run):
    return whole_run.weights(run, "lists.pt", "weights")


def test_the_critic_learns_from_the_lists_of_training(run, sources, critic):
    untrained = Critic(item_vectors(run.dataset, run.cfg.seed), run.dataset.periods, run.cfg.seed)
    again = train_critic(untrained, sources["train"], run.cfg.seed, whole_run.CRITIC_STEPS)
    assert all(torch.equal(value, critic.state_dict()[name]) for name, value in again.state_dict().items())


def test_the_list_start_imitates_the_order_of_the_supervised_policy(run, sources, start):
    supervised, trie = run.trained(), run.trie

    def scores(rows, batch, sets, gains):
        return literal_run.next_item_scores(exact(supervised), trie, batch, sets)

    how = (sources["train"], lists.WARM, RATE, scores)
    by_hand, norms = literal_run.imitate(run.cfg, supervised, trie, *how)
    assert max(norms) > run.cfg.clip
    assert_moved_alike(start, by_hand, supervised)


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_is_adam_on_the_loss_of_its_own_rankings(run, sources, critic, start, arm):
    cfg = replace(run.cfg, rl_rate=RATE)
    by_hand, lines = literal_run.rankings(cfg, start, run.trie, sources["train"], critic, *ARMS[arm])
    assert all(line["gradient_norm"] > cfg.clip for line in lines)
    assert_lines(whole_run.lines(run.folder / arm)[1:], lines)
    assert_moved_alike(whole_run.weights(run, f"{arm}/checkpoint.pt", "policy"), by_hand, start)


def test_the_control_imitates_the_gains_that_training_knows(run, sources, critic, start, tmp_path):
    """It has the steps and the rate of an arm."""
    for name in ("checkpoint.pt", "critic.pt", "lists.pt"):
        shutil.copy(run.folder / name, tmp_path)
    arm = replace(settings.read(run.folder / "flexrec" / "config.json"), rl_steps=2, rl_rate=0.01, clip=CLIP)
    moved = replace(run, cfg=replace(run.cfg, out=str(tmp_path)))
    arms, source = ListArms(moved, run.trained(), sources), sources["train"]
    before = {name: weight.clone() for name, weight in arms.start.state_dict().items()}
    control = arms.control(arm)
    assert all(weight.equal(before[name]) for name, weight in arms.start.state_dict().items())

    def known(rows, batch, sets, gains):
        return literal_run.known(critic, batch, sets, gains, source.observed[rows].tolist())[0]

    by_hand, norms = literal_run.imitate(arm, start, run.trie, source, 2, 0.01, known)
    assert min(norms) < CLIP < max(norms)  # so that Adam sees by what the loss is divided
    assert_moved_alike(control, by_hand, start)


def test_a_batch_of_more_sets_than_there_are_is_refused(run, sources):
    many = len(sources["train"]) + 1
    with pytest.raises(InputError, match=f"--contexts: {many} is not valid"):
        ListArms(replace(run, cfg=replace(run.cfg, contexts=many)), run.trained(), sources)


def ndcg(cfg, policy, trie, source):
    """By need, the NDCG@5 of the greedy ranking of every set; NaN where nothing can be gained."""
    found = {}
    for place, need in enumerate(NEEDS):
        batch, sets, gains = sets_of(cfg, source, torch.arange(len(source)), [place] * len(source))
        legal, found[need] = closed(trie, torch.tensor(sets)), []
        for b, candidates in enumerate(sets):
            said = say(policy, batch, trie, b, [[None] * trie.levels] * len(candidates), legal)
            order = [gains[b][candidates.index(trie.codes.tolist().index(code))] for code in said]
            best = literal.ideal(gains[b], len(candidates), 5)
            found[need].append(literal.ndcg(order, best, 5) if best > 0 else math.nan)
    return found


def mean(values):
    """The mean of the sets that have something to gain."""
    real = [value for value in values if not math.isnan(value)]
    return sum(real) / len(real)


def probed(run, policy, start, step, source):
    """The numbers of the probe, with the truth from all orders of every set."""
    cfg, trie, rows = run.cfg, run.trie, torch.arange(len(source))
    batch, sets, gains = sets_of(cfg, source, rows, needs_of_step(cfg.seed, 2**20, len(rows)).tolist())
    legal, codes, size = closed(trie, torch.tensor(sets)), trie.codes.tolist(), len(sets[0])
    noise, rewards = uniform("rollouts", cfg, step, len(rows), cfg.group, size, trie.levels), []
    truth = {"exact_reward": 0.0, "exact_entropy": 0.0, "exact_kl": 0.0}
    for b, candidates in enumerate(sets):
        worth = dict(zip(candidates, gains[b], strict=True))
        best = literal.ideal(gains[b], size)
        group = [say(policy, batch, trie, b, u, legal) for u in noise[b]]
        orders = [[worth[codes.index(code)] for code in said] for said in group]
        rewards.append([literal.ndcg(order, best) for order in orders])
        for order in itertools.permutations(candidates):
            said = [codes[item] for item in order]
            logp, before = (likelihood(each, batch, trie, b, said, legal) for each in (policy, start))
            value = literal.ndcg([worth[item] for item in order], best)
            for name, x in zip(truth, (value, -logp, logp - before), strict=True):
                truth[name] += math.exp(logp) * x / len(sets)
    found = estimates(torch.tensor(rewards, dtype=torch.float64))
    return truth | {name: value.mean().item() for name, value in found.items()}


def test_a_line_has_the_estimates_and_the_truth_of_the_probe_and_of_validation(run, sources, start):
    start, valid, lines = exact(start), sources["valid"], whole_run.lines(run.folder / "flexrec")
    assert len(valid) <= 32  # so that all are in the probe
    for step, policy in ((0, start), (3, exact(whole_run.weights(run, "flexrec/checkpoint.pt", "policy")))):
        want = probed(run, policy, start, step, valid)
        found = ndcg(run.cfg, policy, run.trie, valid)
        want["ndcg@5"] = sum(mean(found[need]) for need in TRAINED) / 3
        assert_lines([lines[step]], [want])


def test_every_way_of_ranking_is_measured_on_the_lists_of_the_test(run, sources, start):
    rows, test, cfg = whole_run.table(run.folder, "lists.json"), sources["test"], run.cfg
    policies = {
        "list start": start,
        "list-wise supervised": whole_run.weights(run, "supervised_lists.pt", "weights"),
        "FlexRec": whole_run.weights(run, "flexrec/checkpoint.pt", "policy"),
        "list-level GRPO": whole_run.weights(run, "list/checkpoint.pt", "policy"),
    }
    by_set = {name: ndcg(cfg, exact(policy), run.trie, test) for name, policy in policies.items()}
    want = {name: {need: mean(v) for need, v in found.items()} for name, found in by_set.items()}
    floors = list_floors(sources["known"], test, len(run.trie), cfg.seed)
    want |= {
        name: {need: values.nanmean().item() for need, values in by_need.items()}
        for name, by_need in floors.items()
    }
    assert rows.keys() == want.keys()
    for name, means in want.items():
        assert {need: rows[name][need] for need in NEEDS} == pytest.approx(means, rel=1e-6), name
    lines = [
        [sum(by_set[name][need][k] for need in TRAINED) / 3 for k in range(len(test))] for name in COMPARED
    ]
    more = mean([one - other for one, other in zip(*lines, strict=True)])
    assert abs(more) > 1e-4
    title = "FlexRec minus list-level GRPO, ndcg@5, mean of the trained needs"
    assert f"{title}: {more:+.4f} " in (run.folder / "report.md").read_text()


def test_evaluate_repeats_the_lists_and_their_notes_and_trains_nothing(run, monkeypatch, capsys):
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    monkeypatch.setattr("sys.argv", ["evaluate", "--run", str(run.folder)])
    evaluate.main()
    shown, rows = capsys.readouterr().out, whole_run.table(run.folder, "lists.json")
    assert report.table(list(rows.values()), ["method", *NEEDS]) in shown
    sets, difference = shown.splitlines()[-2:]
    page = (run.folder / "report.md").read_text()
    assert f"- {sets}\n" in page
    assert difference.split(" (95")[0] in page  # the run draws fewer resamples for its interval
    assert before == {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
