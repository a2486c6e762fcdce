"""From a log or the simulated world to a Dataset and the codes of its items; and to RecBole's files."""

import math
import re
from dataclasses import replace
from pathlib import Path

import torch

from minirec.data import codes, logs, vectors, world
from minirec.data.dataset import Dataset, leave_fresh
from minirec.errors import InputError
from minirec.files import atomic
from minirec.settings import Config, check_value

SHARED = 3  # levels of the codes that items share beside a number of their own


def read(cfg: Config) -> tuple[Dataset, str]:
    """Read the log that ``cfg.data`` names, or make the world; return it, and a summary of it."""
    if cfg.data:
        dataset, summary = logs.load(cfg)
    else:
        dataset = world.make_world(cfg).dataset()
        summary = f"built-in world: {len(dataset.users):,} users, {len(dataset.catalogue):,} items"
    if cfg.fresh:
        train, fresh = leave_fresh(dataset.train, cfg.fresh, cfg.seed)
        dataset = replace(dataset, train=train, fresh=fresh)
        both = len(dataset.known.user.unique())
        summary += f"\n{len(fresh.user.unique()):,} of {both:,} training users are left to RL"
    return dataset, summary


def shaped(cfg: Config) -> Config:
    """Take --levels and --codes of a new run from its --item-codes; InputError if given ones contradict."""
    if not cfg.item_codes or cfg.resume:
        return cfg
    rows = list(codes.read(Path(cfg.item_codes)).values())
    most = max(cfg.codes * ("codes" in cfg.given), 1 + max(map(max, rows)))  # more than it has leave room
    shape = {"levels": check_value("levels", len(rows[0])), "codes": check_value("codes", most)}
    for name, value in shape.items():
        if name in cfg.given and getattr(cfg, name) != value:
            raise InputError(f"--{name}: {cfg.item_codes} has {value}; leave --{name} out")
    return replace(cfg, **shape)


def encode(dataset: Dataset, cfg: Config) -> tuple[codes.Codes, list[str]]:
    """Give every item its codes, with one level its number or, for vectors, codes to share; and a summary."""
    ids, chosen, levels = dataset.catalogue.ids, None, cfg.levels
    if levels == 1 and cfg.vectors and not cfg.item_codes:
        levels = SHARED
    elif levels == 1 and not cfg.item_codes:
        return codes.fit(torch.zeros(len(ids), 1), 1, cfg.codes, cfg.seed), []
    if cfg.item_codes:
        table = codes.read(Path(cfg.item_codes))
        if missing := [item for item in ids if item not in table]:
            lack = f"no codes for {len(missing):,} of the log's {len(ids):,} items"
            raise InputError(f"{cfg.item_codes}: {lack}; the first is '{missing[0]}'")
        chosen = torch.tensor([table[item] for item in ids])
    points = vectors.item_vectors(dataset, cfg.seed)
    fitted = codes.fit(points, levels, cfg.codes, cfg.seed, chosen)
    notes = [codes.summary(fitted, points)]
    if chosen is None and cfg.codes >= len(ids):
        why = f"{cfg.codes} codes a level for {len(ids)} items: hardly any are shared, and little is learned"
        notes.append(f"{why} of one item from others; --codes {1 + math.isqrt(len(ids) - 1)} fits")
    return fitted, notes


def write_recbole(folder: Path, dataset: Dataset) -> None:
    """Write the log, titles and topics as ``NAME.inter`` and ``NAME.item`` into a folder called NAME.

    A ``timestamp`` is the place of an event in the order of time of all events, or of the user's where the
    log has no times: RecBole, with float32, keeps the order of ties too. ``log_time`` is the time in the log.
    Topics are numbers; a tab or line end in a name becomes a space. InputError if a file cannot be written.
    """
    items, events, time = dataset.catalogue, dataset.train.events, dataset.time
    place = torch.arange(len(events))
    owner = torch.bucketize(place, dataset.start, right=True) - 1
    place = place - dataset.start[owner] if time is None else time.argsort(stable=True).argsort()
    log = {"user_id:token": [dataset.users[user] for user in owner.tolist()]}
    log |= {"item_id:token": [items.ids[item] for item in events.tolist()], "timestamp:float": place.tolist()}
    numbers = {"rating:float": dataset.rating, "log_time:float": time}
    log |= {name: column.tolist() for name, column in numbers.items() if column is not None}
    known = {"item_id:token": items.ids} | ({"title:token_seq": items.titles} if items.titles else {})
    if items.topics is not None:  # equally long numbers sort as words do
        rows = items.topics.tolist()
        known["class:token_seq"] = [" ".join(f"{topic:06}" for topic in row if topic >= 0) for row in rows]
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, table in (("inter", log), ("item", known)):
        with atomic(folder / f"{folder.resolve().name}.{suffix}") as file:
            for row in (table, *zip(*table.values(), strict=True)):
                file.write(("\t".join(re.sub(r"[\t\r\n]", " ", str(cell)) for cell in row) + "\n").encode())
