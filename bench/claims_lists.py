"""Which of FlexRec's orderings hold on the built-in world.

    python -m bench.claims_lists --jobs 2

As ``bench/claims.py``: every seed is a world and a supervised policy of its own, and a list start from
which all arms begin; rates are chosen on a TUNING seed, by validation, and the table is of the test lists of
SEEDS. The metric is NDCG@5 of the greedy ranking by true gains. Three questions: which form of credit; how
to fill in the feedback that is missing; whether scaling by the critic's variance helps.
"""

from __future__ import annotations

import argparse
import copy
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import torch

from bench.claims import BASE, SEEDS, TUNING, Start, begin, interval
from minirec import rankings
from minirec.data.lists import HELD_OUT, NEEDS, ListSource, floors, item_mean, make_lists
from minirec.data.vectors import item_vectors
from minirec.models.critic import Critic, train_critic
from minirec.objectives import OBJECTIVES
from minirec.policy import Policy
from minirec.run.arms import settings
from minirec.run.reinforce import Reinforcement
from minirec.settings import Config

RATES = (2e-4, 1e-3)
FULL = {"feedback": 1.0, "uncertainty": "none"}
SPARSE = {"feedback": 0.1, "uncertainty": "none"}
TABLES: dict[str, dict[str, tuple[str, str, dict]]] = {  # arm -> objective, what fills gaps, settings
    "credit, 10 candidates, all gains observed": {
        "list-level GRPO": ("list", "zero", FULL),
        "independent": ("flexrec", "zero", {**FULL, "credit": "independent"}),
        "non-causal": ("flexrec", "zero", {**FULL, "credit": "noncausal"}),
        "causal (FlexRec)": ("flexrec", "zero", FULL),
    },
    "feedback, one gain in ten observed": {
        "zero": ("flexrec", "zero", SPARSE),
        "item mean": ("flexrec", "item mean", SPARSE),
        "critic mean": ("flexrec", "critic", SPARSE),
        "critic mean, scaled per context": ("flexrec", "critic", {**SPARSE, "uncertainty": "context"}),
        "critic mean, scaled per rollout": ("flexrec", "critic", {**SPARSE, "uncertainty": "rollout"}),
    },
}


class ItemMean(torch.nn.Module):
    """Fills gaps with the mean gain of the item for the need; of variance it knows nothing."""

    def __init__(self, train: ListSource, items: int) -> None:
        super().__init__()
        self.mean = item_mean(train, items).float()  # (needs, N)

    def forward(self, batch, items):
        """As ``Critic.forward``; the variance is 0."""
        novel, trend = (batch.condition[:, k] - 1 for k in (1, 2))
        place = torch.tensor([0, 2, 1, 3])[2 * novel + trend]  # the order of NEEDS
        mean = self.mean[place[:, None], items]
        return mean, torch.zeros_like(mean)


def reinforce(
    start: Start, first: Policy, lists: dict[str, ListSource], critic: torch.nn.Module | None, cfg: Config
) -> Policy:
    """Run one arm from the list start."""
    task = rankings.Rankings(cfg, start.trie, lists["train"], lists["valid"], critic, start.processes)
    loop = Reinforcement(cfg, first, task, OBJECTIVES[cfg.objective], start.processes)
    while loop.step < loop.steps:
        loop.update()
    return loop.policy


def judge(start: Start, policy: Policy, source: ListSource) -> dict[str, float]:
    """NDCG@5 by need, and the mean over the trained ones."""
    found = rankings.by_need(policy, start.trie, source, torch.arange(len(source)))
    values = {need: 100 * found[need][rankings.METRIC].nanmean().item() for need in NEEDS}
    own = [value for need, value in values.items() if need != HELD_OUT]
    return values | {"trained needs": sum(own) / len(own)}


def one_seed(job: tuple[int, dict[str, float], str]) -> dict[str, dict[str, float]]:
    """All arms on one seed; ``rates`` maps an arm to its rate, or "all" to one for all."""
    seed, rates, split = job
    start = begin(replace(BASE, seed=seed, list_steps=60))
    found: dict[str, dict[str, float]] = {}
    first = None
    for table, arms in TABLES.items():
        for name, (objective, filler, changes) in arms.items():
            key = f"{table}: {name}"
            cfg = replace(start.cfg, **changes, list_rate=rates.get(key, rates.get("all", 0.0)))
            own = replace(settings(cfg, objective), uncertainty=changes["uncertainty"])
            lists = {
                part: make_lists(cfg, start.dataset, part, start.world) for part in ("train", "valid", split)
            }
            if first is None:  # the lists are the same whatever part of the feedback is observed
                first = rankings.warm_start(cfg, start.policy, start.trie, lists["train"], "cpu")
                found["list start"] = judge(start, first, lists[split])
                known = make_lists(replace(cfg, feedback=1.0), start.dataset, "known", start.world)
                for floor in ("random", "item mean"):
                    values = floors(known, lists[split], len(start.trie), seed)
                    by = {need: 100 * values[need][floor]["ndcg@5"].nanmean().item() for need in NEEDS}
                    mean = sum(value for need, value in by.items() if need != HELD_OUT) / 3
                    found[floor] = by | {"trained needs": mean}
            critic = None
            if filler == "item mean":
                critic = ItemMean(lists["train"], len(start.trie))
            if filler == "critic":
                vectors = item_vectors(start.dataset, seed)
                critic = train_critic(Critic(vectors, start.dataset.periods, seed), lists["train"], seed)
            found[key] = judge(
                start, reinforce(start, copy.deepcopy(first), lists, critic, own), lists[split]
            )
    return found


def page(found: list[dict[str, dict[str, float]]], rates: dict[str, float]) -> str:
    """The results as Markdown."""
    columns = ["trained needs", *NEEDS]

    def row(name: str, key: str, against: str | None) -> str:
        cells = [name, f"{rates[key]:g}" if key in rates else ""]
        cells += [f"{sum(seed[key][c] for seed in found) / len(found):.2f}" for c in columns]
        for column in ("trained needs", HELD_OUT):
            gap = [seed[key][column] - seed[against][column] for seed in found] if against else []
            cells.append("{:+.2f} ± {:.2f}".format(*interval(gap)) if gap and against != key else "")
        return "| " + " | ".join(cells) + " |"

    lines = [f"NDCG@5 × 100, {len(found)} seeds, 60 batches of 32 x 8 rankings", ""]
    head = ["", "rate", *columns, "minus the first arm, trained", "held out"]
    rule = "|" + "---|" * len(head)
    lines += ["| " + " | ".join(head) + " |", rule]
    lines += [row(name, name, None) for name in ("random", "item mean", "list start")]
    for table, arms in TABLES.items():
        keys = [f"{table}: {name}" for name in arms]
        lines += ["", f"### {table}", "", "| " + " | ".join(head) + " |", rule]
        lines += [row(name, key, keys[0]) for name, key in zip(arms, keys, strict=True)]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Choose the rates, run the fresh seeds, write the table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each [1]")
    parser.add_argument("--out", type=Path, default=Path("bench/results/claims_flexrec.md"), help="file")
    args = parser.parse_args()
    tuning = [(TUNING[0], {"all": rate}, "valid") for rate in RATES]
    with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
        tuned = list(pool.map(one_seed, tuning))
        rates = {}
        for key in (key for key in tuned[0] if ":" in key):
            values = [run[key]["trained needs"] for run in tuned]
            rates[key] = RATES[values.index(max(values))]
        found = list(pool.map(one_seed, [(seed, rates, "test") for seed in SEEDS]))
    text = page(found, rates)
    print(text)
    args.out.write_text(text)


if __name__ == "__main__":
    main()
