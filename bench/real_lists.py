"""FlexRec on a real log: ratings as gains, genres as topics, time stamps for the trend; item means beside it.

    python -m minirec.train --data ml-latest-small/ratings.csv --epochs 25 --no-sasrec --fresh 0.4 \\
        --out runs/ml
    python -m bench.real_lists runs/ml

Rates are chosen on TUNING, a seed of its own, by validation; then all arms run with SEEDS, which draw other
orders of contexts, other needs and other list starts. Test lists are each user's last window; NDCG@5 is by
true ratings. Its values of every seed and list stand in the .json file beside the table.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import isnan, nan
from pathlib import Path

import torch

import minirec
from bench.claims import teach
from bench.seeds import keep
from bench.timing import heading
from minirec.data.lists import HELD_OUT, NEEDS, PARTS, ListSource, make_lists
from minirec.data.vectors import item_vectors
from minirec.measure.metrics import paired_bootstrap
from minirec.measure.rankings import ByNeed, list_floors, rank_for_needs, trained_needs
from minirec.models.critic import Critic, fill_lists, train_critic
from minirec.objectives import settings_of
from minirec.policy import Policy
from minirec.recommend import Recommender
from minirec.records import Lists
from minirec.run.lists import imitate, warm_start
from minirec.run.machine import keep_freed_memory
from minirec.tasks import Rankings

RATES, TUNING, SEEDS, STEPS = (1e-4, 3e-4, 1e-3), 900, (0, 1, 2), 100
ARMS = {
    "list-wise supervised": None,
    "list-level GRPO": ("list", {}),
    "FlexRec, not scaled": ("flexrec", {"uncertainty": "none"}),
    "FlexRec": ("flexrec", {"uncertainty": "context"}),
}
Feedback = Callable[[Lists], Lists]


def train_arm(
    run: Recommender, train: ListSource, feedback: Feedback, start: Policy, name: str, rate: float, seed: int
) -> Policy:
    """Train an arm on lists and what is seen of their gains."""
    if ARMS[name] is None:
        cfg = replace(run.cfg, seed=seed, rl_steps=STEPS, rl_rate=rate)
        return imitate(cfg, start, run.trie, train, lambda lists: feedback(lists).gains)
    objective, changes = ARMS[name]
    cfg = settings_of(run.cfg, objective, seed=seed, rl_steps=STEPS, rl_rate=rate, **changes)
    return teach(start, Rankings(cfg, run.trie, train, feedback))[0]


def trained(results: dict[str, torch.Tensor]) -> torch.Tensor:
    """NDCG@5, the mean over the trained needs, (S,); NaN where one of them has no gain."""
    return torch.stack([results[need] for need in NEEDS if need != HELD_OUT]).mean(0)


def kept(results: ByNeed) -> dict[str, list[float | None]]:
    """NDCG@5 of every list by need, as JSON has it; None where a list has no gain."""
    values = {need: results[need].tolist() for need in NEEDS}
    return {need: [None if isnan(x) else round(x, 6) for x in row] for need, row in values.items()}


def numbers(row: list[float | None]) -> torch.Tensor:
    """The values of a row of ``kept``, NaN for None."""
    return torch.tensor([nan if x is None else x for x in row], dtype=torch.float64)


def page(raw: dict) -> list[str]:
    """The table: means over seeds and lists, and differences to the list start and to list-level GRPO."""
    rates, rows = raw["rates"], {}
    for name, seeds in raw["arms"].items():
        values = [{need: numbers(seed[need]) for need in NEEDS} for seed in seeds]
        rows[name] = values, torch.stack([trained(seed) for seed in values]).mean(0)  # (S,)
    columns = [*NEEDS, "trained needs", "minus the list start", "minus list-level GRPO"]
    lines = [raw["sizes"], "", "| | rate | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for name, (seeds, mean) in rows.items():
        cells = [name, f"{rates[name]:g}" if name in rates else ""]
        cells += [f"{torch.stack([seed[need] for seed in seeds]).nanmean():.4f}" for need in NEEDS]
        cells.append(f"{mean.nanmean():.4f}")
        for other in ("list start", "list-level GRPO"):
            base = rows[other][1]
            both = ~(mean - base).isnan()
            interval = paired_bootstrap(mean[both], base[both], seed=0)
            cells.append("" if other == name else "{:+.4f} ({:+.4f} to {:+.4f})".format(*interval))
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Choose the rates, run the seeds, write their values and the table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "run", type=Path, help="run folder, trained with --fresh on a log with ratings and topics"
    )
    parser.add_argument("--out", type=Path, default=Path("bench/results"), help="folder [bench/results]")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    run = minirec.load(args.run)
    lists = {part: make_lists(run.cfg, run.dataset, part) for part in PARTS}
    vectors = item_vectors(run.dataset, run.cfg.seed)
    critic = train_critic(Critic(vectors, run.dataset.periods, 0), lists["train"], 0)
    starts = {
        seed: warm_start(replace(run.cfg, seed=seed), run.policy, run.trie, lists["train"])
        for seed in (TUNING, *SEEDS)
    }

    def arm(name: str, rate: float, seed: int, split: str) -> ByNeed:
        feedback = partial(fill_lists, critic)
        policy = train_arm(run, lists["train"], feedback, starts[seed], name, rate, seed)
        return rank_for_needs(policy, run.trie, lists[split])

    rates = {}
    for name in ARMS:
        means = [trained_needs(arm(name, rate, TUNING, "valid")).mean(0).nanmean().item() for rate in RATES]
        rates[name] = RATES[means.index(max(means))]
    floors = list_floors(lists["known"], lists["test"], len(run.trie), 0)
    rows = {floor: [results] for floor, results in floors.items()}
    rows["list start"] = [rank_for_needs(starts[seed], run.trie, lists["test"]) for seed in SEEDS]
    rows |= {name: [arm(name, rates[name], seed, "test") for seed in SEEDS] for name in ARMS}
    sizes = ", ".join(f"{part} {len(source):,}" for part, source in lists.items())
    group = settings_of(run.cfg, "flexrec").group
    sizes = f"lists: {sizes}; {STEPS} batches of {run.cfg.contexts} x {group}, seeds {SEEDS}"
    raw = {"head": heading("real_lists", "FlexRec on a real log"), "sizes": sizes, "rates": rates}
    raw |= {"arms": {name: [kept(results) for results in seeds] for name, seeds in rows.items()}}
    keep(args.out / "real_lists", raw, page)


if __name__ == "__main__":
    main()
