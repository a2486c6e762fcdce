"""FlexRec on a real log: ratings as gains, genres as topics, time stamps for the trend; item means beside it.

    python -m minirec.train --data ml-latest-small/ratings.csv --epochs 25 --no-sasrec --fresh 0.4 \\
        --out runs/ml
    python -m bench.real_lists runs/ml

Rates are chosen on TUNING, a seed of its own, by validation; then all arms run with SEEDS, which draw other
orders of contexts, other needs and other list starts. Test lists are each user's last window; NDCG@5 is by
true ratings.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

import minirec
from bench.claims import teach
from minirec.data.lists import NEEDS, PARTS, ListSource, make_lists
from minirec.data.vectors import item_vectors
from minirec.measure.metrics import paired_bootstrap
from minirec.measure.rankings import METRIC, ByNeed, list_floors, rank_for_needs, trained_needs
from minirec.models.critic import Critic, fill_lists, train_critic
from minirec.objectives import settings_of
from minirec.policy import Policy
from minirec.records import Lists
from minirec.run.lists import imitate, warm_start
from minirec.run.machine import keep_freed_memory
from minirec.run.recommender import Recommender
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


def trained(results: ByNeed) -> torch.Tensor:
    """NDCG@5, the mean over the trained needs, (S,); NaN where one of them has no gain."""
    return trained_needs(results).mean(0)


def main() -> None:
    """Choose the rates, run the seeds, write the table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "run", type=Path, help="run folder, trained with --fresh on a log with ratings and topics"
    )
    parser.add_argument("--out", type=Path, default=Path("bench/results/real_lists.md"), help="file")
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
        means = [trained(arm(name, rate, TUNING, "valid")).nanmean().item() for rate in RATES]
        rates[name] = RATES[means.index(max(means))]
    floors = list_floors(lists["known"], lists["test"], len(run.trie), 0)
    rows: dict[str, list[ByNeed]] = {floor: [results] for floor, results in floors.items()}
    rows["list start"] = [rank_for_needs(starts[seed], run.trie, lists["test"]) for seed in SEEDS]
    rows |= {name: [arm(name, rates[name], seed, "test") for seed in SEEDS] for name in ARMS}
    columns = [*NEEDS, "trained needs", "minus the list start", "minus list-level GRPO"]
    sizes = ", ".join(f"{part} {len(source):,}" for part, source in lists.items())
    group = settings_of(run.cfg, "flexrec").group
    text = f"lists: {sizes}; {STEPS} batches of {run.cfg.contexts} x {group}, seeds {SEEDS}\n\n"
    text += "| | rate | " + " | ".join(columns) + " |\n" + "|---" * (len(columns) + 2) + "|\n"
    for name, seeds in rows.items():
        cells = [name, f"{rates[name]:g}" if name in rates else ""]
        for need in NEEDS:
            cells.append(f"{torch.stack([results[need][METRIC] for results in seeds]).nanmean():.4f}")
        values = torch.stack([trained(results) for results in seeds]).mean(0)  # (S,)
        cells.append(f"{values.nanmean():.4f}")
        for other in ("list start", "list-level GRPO"):
            base = torch.stack([trained(results) for results in rows[other]]).mean(0)
            both = ~(values - base).isnan()
            interval = paired_bootstrap(values[both], base[both], seed=0)
            cells.append("" if other == name else "{:+.4f} ({:+.4f} to {:+.4f})".format(*interval))
        text += "| " + " | ".join(cells) + " |\n"
    print(text)
    args.out.write_text(text)


if __name__ == "__main__":
    main()
