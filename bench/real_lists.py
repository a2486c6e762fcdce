"""FlexRec on a real log: ratings as gains, genres as topics, time stamps for the trend; item means beside it.

    python -m minirec.train --data ml-latest-small/ratings.csv --epochs 25 --no-sasrec --fresh 0.4 \\
        --out runs/ml
    python -m bench.real_lists runs/ml

Rates are chosen on TUNING, a seed of its own, by validation; then all arms run with SEEDS, which draw other
orders of contexts, other needs and other list starts. Test lists are each user's last window; NDCG@5 is by
true ratings.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

import minirec
from minirec import rankings
from minirec.data.lists import HELD_OUT, NEEDS, PARTS, floors, make_lists
from minirec.data.vectors import item_vectors
from minirec.measure.metrics import paired_bootstrap
from minirec.models.critic import Critic, train_critic
from minirec.objectives import OBJECTIVES
from minirec.run.arms import settings
from minirec.run.machine import Processes, keep_freed_memory
from minirec.run.reinforce import Reinforcement

RATES, TUNING, SEEDS, STEPS = (1e-4, 3e-4, 1e-3), 900, (0, 1, 2), 100
TRAINED = [need for need in NEEDS if need != HELD_OUT]
ARMS = {
    "list-wise supervised": None,
    "list-level GRPO": ("list", {}),
    "FlexRec, not scaled": ("flexrec", {"uncertainty": "none"}),
    "FlexRec": ("flexrec", {"uncertainty": "context"}),
}
Found = dict[str, torch.Tensor]  # need -> ndcg@5 by list, (S,), NaN where no candidate has a gain


def one_arm(run, lists, critic, first, name: str, rate: float, seed: int, split: str) -> Found:
    """Train an arm and measure it."""
    cfg = replace(run.cfg, seed=seed, list_rate=rate, list_steps=STEPS)
    processes = Processes(cfg)
    if ARMS[name] is None:
        seen = rankings.Rankings(cfg, run.trie, lists["train"], lists["valid"], critic, processes).feedback
        policy = rankings.imitate(cfg, first, run.trie, lists["train"], lambda x: seen(x)[0], STEPS)
    else:
        objective, changes = ARMS[name]
        cfg = replace(settings(cfg, objective), **changes)
        task = rankings.Rankings(cfg, run.trie, lists["train"], lists["valid"], critic, processes)
        loop = Reinforcement(cfg, first, task, OBJECTIVES[objective], processes)
        while loop.step < loop.steps:
            loop.update()
        policy = loop.policy
    return measured(run, policy, lists[split])


def measured(run, policy, source) -> Found:
    """NDCG@5 of the greedy rankings of all lists, by need."""
    found = rankings.by_need(policy, run.trie, source, torch.arange(len(source)))
    return {need: found[need][rankings.METRIC] for need in NEEDS}


def trained(found: Found) -> torch.Tensor:
    """The mean over the trained needs, (S,); NaN where one of them has no gain."""
    return torch.stack([found[need] for need in TRAINED]).mean(0)


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
        seed: rankings.warm_start(replace(run.cfg, seed=seed), run.policy, run.trie, lists["train"])
        for seed in (TUNING, *SEEDS)
    }
    rates = {}
    for name in ARMS:
        tuned = [one_arm(run, lists, critic, starts[TUNING], name, rate, TUNING, "valid") for rate in RATES]
        mean = [trained(found).nanmean().item() for found in tuned]
        rates[name] = RATES[mean.index(max(mean))]
    rows: dict[str, list[Found]] = {}
    flat = floors(lists["known"], lists["test"], len(run.trie), 0)
    for floor in ("random", "popularity", "item mean"):
        rows[floor] = [{need: flat[need][floor]["ndcg@5"] for need in NEEDS}]
    rows["list start"] = [measured(run, starts[seed], lists["test"]) for seed in SEEDS]
    for name in ARMS:
        rows[name] = [
            one_arm(run, lists, critic, starts[seed], name, rates[name], seed, "test") for seed in SEEDS
        ]
    columns = [*NEEDS, "trained needs", "minus the list start", "minus list-level GRPO"]
    sizes = ", ".join(f"{part} {len(source):,}" for part, source in lists.items())
    text = f"lists: {sizes}; {STEPS} batches of {run.cfg.contexts} x {run.cfg.list_group}, seeds {SEEDS}\n\n"
    text += "| | rate | " + " | ".join(columns) + " |\n" + "|---" * (len(columns) + 2) + "|\n"
    for name, seeds in rows.items():
        cells = [name, f"{rates[name]:g}" if name in rates else ""]
        cells += [f"{torch.stack([found[need] for found in seeds]).nanmean():.4f}" for need in NEEDS]
        own = torch.stack([trained(found) for found in seeds]).mean(0)  # (S,)
        cells.append(f"{own.nanmean():.4f}")
        for other in ("list start", "list-level GRPO"):
            base = torch.stack([trained(found) for found in rows[other]]).mean(0)
            both = ~(own - base).isnan()
            interval = paired_bootstrap(own[both], base[both], seed=0)
            cells.append("" if other == name else "{:+.4f} ({:+.4f} to {:+.4f})".format(*interval))
        text += "| " + " | ".join(cells) + " |\n"
    print(text)
    args.out.write_text(text)


if __name__ == "__main__":
    main()
