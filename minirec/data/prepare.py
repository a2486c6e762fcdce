"""From a log or the simulated world to a Dataset and the codes of its items."""

from dataclasses import replace

import torch

from minirec.data import codes, logs, world
from minirec.data.contexts import leave_fresh
from minirec.data.dataset import Dataset
from minirec.data.vectors import item_vectors
from minirec.settings import Config


def read(cfg: Config) -> tuple[Dataset, str]:
    """Read the log that ``cfg.data`` names, or make the world; return it, and a summary of it."""
    if cfg.data:
        dataset, counts = logs.load(cfg)
        summary = str(counts)
    else:
        dataset = world.make_world(cfg).dataset()
        summary = f"built-in world: {len(dataset.users):,} users, {len(dataset.catalogue):,} items"
    if cfg.fresh:
        train, fresh = leave_fresh(dataset.train, cfg.fresh, cfg.seed)
        dataset = replace(dataset, train=train, fresh=fresh)
        both = len(dataset.known.user.unique())
        summary += f"\n{len(fresh.user.unique()):,} of {both:,} training users are left to RL"
    return dataset, summary


def encode(dataset: Dataset, cfg: Config) -> tuple[codes.Codes, list[str]]:
    """Give every item its codes, with one level its own number; return them, and a summary of them."""
    if cfg.levels == 1:
        return codes.fit(torch.zeros(len(dataset.catalogue), 1), 1, cfg.codes, cfg.seed), []
    vectors = item_vectors(dataset, cfg.seed)
    fitted = codes.fit(vectors, cfg.levels, cfg.codes, cfg.seed)
    return fitted, [codes.summary(fitted, vectors)]
