"""What the supervised policy reaches on a public log, and what each ingredient is worth, beside the floors.

    python -m bench.quality beauty --data Beauty.txt.gz --items Beauty_item2attributes.json.gz
    python -m bench.quality movielens --data ratings.csv.gz --items movies.csv --epochs 40
    python -m bench.quality retail --data first_purchase_5core.csv.gz --items items.csv --split group \
        --history 200 --epochs 10
    python -m bench.quality yoochoose --data yoochoose-clicks-100k.txt --columns user=SessionId \
        --core 3 --keep-seen
    python -m bench.quality readme

It takes the flags of ``minirec.train`` beside its own. Ablations are judged on VALID validation contexts, and
only the two policies that README shows also on the test split. Differences are paired by user: per user the
mean over seeds, and over users the 95 % interval of a bootstrap. A run that is done is not done again, so
more seeds cost only the seeds; values by seed and user stand in the .json file beside the table. The last
command writes the tables of the test splits into README.md, from these files.
"""

import argparse
import json
import re
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from unittest import mock

import torch

from bench.real import by_user
from bench.seeds import keep, means, sparse
from bench.timing import heading
from minirec import rollout, settings
from minirec.data import prepare
from minirec.measure import evaluation
from minirec.measure.metrics import paired_bootstrap
from minirec.run import folder, machine, training
from minirec.tasks import Processes

VALID = 5000  # validation contexts, those of training
BY_USER, MEANS = ("recall@10", "ndcg@10"), ("recall@5", "ndcg@5", "hallucination")
RESULTS = Path(__file__).parent / "results"
LOGS = {"beauty": "Amazon Beauty", "movielens": "MovieLens latest-small", "retail": "Online Retail"}
LOGS["yoochoose"] = "Yoochoose, a sample of 100,000 clicks, sessions without users"
LAST = {"hallucination": ".4f", "minutes": ".0f"}  # the last columns
README, PLACE = (
    RESULTS.parent.parent / "README.md",
    re.compile(r"(<!-- reaches -->\n).*(?=<!-- reaches -->)", re.S),
)
ONE = ["--levels", "1", "--dropout", "0.5"]
ARMS = {  # the flags of each, beside those of the log
    "three codes": [],
    "three codes, ordered by codes": [],
    "three codes, no vectors": ["--no-vectors"],
    "one code": ONE,
    "one code, no vectors: SASRec": [*ONE, "--no-vectors"],
}
SHOWN = ("three codes", "one code")  # on the test split too
BY_CODES = "three codes, ordered by codes"

Job = tuple[str, int, Path, list[str]]  # arm, seed, run folder, flags


def kept(result: evaluation.Result) -> dict:
    """The values of BY_USER that are not 0, by user, and what MEANS has of the others."""
    means = {name: result.values[name].mean().item() for name in MEANS if name in result.values}
    return {"users": len(result.items)} | means | {name: sparse(result.values[name]) for name in BY_USER}


def judged(run: folder.Run, split: str) -> evaluation.Result:
    """A trained policy on a split, on validation on a sample."""
    examples = evaluation.sample(getattr(run.dataset, split), VALID if split == "valid" else 0, 0)
    cfg = replace(run.cfg, samples=0)
    return evaluation.evaluate_policy(run.trained(), run.trie, run.dataset, examples, cfg)


def work(job: Job) -> dict:
    """Train a policy, unless that has been done, and judge it; what is measured is kept in its folder."""
    name, seed, out, flags = job
    torch.set_num_threads(1)
    machine.keep_freed_memory()
    written = out / f"{name.replace(' ', '_')}.json"
    if written.is_file():
        return json.loads(written.read_text("utf-8"))
    cfg = settings.configure(settings.arguments([*flags, "--seed", str(seed), "--out", str(out)]))
    began = time.monotonic()
    if not (out / "trained.json").is_file():
        cfg = replace(cfg, threads=1, device="cpu", resume=(out / "config.json").is_file())
        with folder.begun([cfg]):
            training.train(folder.open_run(cfg, Processes()), f"{name}, seed {seed}")
        spent = {} if cfg.resume else {"minutes": (time.monotonic() - began) / 60}  # of half a run not known
        (out / "trained.json").write_text(json.dumps(spent))
    run = folder.find_run(out)
    by_codes = mock.patch.object(rollout, "best", lambda *how: rollout.beam(*how)[:2])
    with by_codes if name == BY_CODES else nullcontext():
        result = {split: kept(judged(run, split)) for split in ("valid", *["test"] * (name in SHOWN))}
    result |= {"seed": seed} | json.loads((out / "trained.json").read_text("utf-8"))
    written.write_text(json.dumps(result))
    return result


def floors(flags: list[str]) -> dict[str, dict]:
    """The floors on both splits, each fitted on what came before."""
    cfg = settings.configure(settings.arguments(flags))
    dataset, _ = prepare.read(cfg)
    some = {"valid": evaluation.sample(dataset.valid, VALID, 0), "test": dataset.test}
    found = {split: evaluation.floors(dataset, examples, cfg, split) for split, examples in some.items()}
    return {name: {split: kept(found[split][name]) for split in found} for name in found["test"]}


def page(raw: dict) -> list[str]:
    """Both splits, a table each."""
    return ["## Validation split", "", *table(raw, "valid"), "", "## Test split", "", *table(raw, "test")]


def table(raw: dict, split: str) -> list[str]:
    """A row per floor and policy: means over seeds and users, and the difference to item-kNN."""
    rows = {name: [each] for name, each in raw["floors"].items()}
    rows |= {name: each for name, each in raw["arms"].items() if split in each[0]}
    base = rows["item-kNN"]
    lines = [f"| {base[0][split]['users']:,} users | R@5 | N@5 | R@10 | N@10 | R@10 minus item-kNN |"]
    lines[0] += " N@10 minus item-kNN | N@10 by seed | hallucination | minutes |"
    lines.append("|" + "---|" * 10)
    for name, seeds in rows.items():
        results = [seed[split] for seed in seeds]
        values = {metric: by_user(results, metric) for metric in BY_USER}
        mean = means(results, MEANS) | means(seeds, ["minutes"])
        mean |= {metric: value.mean().item() for metric, value in values.items()}
        cells = [name] + [f"{mean[metric]:.4f}" for metric in ("recall@5", "ndcg@5", *BY_USER)]
        if name == "item-kNN":
            cells += ["", ""]
        else:
            pairs = [
                paired_bootstrap(values[metric], by_user([base[0][split]], metric), 0) for metric in BY_USER
            ]
            cells += ["{:+.4f} ({:+.4f} to {:+.4f})".format(*pair) for pair in pairs]
        by_seed = [by_user([result], "ndcg@10").mean().item() for result in results]
        cells.append(", ".join(f"{value:.4f}" for value in by_seed) if len(seeds) > 1 else "")
        cells += [f"{mean[key]:{form}}" if key in mean else "" for key, form in LAST.items()]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def into_readme() -> str:
    """README.md with the tables of the test splits as the results have them."""
    parts = []
    for name, title in LOGS.items():
        if (result := RESULTS / f"quality_{name}.json").is_file():
            raw = json.loads(result.read_text("utf-8"))
            parts += [f"{title}, {raw['head'][2]}:", "", *table(raw, "test"), ""]
    return PLACE.sub(lambda found: found[1] + "\n".join(["", *parts, ""]), README.read_text("utf-8"))


def main() -> None:
    """Train and judge all arms with all seeds, write their values and the table."""
    parser = argparse.ArgumentParser(description=main.__doc__, allow_abbrev=False)
    parser.add_argument("name", choices=[*LOGS, "readme"], help="log, or where to write what is there")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 [3]")
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each [1]")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="[all]")
    parser.add_argument("--runs", type=Path, default=Path("runs/quality"), help="run folders [runs/quality]")
    args, flags = parser.parse_known_args()
    if args.name == "readme":
        README.write_text(into_readme(), "utf-8")
        return
    torch.set_num_threads(1)
    jobs = []
    for seed in range(args.seeds):
        for name in args.arms:
            trained = "three codes" if name == BY_CODES else name
            out = args.runs / f"{args.name}-{trained.replace(' ', '_').replace(':', '')}-{seed}"
            jobs.append((name, seed, out, [*flags, *ARMS[name]]))
    first = [job for job in jobs if job[0] != BY_CODES]  # those that train
    with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
        waiting = pool.map(work, first)
        raw = {"head": heading("quality", f"What is reached on {LOGS[args.name]}"), "floors": floors(flags)}
        list(waiting)
        done = list(pool.map(work, jobs))  # all but those by codes are there
    raw["arms"] = {name: [r for j, r in zip(jobs, done, strict=True) if j[0] == name] for name in args.arms}
    keep(RESULTS / f"quality_{args.name}", raw, page)


if __name__ == "__main__":
    main()
