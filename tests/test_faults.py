"""Planted bugs: each is one line in a copy of the project, and must turn the test named beside it red."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
COPIES = 2  # that tests run in at the same time

FAULTS = {  # name: file, the line's part that is right, what takes its place, the tests that must notice
    "scored without the sampler's mask": (
        "policy.py",
        "logp = token_logprobs(policy.logits(hidden), allowed, temperature)",
        "logp = token_logprobs(policy.logits(hidden), None, temperature)",
        "test_rollout.py::test_sampler_scorer_and_enumeration_agree",
    ),
    "a target off by one": (
        "data/contexts.py",
        "targets=sequences.events[stop][:, None]",
        "targets=sequences.events[stop - 1][:, None]",
        "data/test_contexts.py::test_every_item_but_a_users_first_is_a_target_once_with_its_whole_past",
    ),
    "the sign of the KL": (
        "objectives/loss.py",
        "return kl * k3(logp, reference) - torch",
        "return -kl * k3(logp, reference) - torch",
        "objectives/test_grpo.py::test_the_gradient_is_that_of_the_formula_written_out",
    ),
    "the surviving rows as divisor": (
        "objectives/loss.py",
        "/ (size * signal.width)",
        "/ (len(signal.rows) * signal.width)",
        "objectives/test_recast.py::test_the_gradient_is_that_of_the_formula_written_out",
    ),
    "a sum over tokens instead of their mean": (
        "objectives/loss.py",
        "tokens.mean((2, 3)).sum()",
        "tokens.sum((2, 3)).sum()",
        "objectives/test_grpo.py::test_the_gradient_is_that_of_the_formula_written_out",
    ),
    "an anchor with a stale log-probability": (
        "objectives/loss.py",
        "before = logp.detach() if old is None else old",
        "before = reference if old is None else old",
        "objectives/test_recast.py::test_the_gradient_is_that_of_the_formula_written_out",
    ),
    "the bounds of the clip exchanged": (
        "objectives/loss.py",
        "ratio.clamp(1 - low, 1 + high)",
        "ratio.clamp(1 - high, 1 + low)",
        "objectives/test_loss.py::test_the_clip_acts_only_beyond_its_bounds_and_only_where_the_step_would_go_further",
    ),
    "credit to the tokens of the item before": (
        "objectives/loss.py",
        "advantages[..., None]",
        "advantages.roll(-1, 2)[..., None]",
        "objectives/test_flexrec.py::test_the_gradient_is_that_of_the_formula_written_out",
    ),
    "the biased std": (
        "ops/reference.py",
        "(n - ddof).clamp(min=1)",
        "n.clamp(min=1)",
        "objectives/test_grpo.py::test_advantages_are_the_formula_written_out_and_sum_to_zero",
    ),
    "leave-one-out upside down": (
        "ops/reference.py",
        "x * n / (n - 1).clamp(min=1)",
        "x * (n - 1).clamp(min=1) / n",
        "objectives/test_grpo.py::test_advantages_are_the_formula_written_out_and_sum_to_zero",
    ),
    "naive centring": (
        "ops/reference.py",
        "(reward - reward.gather(1, first)[:, place])",
        "reward",
        "objectives/test_grpo.py::test_a_flat_group_has_advantages_of_exactly_zero",
    ),
    "no baseline": (
        "ops/reference.py",
        "(x - total(x) / n)",
        "x",
        "objectives/test_grpo.py::test_advantages_are_the_formula_written_out_and_sum_to_zero",
    ),
    "the gate inverted": (
        "objectives/adagrpo.py",
        "return rank_policy > tau * group,",
        "return rank_policy <= tau * group,",
        "objectives/test_adagrpo.py::test_the_thresholds_are_ranks_and_their_edges_are_where_the_formula_has_them",
    ),
    "ties by float, not by identity": (
        "objectives/adagrpo.py",
        " & (items[:, :, None] != placed[:, None])",
        "",
        "objectives/test_adagrpo.py::test_equal_items_tie_by_identity_though_another_pass_differs_by_a_millionth",
    ),
    "negatives out of the own group": (
        "objectives/adagrpo.py",
        "taken = torch.cat([items[part], targets], 1)",
        "taken = targets",
        "objectives/test_adagrpo.py::test_negatives_are_distinct_items_of_others_only_and_padded_when_too_few",
    ),
    "the tie rule of repair reversed": (
        "objectives/recast.py",
        "choose(-score[rows], -likelihood[rows])",
        "choose(-score[rows], likelihood[rows])",
        "objectives/test_recast.py::test_ties_of_repair_go_to_the_least_likely_then_the_first",
    ),
    "repair of groups that have a hit": (
        "objectives/recast.py",
        "(hits.sum(1) == 0).nonzero()",
        "(hits.sum(1) <= 1).nonzero()",
        "objectives/test_recast.py::test_repair_changes_no_group_that_has_a_hit_and_gives_one_to_every_other",
    ),
    "swaps with the items already placed": (
        "ops/reference.py",
        "pad(values[:, 1:].flip(1).cumsum(1).flip(1), (0, 1))",
        "pad(values[:, :-1].cumsum(1), (1, 0))",
        "test_rewards.py::test_swap_rewards_are_what_really_swapping_two_entries_changes",
    ),
    "the sign of the swap reward": (
        "ops/reference.py",
        "x * u - t",
        "t - x * u",
        "test_rewards.py::test_swap_rewards_are_what_really_swapping_two_entries_changes",
    ),
    "discounts off by one rank": (
        "ops/reference.py",
        "torch.log2(rank + 1)",
        "torch.log2(rank + 2)",
        "test_rewards.py::test_discounts_are_those_of_dcg",
    ),
    "contexts without any gain are kept": (
        "objectives/flexrec.py",
        "rows = (ideal > 0).nonzero()",
        "rows = (ideal >= 0).nonzero()",
        "objectives/test_flexrec.py::test_contexts_with_nothing_to_gain_are_left_out_of_rows_and_of_the_mean_variance",
    ),
    "a reference that learns with the policy": (
        "loop.py",
        "self.policy = copy.deepcopy(start).eval()",
        "self.policy = self.reference",
        "test_loop.py::test_the_kl_of_the_loss_is_to_the_start_however_far_the_policy_has_gone",
    ),
    "a stream without its step": (
        "noise.py",
        "if len(numbers) != len(USES[use]):",
        "if len(numbers) > len(USES[use]):",
        "test_noise.py::test_a_stream_is_made_from_all_the_numbers_of_its_use_as_a_step_0_is_no_missing_step",
    ),
    "two uses of one stream": (
        "noise.py",
        "list(USES).index(use)",
        "list(USES).index(use) % 13",
        "test_noise.py::test_streams_of_different_uses_seeds_or_steps_differ_and_equal_ones_agree",
    ),
    "beams that pass for samples": (
        "rollout.py",
        ", sampled=False)",
        ")",
        "test_loop.py::test_beams_are_no_samples_so_they_estimate_no_entropy",
    ),
    "one update in place of several": (
        "loop.py",
        "for _ in range(cfg.updates):",
        "for _ in range(1):",
        "test_loop.py::test_several_updates_are_so_many_steps_of_adam_on_the_same_loss",
    ),
    "the pools of the swaps exchanged": (
        "objectives/flexrec.py",
        '{"causal": "later", "noncausal": "all"}',
        '{"causal": "all", "noncausal": "later"}',
        "objectives/test_flexrec.py::test_the_gradient_is_that_of_the_formula_written_out",
    ),
    "an objective's defaults over the command line": (
        "objectives/__init__.py",
        "if key not in given",
        "if key not in changes",
        "run/test_experiment.py::test_an_arm_has_its_objectives_defaults_unless_the_command_line_says_otherwise",
    ),
    "a bisection that takes the wrong half": (
        "measure/exact.py",
        ".sum(-1, keepdim=True) > 1",
        ".sum(-1, keepdim=True) < 1",
        "measure/test_exact.py::test_without_a_reward_the_reference_is_the_optimum_code_by_code_as_well",
    ),
}


def pytest_of(copy: Path, *tests: str) -> subprocess.CompletedProcess:
    """Run tests of a copy, with the fixed examples of CI and without plugins: most of the time is start.

    Without kernels too, as bugs are planted in their twins."""
    fixed = {
        "CI": "true",
        "MINIREC_NO_EXT": "1",
        "OMP_NUM_THREADS": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests],
        cwd=copy,
        env=os.environ | fixed | {"PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What the tests say about every fault, and about no fault at all (None)."""
    copies: Queue[Path] = Queue()
    for _ in range(COPIES):
        copy = tmp_path_factory.mktemp("copy")
        for part in ("minirec", "tests"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        copies.put(copy)

    def outcome(name: str | None) -> subprocess.CompletedProcess:
        copy = copies.get()
        try:
            if name is None:
                return pytest_of(copy, *sorted({f"tests/{fault[3]}" for fault in FAULTS.values()}))
            file, right, wrong, test = FAULTS[name]
            path = copy / "minirec" / file
            text = path.read_text()
            path.write_text(text.replace(right, wrong))
            try:
                return pytest_of(copy, f"tests/{test}")
            finally:
                path.write_text(text)
        finally:
            copies.put(copy)

    with ThreadPoolExecutor(COPIES) as pool:
        names = [None, *FAULTS]
        return dict(zip(names, pool.map(outcome, names), strict=True))


def test_without_a_fault_all_named_tests_pass(outcomes):
    assert outcomes[None].returncode == 0, outcomes[None].stdout


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_bug_turns_its_test_red(outcomes, fault):
    file, right, _, test = FAULTS[fault]
    times = (ROOT / "minirec" / file).read_text().count(right)
    assert times == 1, f"{file} has this {times} times, and a fault changes one place: {right}"
    done = outcomes[fault]
    assert done.returncode == 1, done.stdout  # tests ran and one failed; 2 to 5 are errors of another kind
    assert "1 failed" in done.stdout
    by_assertion = rf"^FAILED tests/{re.escape(test)}.* - (AssertionError|assert )"
    assert re.search(by_assertion, done.stdout, re.MULTILINE), done.stdout
