"""Which of FlexRec's orderings hold on the built-in world.

    python -m bench.claims_lists --jobs 2

As ``bench/claims.py``: every seed is a world and a supervised policy of its own, and a list start from
which all arms begin; rates are chosen on a TUNING seed, by validation, and the table is of the test lists of
SEEDS. The metric is NDCG@5 of the greedy ranking by true gains. Three questions: which form of credit; how
to fill in the feedback that is missing; whether scaling by the critic's variance helps.
"""

import argparse
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch

from bench.claims import BASE, SEEDS, TUNING, begin, interval, teach
from bench.seeds import keep
from bench.timing import heading
from minirec.data.lists import HELD_OUT, NEEDS, ListSource, make_lists
from minirec.data.vectors import item_vectors
from minirec.measure.rankings import ByNeed, item_mean, list_floors, rank_for_needs
from minirec.models.critic import Critic, fill_lists, train_critic
from minirec.objectives import settings_of
from minirec.records import Lists
from minirec.run.folder import Run
from minirec.run.lists import WARM, imitate, next_item_scores
from minirec.tasks import Rankings

RATES, STEPS = (2e-4, 1e-3), 60
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


def fill_gaps(run: Run, train: ListSource, filler: str) -> Callable[[Lists], Lists]:
    """Make the feedback of a task: what stands for the gains that were not observed; "zero" counts them 0."""
    if filler == "item mean":
        return partial(fill_lists, ItemMean(train, len(run.trie)))
    if filler == "critic":
        critic = Critic(item_vectors(run.dataset, run.cfg.seed), run.dataset.periods, run.cfg.seed)
        return partial(fill_lists, train_critic(critic, train, run.cfg.seed))
    return lambda lists: replace(lists, gains=lists.gains * lists.observed)


def judge(results: ByNeed) -> dict[str, float]:
    """NDCG@5 × 100 by need, and the mean over the trained ones."""
    values = {need: 100 * results[need].nanmean().item() for need in NEEDS}
    trained = [value for need, value in values.items() if need != HELD_OUT]
    return values | {"trained needs": sum(trained) / len(trained)}


def one_seed(job: tuple[int, dict[str, float], str]) -> dict[str, dict[str, float]]:
    """All arms on one seed; ``rates`` maps an arm to its rate, or "all" to one for all."""
    seed, rates, split = job
    run, supervised = begin(replace(BASE, seed=seed))
    results: dict[str, dict[str, float]] = {}
    start = None
    for table, arms in TABLES.items():
        for name, (objective, filler, changes) in arms.items():
            key = f"{table}: {name}"
            rate = rates.get(key, rates.get("all"))
            cfg = settings_of(run.cfg, objective, **changes, rl_steps=STEPS, rl_rate=rate)
            train, judged = (make_lists(cfg, run.dataset, part) for part in ("train", split))
            if start is None:  # the lists are the same whatever part of the feedback is observed
                scores = partial(next_item_scores, supervised, run.trie)
                warm = replace(cfg, rl_steps=WARM)  # at the first arm's rate
                start = imitate(warm, supervised, run.trie, train, scores)
                results["list start"] = judge(rank_for_needs(start, run.trie, judged))
                known = make_lists(replace(cfg, feedback=1.0), run.dataset, "known")
                floors = list_floors(known, judged, len(run.trie), seed)
                results |= {floor: judge(floors[floor]) for floor in ("random", "item mean")}
            feedback = fill_gaps(run, train, filler)
            policy, _ = teach(start, Rankings(cfg, run.trie, train, feedback))
            results[key] = judge(rank_for_needs(policy, run.trie, judged))
    return results


def page(raw: dict) -> list[str]:
    """The table: means over seeds, and differences to the first arm of a table."""
    seeds, rates = raw["seeds"], raw["rates"]
    columns = ["trained needs", *NEEDS]

    def row(name: str, key: str, against: str | None) -> str:
        cells = [name, f"{rates[key]:g}" if key in rates else ""]
        cells += [f"{sum(seed[key][c] for seed in seeds) / len(seeds):.2f}" for c in columns]
        for column in ("trained needs", HELD_OUT):
            gap = [seed[key][column] - seed[against][column] for seed in seeds] if against else []
            cells.append("{:+.2f} ± {:.2f}".format(*interval(gap)) if gap and against != key else "")
        return "| " + " | ".join(cells) + " |"

    lines = [f"NDCG@5 × 100, {len(seeds)} seeds, {STEPS} batches of 32 x 8 rankings", ""]
    head = ["", "rate", *columns, "minus the first arm, trained", "held out"]
    rule = "|" + "---|" * len(head)
    lines += ["| " + " | ".join(head) + " |", rule]
    lines += [row(name, name, None) for name in ("random", "item mean", "list start")]
    for table, arms in TABLES.items():
        keys = [f"{table}: {name}" for name in arms]
        lines += ["", f"### {table}", "", "| " + " | ".join(head) + " |", rule]
        lines += [row(name, key, keys[0]) for name, key in zip(arms, keys, strict=True)]
    return lines


def main() -> None:
    """Choose the rates, run the fresh seeds, write their values and the table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each [1]")
    parser.add_argument("--out", type=Path, default=Path("bench/results"), help="folder [bench/results]")
    args = parser.parse_args()
    torch.set_num_threads(1)
    tuning = [(TUNING[0], {"all": rate}, "valid") for rate in RATES]
    with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
        tuned = list(pool.map(one_seed, tuning))
        rates = {}
        for key in (key for key in tuned[0] if ":" in key):
            values = [run[key]["trained needs"] for run in tuned]
            rates[key] = RATES[values.index(max(values))]
        seeds = list(pool.map(one_seed, [(seed, rates, "test") for seed in SEEDS]))
    command = heading("claims_lists", "")[2:]  # without a title: the first table stands under none
    raw = {"head": command, "rates": rates, "tuning": tuned, "seeds": seeds}
    keep(args.out / "claims_flexrec", raw, page)


if __name__ == "__main__":
    main()
