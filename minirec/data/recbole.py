"""What a run reads, written as RecBole's atomic files."""

import re
from pathlib import Path

import torch

from minirec.data.dataset import Dataset
from minirec.files import atomic


def write(folder: Path, dataset: Dataset) -> None:
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
