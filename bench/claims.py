"""Which of the papers' orderings hold on the built-in world, each in its method's own regime.

    python -m bench.claims adagrpo --jobs 2
    python -m bench.claims recast-sparse --jobs 2
    python -m bench.claims recast-weak --jobs 2

Every seed is a world of its own with a supervised policy of its own, from which all arms start; arms share
contexts, noise and number of rollouts. The learning rate of each arm is the best of RATES on TUNING seeds, by
validation; the table is of the test contexts of SEEDS, which nothing was chosen on. All metrics are exact
expectations under the world's law. Differences are paired by seed, with Student's 95 % interval.
"""

import argparse
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import torch

from bench.seeds import keep, means
from bench.timing import heading
from minirec.data import prepare
from minirec.data.dataset import contexts
from minirec.loop import Learner, reinforce
from minirec.measure import evaluation
from minirec.objectives import OBJECTIVES, settings_of
from minirec.policy import Policy
from minirec.run.experiment import item_reward
from minirec.run.folder import Run
from minirec.run.machine import join
from minirec.run.training import Supervised, fit
from minirec.settings import TINY, Config
from minirec.tasks import NextItem, Rankings
from minirec.trie import Trie

TUNING, SEEDS = (900, 901), tuple(range(100, 105))
RATES = (1e-4, 3e-4, 1e-3)
T95 = {4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}  # Student's t, by degrees of freedom
SHOWN = ("hr@10", "ndcg@10", "pass@1", "hallucination")

BASE = replace(TINY, device="cpu", threads=1, objective="none", keep_seen=True, rl_steps=150, samples=20)
GATES = {"mixture": "open", "difficulty": "difficulty", "discriminability": "discriminability"}
GATES |= {"random gate": "random", "AdaGRPO": "both"}
SHARE = {  # of the contexts that a gate admits, seen on a TUNING seed
    "right": {"difficulty": 0.82, "discriminability": 0.35, "random": 0.24, "both": 0.24},
    "noise": {"difficulty": 0.82, "discriminability": 0.21, "random": 0.145, "both": 0.145},
    "harmful": {"difficulty": 0.82, "discriminability": 0.185, "random": 0.13, "both": 0.13},
}

Arms = dict[str, tuple[str, dict]]  # name -> objective, and settings that differ from those of the regime


def gated(ranker: str) -> Arms:
    """Arms of about equal total weight: λ is divided by the share that the gate admitted on a TUNING seed."""
    arms: Arms = {"supervised continued": ("continued", {})}
    for name, gate in GATES.items():
        weight = 1 / SHARE[ranker].get(gate, 1.0)
        arms[name] = ("adagrpo", {"gate": gate, "ranker": ranker, "rl_weight": weight})
    return arms | {"reward alone": ("grpo", {"mask": "none", "reward": "ranker", "ranker": ranker})}


CAST: Arms = {
    "supervised continued": ("continued", {}),
    "GRPO, samples": ("grpo", {}),
    "GRPO, beams": ("grpo", {"rollouts": "beam"}),
    "repair alone": ("recast", {"contrast": False}),
    "contrast alone": ("recast", {"repair": False}),
    "ReCast": ("recast", {}),
}
REGIMES: dict[str, tuple[dict, dict[str, tuple[dict, Arms]]]] = {  # world and start; then per table its arms
    "adagrpo": ({}, {ranker: ({}, gated(ranker)) for ranker in ("right", "noise", "harmful")}),
    "recast-sparse": (
        {"world_beta": 14.0, "world_items": 4096, "codes": 32, "epochs": 4, "validate": 2},
        {"4,096 items, 4 epochs": ({"group": 8}, CAST)},
    ),
    "recast-weak": (
        {"world_beta": 60.0, "world_users": 1500, "epochs": 1, "validate": 1},
        {"near-deterministic targets, 1,500 users, 1 epoch": ({"group": 8}, CAST)},
    ),
    "recast-middle": (
        {"world_beta": 14.0, "epochs": 1, "validate": 1},
        {"512 items, 1 epoch": ({"group": 8}, CAST)},
    ),
    "recast-dense": ({"world_beta": 14.0}, {"512 items, 15 epochs": ({"group": 32}, CAST)}),
}


def begin(cfg: Config) -> tuple[Run, Policy]:
    """Make a seed's world, and train the supervised policy that all arms start from."""
    processes = join(cfg)  # sets the number of threads
    dataset, _ = prepare.read(cfg)
    codes, _ = prepare.encode(dataset, cfg)
    run = Run(cfg, dataset, Trie(codes.codes, codes.size), processes, notes=[])
    with tempfile.TemporaryDirectory() as folder:
        return run, fit(Supervised(run), replace(run, cfg=replace(cfg, out=folder)))


def teach(start: Policy, task: NextItem | Rankings) -> tuple[Policy, list[dict[str, float]]]:
    """Teach a copy of a policy to the last step; returns it, and what the rollouts of each step showed."""
    learner, objective = Learner(task.cfg, start, task.trie), OBJECTIVES[task.cfg.objective]
    tallies = [reinforce(learner, task, objective, step) for step in range(task.cfg.rl_steps)]
    return learner.policy, [tally.means(task.processes) for tally in tallies]


def judge(run: Run, policy: Policy, split: str) -> dict[str, float]:
    """Exact metrics of a policy on a split."""
    examples = getattr(run.dataset, split)
    result = evaluation.evaluate_policy(policy, run.trie, run.dataset, examples, run.cfg)
    return {name: result.values[name].mean().item() for name in SHOWN}


def run_arm(run: Run, start: Policy, objective: str, changes: dict, split: str) -> dict[str, float]:
    """Run an arm to its end and judge it; what its rollouts showed stands beside."""
    cfg = settings_of(run.cfg, objective, **changes)
    reward, _ = item_reward(cfg, run)
    policy, lines = teach(start, NextItem(cfg, run.trie, contexts(run.dataset.fresh), reward))
    return judge(run, policy, split) | means(lines, ("admitted", "silent", "all_zero"))


def one_seed(job: tuple[str, int, dict[str, float], str]) -> dict[str, dict[str, float]]:
    """All arms of a regime on one seed; ``rates`` maps an arm to its rate, or is one rate for all."""
    regime, seed, rates, split = job
    world, tables = REGIMES[regime]
    run, start = begin(replace(BASE, seed=seed, **world))
    results = {"start": judge(run, start, split)}
    if split == "test":
        floors = evaluation.floors(run.dataset, run.dataset.test, run.cfg)
        for name in ("item-kNN", "true law"):
            values = floors[name].values
            results[name] = {m: values[m].mean().item() for m in SHOWN if m in values}
    once: dict[str, dict[str, float]] = {}  # arms that stand in more than one table
    for table, (changes, arms) in tables.items():
        for name, (objective, of_arm) in arms.items():
            key = f"{table}: {name}"
            every = {**changes, **of_arm, "rl_rate": rates.get(key, rates.get("all"))}
            arm = f"{objective} {every}"
            once[arm] = once.get(arm) or run_arm(run, start, objective, every, split)
            results[key] = once[arm]
    return results


def interval(values: list[float]) -> tuple[float, float]:
    """Mean of a list, and half its Student 95 % interval."""
    x = torch.tensor(values, dtype=torch.float64)
    return x.mean().item(), T95[len(values) - 1] * x.std().item() / len(values) ** 0.5


def page(raw: dict) -> list[str]:
    """The table: means over seeds, and differences to supervised continued and of the method itself."""
    regime, seeds, rates = raw["regime"], raw["seeds"], raw["rates"]
    world = {**REGIMES[regime][0], "batches": BASE.rl_steps, "seeds": len(seeds)}
    lines = [f"tiny preset but for {world}; metrics × 100, ± Student's 95 % interval", ""]
    lines += ["| | hr@10 | ndcg@10 | pass@1 | hallucination |", "|---|---|---|---|---|"]
    for name in ("item-kNN", "true law", "start"):
        mean = means([seed[name] for seed in seeds], SHOWN)  # a floor has no Pass@1
        cells = [f"{100 * mean[m]:.2f}" if m in mean else "" for m in SHOWN]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    for table, (changes, arms) in REGIMES[regime][1].items():
        control = f"{table}: supervised continued"
        method = f"{table}: {list(arms)[-1] if regime.startswith('recast') else 'AdaGRPO'}"
        lines += ["", f"## {table} {changes or ''}".rstrip(), ""]
        head = ["arm", "rate"]
        for metric in ("hr@10", "pass@1"):
            head += [metric, "minus continued", "ours minus it"]
        head += ["hallucination", "silent groups", "admitted"]
        lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        for name in arms:
            key = f"{table}: {name}"
            mean = {m: sum(seed[key].get(m, 0.0) for seed in seeds) / len(seeds) for m in seeds[0][key]}
            cells = [name, f"{rates[key]:g}"]
            for metric in ("hr@10", "pass@1"):
                cells.append(f"{100 * mean[metric]:.2f}")
                for a, b in ((key, control), (method, key)):
                    value, half = interval([100 * (seed[a][metric] - seed[b][metric]) for seed in seeds])
                    cells.append("" if a == b else f"{value:+.2f} ± {half:.2f}")
            cells += [f"{100 * mean['hallucination']:.2f}", f"{mean.get('silent', 0):.2f}"]
            lines.append("| " + " | ".join([*cells, f"{mean.get('admitted', 0):.2f}"]) + " |")
    return lines


def main() -> None:
    """Choose the rates, run the fresh seeds, write their values and the table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("regime", choices=REGIMES)
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each [1]")
    parser.add_argument("--out", type=Path, default=Path("bench/results"), help="folder [bench/results]")
    args = parser.parse_args()
    torch.set_num_threads(1)
    tuning = [(args.regime, seed, {"all": rate}, "valid") for rate in RATES for seed in TUNING]
    with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
        tuned = list(pool.map(one_seed, tuning))
        arms = [name for name in tuned[0] if ":" in name]
        by_rate = {
            arm: [
                sum(run[arm]["hr@10"] for run in tuned[i : i + len(TUNING)])
                for i in range(0, len(tuned), len(TUNING))
            ]
            for arm in arms
        }
        rates = {arm: RATES[values.index(max(values))] for arm, values in by_rate.items()}
        seeds = list(pool.map(one_seed, [(args.regime, seed, rates, "test") for seed in SEEDS]))
    raw = {"head": heading("claims", args.regime), "regime": args.regime, "rates": rates, "seeds": seeds}
    raw |= {"tuning": dict(zip(map(str, tuning), tuned, strict=True))}
    keep(args.out / f"claims_{args.regime}", raw, page)


if __name__ == "__main__":
    main()
