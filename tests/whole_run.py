"""A whole run on a small log, in this process: tests write every stage of it out again."""

import json
import sys
from functools import partial

import torch

from minirec import train
from minirec.measure import metrics, pictures
from minirec.run import lists
from minirec.run.folder import find_run

USERS, ITEMS, CRITIC_STEPS = 40, 12, 20
SETTINGS = (
    "--core 0 --levels 2 --codes 4 --history 4 --width 16 --layers 1 --heads 2 --dropout 0 --no-vectors "
    "--epochs 4 --batch 120 --rate 0.03 --clip 0.05 --validate 1 --beam 12 --samples 6 --keep-seen "
    "--threads 1 --device cpu --seed 1 --fresh 0.4 --rl-steps 3 --contexts 8 --group 6 --kl 0.1 --measure 3"
).split()


def write_log(folder):
    """Every user has 12 to 17 events, of three kinds of items in turn; half of the items share all topics."""
    random, lines = torch.Generator().manual_seed(0), ["user,item,rating,time"]
    for user in range(USERS):
        size = 12 + user % 6
        items = (torch.arange(size) + user) % 3 + 3 * torch.randint(ITEMS // 3, (size,), generator=random)
        stars = torch.randint(1, 6, (size,), generator=random)
        times = torch.randperm(1000, generator=random)[:size].sort().values
        events = zip(items.tolist(), stars.tolist(), times.tolist(), strict=True)
        lines += [f"u{user},i{i},{star},{time}" for i, star, time in events]
    (folder / "log.csv").write_text("\n".join(lines) + "\n")
    rows = [f"i{i},{'war|drama' if i % 2 else f'war|of {i}'}" for i in range(ITEMS)]
    (folder / "items.csv").write_text("\n".join(["item,genres", *rows]) + "\n")
    return ["--data", str(folder / "log.csv"), "--items", str(folder / "items.csv")]


def run(folder, patch, *flags):
    """Call ``minirec.train``, and open the run that it leaves in folder/run.

    To save time the critic is trained for a few steps, intervals have few draws, and there are no pictures.
    """
    patch.setattr(lists, "CRITIC_STEPS", CRITIC_STEPS)
    patch.setattr(pictures, "draw", lambda *_: [])
    patch.setattr(metrics, "paired_bootstrap", partial(metrics.paired_bootstrap, draws=10))
    out = folder / "run"
    patch.setattr(sys, "argv", ["train", *write_log(folder), *SETTINGS, *flags, "--out", str(out)])
    train.main()
    return find_run(out, torch.device("cpu"))


def lines(folder):
    """The lines of metrics of a folder."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def table(folder, name="report.json"):
    """The rows of a table by their methods."""
    return {row["method"]: row for row in json.loads((folder / name).read_text())}


def weights(run, path, key):
    """A policy of the run's shape with the weights of a file."""
    policy = run.untrained()
    policy.load_state_dict(torch.load(run.folder / path, weights_only=True)[key])
    return policy.eval()
