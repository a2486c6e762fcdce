"""From a log or the simulated world to a Dataset and the codes of its items."""

from dataclasses import replace

import torch

from minirec.data import codes, contexts, logs, vectors, world
from minirec.data.dataset import Dataset
from minirec.settings import Config


def read(cfg: Config) -> tuple[Dataset, str]:
    """Read the log that ``cfg.data`` names, or make the world; return it, and a summary of it."""
    if cfg.data:
        dataset, summary = logs.load(cfg)
    else:
        dataset = world.make_world(cfg).dataset()
        summary = f"built-in world: {len(dataset.users):,} users, {len(dataset.catalogue):,} items"
    if cfg.fresh:
        train, fresh = contexts.leave_fresh(dataset.train, cfg.fresh, cfg.seed)
        dataset = replace(dataset, train=train, fresh=fresh)
        both = len(dataset.known.user.unique())
        summary += f"\n{len(fresh.user.unique()):,} of {both:,} training users are left to RL"
    return dataset, summary


def encode(dataset: Dataset, cfg: Config) -> tuple[codes.Codes, list[str]]:
    """Give every item its codes, with one level its own number; return them, and a summary of them."""
    one, items = cfg.levels == 1, len(dataset.catalogue)
    points = torch.zeros(items, 1) if one else vectors.item_vectors(dataset, cfg.seed)
    fitted = codes.fit(points, cfg.levels, cfg.codes, cfg.seed)
    return fitted, [] if one else [codes.summary(fitted, points)]
