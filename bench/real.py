"""AdaGRPO, ReCast and GRPO on a real log, from a converged supervised policy, beside supervised continued.

    python -m minirec.train --data Beauty.txt.gz --items Beauty_item2attributes.json.gz --no-sasrec \
        --fresh 0.2 --out runs/beauty
    python -m bench.real runs/beauty --jobs 2

All arms start from the run's policy and learn from the users that its supervised training left out. The
rate of each arm is the one that is best by ndcg@10 on validation, with the first of SEEDS; beyond RATES
others are tried while the best is at the edge, down to LEAST. Every arm then runs with all SEEDS: other
orders of contexts, other noise. Gated arms have the total weight of the mixture: λ is divided by the share
that the gate admits. Metrics are of USERS users, the same for all.
Differences are paired by user: per user the mean over seeds, and over users the 95 % interval of a
bootstrap, which says nothing about other supervised policies. The values of every seed and user stand in the
.json file beside the table.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import torch

from bench.claims import teach
from bench.seeds import dense, keep, means, sparse
from bench.timing import heading
from minirec.data.dataset import contexts
from minirec.measure import evaluation
from minirec.measure.metrics import paired_bootstrap
from minirec.objectives import settings_of
from minirec.run.experiment import item_reward
from minirec.run.folder import find_run
from minirec.run.machine import keep_freed_memory
from minirec.tasks import NextItem

RATES, LEAST = (-10, -9, -8), -13  # in half decades: 1e-5, 3e-5, 1e-4; 3e-7
SEEDS, STEPS, USERS = (0, 1, 2), 100, 4000
ARMS = {
    "supervised continued": ("continued", {}),
    "GRPO, samples": ("grpo", {}),
    "GRPO, beams": ("grpo", {"rollouts": "beam"}),
    "repair alone": ("recast", {"contrast": False}),
    "ReCast": ("recast", {}),
    "mixture": ("adagrpo", {"gate": "open"}),
    "random gate": ("adagrpo", {"gate": "random"}),
    "AdaGRPO": ("adagrpo", {"gate": "both"}),
}
BY_USER, MEANS = ("recall@10", "ndcg@10"), ("pass@1", "pass@10", "hallucination")
SEEN = ("silent", "admitted")

Job = tuple[Path, str, int, float, float, str]  # run folder, arm, seed, rate, weight of RL, split


def work(job: Job) -> dict:
    """Run one arm; its metrics, those of BY_USER user by user, and what its rollouts showed."""
    folder, name, seed, rate, weight, split = job
    torch.set_num_threads(1)
    keep_freed_memory()
    run = find_run(folder)
    changes = {"seed": seed, "rl_steps": STEPS, "rl_rate": rate, "rl_weight": weight}
    objective, of_arm = ARMS.get(name, ("continued", {}))
    cfg = settings_of(run.cfg, objective, **changes, **of_arm, group=16, samples=10)
    policy, shown = run.trained(), {}
    if name in ARMS:
        reward, _ = item_reward(replace(cfg, seed=run.cfg.seed), run)  # one ranker for all seeds
        policy, lines = teach(policy, NextItem(cfg, run.trie, contexts(run.dataset.fresh), reward))
        shown = means(lines, SEEN)
    examples = getattr(run.dataset, split)
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(0))
    examples = examples.select(order[:USERS])
    judged = replace(cfg, beam=50, seed=0)
    result = evaluation.evaluate_policy(policy, run.trie, run.dataset, examples, judged)
    values = {metric: sparse(result.values[metric]) for metric in BY_USER}
    values |= {metric: result.values[metric].mean().item() for metric in MEANS}
    return {"users": len(examples), "seed": seed, **values, **shown}


def wanting(tried: dict[int, float]) -> list[int]:
    """Rates to try next, by what those tried have reached; none once the best has neighbours on both sides.

    >>> wanting({-10: 0.4, -9: 0.5, -8: 0.3}), wanting({-10: 0.6, -9: 0.5})
    ([], [-11])
    """
    best = max(tried, key=tried.__getitem__, default=None)
    around = RATES if best is None else (best - 1, best + 1)
    return [rate for rate in around if rate not in tried and rate >= LEAST]


def by_user(seeds: list[dict], metric: str) -> torch.Tensor:
    """The mean over seeds of a metric, (users,)."""
    return torch.stack([dense(seed[metric], seed["users"]) for seed in seeds]).mean(0)


def page(raw: dict) -> list[str]:
    """The table: means over seeds and users, and differences to supervised continued."""
    arms, rates = raw["arms"], raw["rates"]
    control = arms["supervised continued"]
    users, steps = control[0]["users"], raw["steps"]
    lines = [f"{users:,} users, {len(control)} seeds, {steps} batches of 32 x 16 rollouts", ""]
    lines += ["| | rate | recall@10 | minus continued | ndcg@10 | minus continued | pass@1 | hallucination |"]
    lines[-1] += " silent groups | admitted |"
    lines += ["|---|---|---|---|---|---|---|---|---|---|"]
    for name, seeds in arms.items():
        cells = [name, f"{rates[name]:.2g}" if name in rates else ""]
        for metric in BY_USER:
            value = by_user(seeds, metric)
            interval = paired_bootstrap(value, by_user(control, metric), seed=0)
            difference = "{:+.4f} ({:+.4f} to {:+.4f})".format(*interval)
            cells += [f"{value.mean():.4f}", "" if name == "supervised continued" else difference]
        mean = means(seeds, (*MEANS, *SEEN))
        cells += [f"{mean[metric]:.4f}" for metric in ("pass@1", "hallucination")]
        cells += [f"{mean[name]:.3f}" if name in mean else "" for name in SEEN]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", f"λ of the gated arms: {raw['weight']:.2f}"]
    for name, values in raw.get("tried", {}).items():  # an earlier result has not kept them
        pairs = sorted((10 ** (int(rate) / 2), value) for rate, value in values.items())
        tried = ", ".join(f"{value:.4f} at {rate:.1e}" for rate, value in pairs)
        lines += ["", f"{name}, ndcg@10 on validation: {tried}"]
    return lines


def main() -> None:
    """Run the seeds, write their values and the table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("run", type=Path, help="run folder, trained with --fresh")
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each [1]")
    parser.add_argument("--out", type=Path, default=Path("bench/results"), help="folder [bench/results]")
    args = parser.parse_args()
    torch.set_num_threads(1)
    first = work((args.run, "AdaGRPO", SEEDS[0], RATES[-1], 1.0, "valid"))  # trains the ranker, for all
    if not first["admitted"]:
        raise SystemExit(f"{args.run}: the gate admits no context, so no arm can have its total weight")
    weight = 1 / first["admitted"]
    weights = dict.fromkeys(ARMS, 1.0) | {"AdaGRPO": weight, "random gate": weight}
    with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
        start = pool.submit(work, (args.run, "supervised", 0, 0.0, 1.0, "test"))
        tried: dict[str, dict[int, float]] = {name: {} for name in ARMS}
        while tuning := [(name, rate) for name in ARMS for rate in wanting(tried[name])]:
            with_rate = [(args.run, n, SEEDS[0], 10 ** (r / 2), weights[n], "valid") for n, r in tuning]
            for (name, rate), result in zip(tuning, pool.map(work, with_rate), strict=True):
                tried[name][rate] = by_user([result], "ndcg@10").mean().item()
        rates = {name: 10 ** (max(values, key=values.__getitem__) / 2) for name, values in tried.items()}
        jobs = [(args.run, name, seed, rates[name], weights[name], "test") for name in ARMS for seed in SEEDS]
        done = list(pool.map(work, jobs))
    arms = {name: done[i * len(SEEDS) : (i + 1) * len(SEEDS)] for i, name in enumerate(ARMS)}
    raw = {"head": heading("real", "AdaGRPO and ReCast on a real log"), "steps": STEPS, "weight": weight}
    raw |= {"rates": rates, "tried": tried, "arms": {"supervised": [start.result()], **arms}}
    keep(args.out / "real", raw, page)


if __name__ == "__main__":
    main()
