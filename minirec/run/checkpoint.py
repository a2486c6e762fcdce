"""The files of a run folder: written whole or not at all, read without executing anything.

    config.json     every setting of the run
    data.pt         catalogue, users, splits and codes, so that nothing below needs the raw log again
    checkpoint.pt   what training needs to go on, and the weights that validation chose
    metrics.jsonl   one line per measurement
    report.md, report.json, *.png   the results, see report.py

On a simulated world data.pt holds no law: it is rebuilt from the settings.
"""

from __future__ import annotations

import json
import pickle
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from minirec.data.codes import Codes
from minirec.data.world import make_world
from minirec.errors import InputError
from minirec.files import atomic
from minirec.records import Catalogue, Dataset, Examples
from minirec.settings import Config

SPLITS = ("train", "valid", "test", "fresh")


def save(path: Path, value: Any) -> None:
    """Write a file atomically.

    Args:
        path: the file.
        value: tensors, numbers, strings, and lists and dicts of them.

    Raises:
        InputError: it cannot be written.
    """
    with atomic(path) as file:
        torch.save(value, file)


def load(path: Path) -> Any:
    """Read what ``save`` wrote, on the CPU.

    Raises:
        InputError: the file is missing, damaged, or holds anything that would execute code when read.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; a run folder of minirec.train has it") from None
    except pickle.UnpicklingError:
        raise InputError(
            f"{path}: refused: it holds more than tensors and plain values, or is damaged"
        ) from None
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: cannot be read ({reason}); is it damaged or cut short?") from error


def save_progress(run: Path, state: dict[str, Any], measured: list[dict]) -> None:
    """Write ``checkpoint.pt``, then ``metrics.jsonl``, which follows from it.

    Args:
        run: the run folder.
        state: what training needs to go on.
        measured: the lines of metrics so far; they are part of the state too.

    Raises:
        InputError: a file cannot be written.
    """
    save(run / "checkpoint.pt", state | {"measured": measured})
    with atomic(run / "metrics.jsonl") as file:
        file.writelines(json.dumps(line).encode() + b"\n" for line in measured)


def _plain(record: Any) -> dict[str, Any]:
    """A record's fields by name, not copied: splits that share their events share them in the file too."""
    return {f.name: getattr(record, f.name) for f in fields(record)}


def save_data(run: Path, dataset: Dataset, codes: Codes, notes: list[str]) -> None:
    """Write a run's data to ``data.pt``.

    Args:
        run: the run folder.
        dataset: catalogue, users and splits are written; of the law, only that there is one.
        codes: of the items.
        notes: what was said of the data and the codes.

    Raises:
        InputError: the file cannot be written.
    """
    splits = {name: _plain(part) for name in SPLITS if (part := getattr(dataset, name)) is not None}
    rest = {"users": dataset.users, "periods": dataset.periods, "simulated": dataset.law is not None}
    rest |= {"rating": dataset.rating, "time": dataset.time}
    parts = {"catalogue": _plain(dataset.catalogue), "codes": _plain(codes), "notes": list(notes)}
    save(run / "data.pt", parts | splits | rest)


def load_data(run: Path, cfg: Config) -> tuple[Dataset, Codes, list[str]]:
    """Read what ``save_data`` wrote.

    Args:
        run: the run folder.
        cfg: the run's settings, to rebuild the law of a simulated world.

    Returns:
        The Dataset, the Codes, and the notes.

    Raises:
        InputError: data.pt is missing or damaged, or is not such a file.
    """
    path = run / "data.pt"
    data = load(path)
    try:
        splits = {name: Examples(**data[name]) for name in SPLITS if name in data}
        catalogue, codes = Catalogue(**data["catalogue"]), Codes(**data["codes"])
        users, periods, simulated = data["users"], data["periods"], data["simulated"]
        notes = data["notes"]
        rating, time = data.get("rating"), data.get("time")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not the data of a run ({error})") from error
    law = make_world(cfg).law if simulated else None
    dataset = Dataset(catalogue, users, periods=periods, law=law, rating=rating, time=time, **splits)
    return dataset, codes, notes
