"""From a log or the simulated world to a run folder that training can begin in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from minirec import config
from minirec.data import codes, logs, world
from minirec.data.codes import Codes
from minirec.data.contexts import leave_fresh
from minirec.data.vectors import item_vectors
from minirec.errors import InputError
from minirec.records import Dataset
from minirec.run import checkpoint
from minirec.settings import Config


def read(cfg: Config) -> tuple[Dataset, str]:
    """Read the log that ``cfg.data`` names, or make the world; return it, and what is to be said of it."""
    if cfg.data:
        dataset, summary = logs.load(cfg)
        said = str(summary)
    else:
        dataset = world.make_world(cfg).dataset()
        said = f"built-in world: {len(dataset.users):,} users, {len(dataset.catalogue):,} items"
    if cfg.fresh:
        train, fresh = leave_fresh(dataset.train, cfg.fresh, cfg.seed)
        dataset = replace(dataset, train=train, fresh=fresh)
        both = len(dataset.known.user.unique())
        said += f"\n{len(fresh.user.unique()):,} of {both:,} training users are left to RL"
    return dataset, said


def encode(dataset: Dataset, cfg: Config) -> tuple[Codes, list[str]]:
    """Give every item its codes.

    Args:
        dataset: for the item vectors.
        cfg: levels, codes and seed are read; with one level, the code of an item is its number.

    Returns:
        The Codes, and what is to be said of them.

    Raises:
        InputError: the items do not fit into the tuples.
    """
    if cfg.levels == 1:
        return codes.fit(torch.zeros(len(dataset.catalogue), 1), 1, cfg.codes, cfg.seed), []
    vectors = item_vectors(dataset, cfg.seed)
    fitted = codes.fit(vectors, cfg.levels, cfg.codes, cfg.seed)
    return fitted, [codes.summary(fitted, vectors)]


def begin(runs: list[Config]) -> None:
    """Write config.json and data.pt of runs on the same data, unless they are there to go on with.

    Raises:
        InputError: a folder holds a run already, or the data cannot be used; nothing has been written then.
    """
    for cfg in runs:
        if (Path(cfg.out) / "config.json").is_file() and not cfg.resume:
            raise InputError(
                f"{cfg.out} holds a run: go on with it by --resume, or name another folder by --out"
            )
    if all((Path(cfg.out) / "data.pt").is_file() for cfg in runs):
        return
    dataset, said = read(runs[0])
    encoded = [encode(dataset, cfg) for cfg in runs]
    for cfg, (fitted, notes) in zip(runs, encoded, strict=True):
        Path(cfg.out).mkdir(parents=True, exist_ok=True)
        config.write(replace(cfg, resume=False), Path(cfg.out) / "config.json")
        checkpoint.save_data(Path(cfg.out), dataset, fitted, [said, *notes])
