"""The published vectors: as this code makes them, and as plain Python finds them without torch."""

import json
import re
import subprocess
import sys

import pytest

from tests import literal
from tests.make_vectors import FOLDER, MAKERS

SINGLE = {"advantages", "prefix_score", "expected_group_gradient"}  # rounded to float32
VECTORS = {name: json.loads((FOLDER / f"{name}.json").read_text()) for name in MAKERS}


def close(values, single=False):
    """Float32: its rounding, 6e-8, on both sides. Float64: sums of a few numbers in another order."""
    return pytest.approx(values, rel=2e-7 if single else 1e-12, abs=1e-9 if single else 1e-15)


def same(published, found, single=False):
    """Compare two pieces of JSON, floats closely and all else exactly."""
    assert type(published) is type(found)
    if isinstance(published, dict):
        assert list(published) == list(found)
        for name, value in published.items():
            same(value, found[name], single or name in SINGLE)
    elif isinstance(published, list):
        assert len(published) == len(found)
        for pair in zip(published, found, strict=True):
            same(*pair, single)
    elif isinstance(published, float):
        assert found == close(published, single)
    else:
        assert published == found


@pytest.mark.parametrize("name", MAKERS)
def test_the_published_vectors_are_those_of_this_code(name):
    same(VECTORS[name], json.loads(json.dumps(MAKERS[name]())))


def test_advantages_follow_from_the_page():
    data = VECTORS["advantages"]
    assert len(data["conventions"]) == len(data["advantages"]) == 5
    for convention, settings in data["conventions"].items():
        for name, rewards in data["rewards"].items():
            found = literal.advantages(rewards, **settings)
            assert data["advantages"][convention][name] == close(found, single=True)
            if name in ("silent_0.7", "alone"):
                assert set(data["advantages"][convention][name]) == {0.0}


def test_swap_rewards_follow_from_the_page():
    data = VECTORS["swap"]
    assert {case["cut"] for case in data["lists"]} == {None, 2}
    for case in data["lists"]:
        gains, cut = case["gains"], case["cut"]
        best = literal.ideal(gains, len(gains), cut)
        assert case["ideal"] == close(best)
        assert case["ndcg"] == close(literal.ndcg(gains, best, cut))
        for form in ("causal", "noncausal", "independent"):
            # a mean of differences of NDCG, each known to 1e-16 of 1 and not of itself
            assert case[form] == pytest.approx(literal.credit(gains, best, form, cut), rel=1e-12, abs=1e-14)
    group = data["group"]
    best = literal.ideal(group["gains"][0], 3)
    for form, found in group["advantages"].items():
        rewards = [literal.credit(gains, best, form) for gains in group["gains"]]
        columns = [literal.advantages(column) for column in zip(*rewards, strict=True)]
        for k, column in enumerate(columns):
            assert [row[k] for row in found] == close(column, single=True)
    us = [literal.list_variance(variance, best) for variance in group["variance"]]
    assert group["list_variance"] == close(us)
    assert group["trust"] == close(literal.trust(us))


def test_gates_follow_from_the_page():
    seen = set()
    for case in VECTORS["gate"]["cases"]:
        items, said, reward = case["items"], case["policy_scores"], case["ranker_scores"]
        ranks = (
            literal.rank(said, items, case["target_policy_score"], case["target"]),
            literal.rank(reward, items, case["target_ranker_score"], case["target"]),
            [
                literal.rank(reward, items, score, item)
                for score, item in zip(case["negatives_ranker_scores"], case["negatives"], strict=True)
            ],
        )
        assert ranks == (case["rank_policy"], case["rank_target"], case["rank_negatives"])
        for decision in case["decisions"]:
            found = literal.gate(*ranks, len(items), decision["tau"], decision["rho"])
            assert found == (decision["D"], decision["Q"], decision["alpha"])
            seen.add(found[:2])
    assert len(seen) == 4  # every outcome of the two halves


def test_repair_and_contrast_follow_from_the_page():
    for case in VECTORS["recast"]["cases"]:
        codes, targets, likelihood = case["codes"], case["targets"], case["log_likelihood"]
        assert case["hits"] == [int(code in targets) for code in codes]
        scores = [literal.prefix_score(code, targets) for code in codes]
        assert case["prefix_score"] == close(scores, single=True)
        place = literal.repair(codes, targets, likelihood)
        assert case["repair"] == place
        before = literal.contrast(codes, targets, likelihood)
        assert case["contrast_without_repair"] == (before and list(before))
        mended = [targets[0] if i == place else code for i, code in enumerate(codes)]
        after = literal.contrast(mended, targets, likelihood)
        assert case["contrast"] == (after and list(after))


def test_gradients_follow_from_the_page():
    data = VECTORS["gradient"]
    logits, rewards = data["logits"], data["rewards"]
    p = literal.softmax(logits)
    assert data["probabilities"] == close(p)
    assert data["expected_reward"] == close(sum(a * r for a, r in zip(p, rewards, strict=True)))
    exact = literal.policy_gradient(logits, rewards)
    assert data["policy_gradient"] == close(exact)
    for name, settings in data["conventions"].items():
        found = literal.expected_group_gradient(logits, rewards, data["group"], **settings)
        # sums of advantages up to 1, each rounded to float32
        assert data["expected_group_gradient"][name] == pytest.approx(found, abs=1e-7)
    assert data["expected_group_gradient"]["rloo"] == pytest.approx(exact, abs=1e-7)
    assert data["expected_group_gradient"]["dr_grpo"] == pytest.approx([g * 2 / 3 for g in exact], abs=1e-7)


BY_NAME = {"conventions", "rewards", "advantages", "expected_group_gradient"}  # keys beneath are names


def fields(value):
    """Every field inside a piece of JSON."""
    if isinstance(value, list):
        return set().union(*map(fields, value))
    if not isinstance(value, dict):
        return set()
    return set(value).union(*(fields(part) for name, part in value.items() if name not in BY_NAME))


@pytest.mark.parametrize("name", MAKERS)
def test_the_page_names_every_field(name):
    page = (FOLDER / "README.md").read_text()
    own = page[page.index(f"**{name}.json**") :].split("\n\n")[0]
    settings = set(VECTORS["advantages"]["conventions"]["rloo"])
    expected = fields(VECTORS[name]) | (settings if name == "advantages" else set())
    assert not {field for field in expected if f"`{field}" not in own}


def test_the_program_on_the_page_runs_and_says_ok():
    program = re.search(r"```python\n(.*?)```", (FOLDER / "README.md").read_text(), re.S)[1]
    root = FOLDER.parent.parent
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 35
    assert all(line.startswith("ok") for line in lines), done.stdout
