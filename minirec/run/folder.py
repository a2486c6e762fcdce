"""A run and its folder. Files are written whole or not at all, and read without executing anything.

    config.json     every setting of the run
    data.pt         catalogue, users, splits and codes, so that nothing below needs the raw log again
    checkpoint.pt   what training needs to go on, and the weights that validation chose; see training.py
    metrics.jsonl   one line per measurement
    report.md, report.json, *.png   the results, see measure/report.py
    ranker.pt, critic.pt, lists.pt, supervised_lists.pt  what arms share, where they need it
    lock            locked while a process trains
    sasrec/, grpo/, ...             the baseline and the arms, a run folder each on the data.pt above it

On a simulated world data.pt holds no world: it is made again from the settings. Every ``.pt`` file says of
which format it is, and on which data it was made, by a fingerprint of ids, splits and codes.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from torch import nn

from minirec import settings
from minirec.data import prepare, world
from minirec.data.codes import Codes
from minirec.data.dataset import Catalogue, Dataset, Examples
from minirec.errors import InputError
from minirec.files import atomic, owned
from minirec.measure.evaluation import evaluate_policy, sample
from minirec.policy import Policy
from minirec.run.machine import pick_device
from minirec.settings import Config
from minirec.tasks import Processes
from minirec.trie import Trie

SPLITS = ("train", "valid", "test", "fresh")
FORMAT = 3  # of the .pt files


@dataclass(frozen=True)
class Run:
    """All that the stages of a run share; made once, and passed as one."""

    cfg: Config
    dataset: Dataset
    trie: Trie  # on the device
    processes: Processes
    notes: list[str]  # what is to be said of the data
    fingerprint: str = ""  # of the data
    items: Trie | None = None  # the codes that items share, if their vectors are asked for

    @property
    def folder(self) -> Path:
        """Where the run's files are."""
        return Path(self.cfg.out)

    def untrained(self) -> Policy:
        """A policy of the run's shape, on the device."""
        shape = self.trie.levels, self.trie.size, self.dataset.periods
        return Policy(self.cfg, *shape, self.items).to(self.processes.device)

    def trained(self) -> Policy:
        """The policy with the weights that validation chose; InputError where they do not fit."""
        policy = self.untrained()
        with self.loaded("checkpoint.pt") as state:
            policy.load_state_dict(state["best"])
        return policy.eval()

    @contextmanager
    def loaded(self, name: str) -> Iterator[dict[str, Any]]:
        """Read a file for a block; InputError if it is of other data, not finite, or does not fit."""
        path = self.folder / name
        state = load(path)
        if state.get("data") != self.fingerprint:
            raise InputError(f"{path}: made on other data than those in this run's data.pt")
        try:
            for part in {"policy", "best", "weights"} & state.keys():
                refuse_infinite(path, state[part])
            yield state
        except InputError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise InputError(f"{path}: does not fit this run's config.json ({_first(error)})") from error

    def validate(self, policy: Policy, count: int, names: Sequence[str]) -> dict[str, float]:
        """The means of some metrics over at most ``count`` validation contexts, by beams of 20."""
        cfg, full = replace(self.cfg, beam=20, samples=0), "hallucination" in names
        some = sample(self.dataset.valid, count, cfg.seed)  # always the same
        result = evaluate_policy(policy, self.trie, self.dataset, some, cfg, full)
        return {name: result.values[name].mean().item() for name in names}

    def kept(self, name: str, reads: str, make: Callable[[], nn.Module], empty: nn.Module) -> nn.Module:
        """Make a model once, in the first process, and load its weights into ``empty`` in all.

        Where the file is there, nothing is made. Raises InputError if it was made with other values of the
        settings that the model ``reads``, which are words between spaces.
        """
        path, values = self.folder / name, {key: getattr(self.cfg, key) for key in reads.split()}
        if self.processes.rank == 0 and not path.is_file():
            state = {"settings": values, "weights": make().state_dict(), "data": self.fingerprint}
            save(path, state)
        self.processes.wait()  # the file is there
        with self.loaded(name) as state:
            refuse_others(path, state["settings"], values)
            empty.load_state_dict(state["weights"])
        return empty.to(self.processes.device)


def save(path: Path, value: dict[str, Any]) -> None:
    """Write tensors, numbers, strings, and lists and dicts of them; InputError where that is impossible."""
    try:
        with atomic(path) as file:
            torch.save(value | {"format": FORMAT}, file)
    except RuntimeError as error:  # what torch makes of a disk that is full
        raise InputError(f"{path}: cannot be written: {_first(error)}") from error


def load(path: Path) -> dict[str, Any]:
    """Read what ``save`` wrote, on the CPU; InputError for what is missing, damaged, or more than values."""
    try:
        with ZipFile(path) as archive:
            damaged = archive.testzip()  # compares all checksums
        value = None if damaged else torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; has a run begun to train in this folder?") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:  # whatever readers make of bytes from anywhere
        raise InputError(f"{path}: refused: damaged, or more than plain values ({_first(error)})") from error
    if damaged:
        raise InputError(f"{path}: refused: damaged, as the checksum of {damaged} is wrong")
    found = value.pop("format", None) if isinstance(value, dict) else None
    if found != FORMAT:
        raise InputError(f"{path}: of format {found}; this minirec reads {FORMAT}, so train anew")
    return value


def _first(error: Exception) -> str:
    """The first line of an error of torch's, which may be long."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def refuse_infinite(path: Path, weights: dict[str, torch.Tensor]) -> None:
    """Raise InputError if weights, which a file has or would get, are not all finite."""
    for name, value in weights.items():
        if not value.isfinite().all():
            raise InputError(f"{path}: values of {name} are not finite; start again with a lower rate")


def save_data(folder: Path, dataset: Dataset, codes: Codes, notes: list[str]) -> str:
    """Write data.pt, and of a simulated world only that there is one; returns the fingerprint."""
    splits = {name: vars(part) for name in SPLITS if (part := getattr(dataset, name)) is not None}
    rest = {"users": dataset.users, "periods": dataset.periods, "simulated": dataset.world is not None}
    rest |= {"rating": dataset.rating, "time": dataset.time, "start": dataset.start, "notes": notes}
    digest = hashlib.sha256(repr((dataset.catalogue.ids, dataset.users)).encode())
    parts = [codes.codes, *(tensor for split in splits.values() for tensor in split.values())]
    parts += [dataset.rating, dataset.time, dataset.catalogue.features, dataset.catalogue.topics]
    for part in filter(lambda part: part is not None, parts):
        digest.update(part.contiguous().numpy())
    rest["fingerprint"] = digest.hexdigest()
    save(folder / "data.pt", {"catalogue": vars(dataset.catalogue), "codes": vars(codes)} | splits | rest)
    return rest["fingerprint"]


@contextmanager
def begun(runs: list[Config]) -> Iterator[None]:
    """Write config.json of runs and data.pt of the first, which all share, unless it is there to go on with.

    The folder of the first is this process's own while the block runs. Raises InputError before anything is
    written, if a folder holds a run or the data cannot be used.
    """
    refuse_runs(runs)
    out = Path(runs[0].out)
    if missing := [] if (out / "data.pt").is_file() else runs:
        dataset, summary = prepare.read(runs[0])
        codes, more = prepare.encode(dataset, runs[0])
    with owned(out):
        refuse_runs(runs)  # that began, and ended, meanwhile
        for cfg in missing:
            settings.write(replace(cfg, resume=False), Path(cfg.out) / "config.json")
        if missing:
            save_data(out, dataset, codes, [summary, *more])
        yield


def refuse_runs(runs: list[Config]) -> None:
    """Raise InputError if a run would begin in the folder of another."""
    for cfg in runs:
        if (Path(cfg.out) / "config.json").is_file() and not cfg.resume:
            raise InputError(f"{cfg.out} holds a run: go on by --resume, or name another folder by --out")


def open_run(cfg: Config, processes: Processes, sibling: Run | None = None) -> Run:
    """Open a folder by data.pt, here or in the folder above; InputError for another file.

    A simulated world is made again; a sibling on the same data lends its dataset and world. With one code per
    item, that is its number, and the codes in data.pt are those that items share, if any.
    """
    path, above = Path(cfg.out) / "data.pt", Path(cfg.out).resolve().parent / "data.pt"
    path = above if above.is_file() and not path.is_file() else path
    data = load(path)
    try:
        splits = {name: Examples(**data[name]) for name in SPLITS if name in data}
        rest = {name: data[name] for name in ("users", "periods", "rating", "time", "start")}
        rest["world"] = world.make_world(cfg) if data["simulated"] and not sibling else None
        dataset = Dataset(catalogue=Catalogue(**data["catalogue"]), **rest, **splits)
        dataset = sibling.dataset if sibling else dataset
        codes = Codes(**data["codes"])
        trie = shared = Trie(codes.codes.to(processes.device), codes.size)
        if cfg.levels == 1 < shared.levels:
            trie = Trie(torch.arange(len(shared), device=processes.device)[:, None], len(shared))
        items = shared if cfg.vectors and shared.levels > 1 else None
        return Run(cfg, dataset, trie, processes, data["notes"], data["fingerprint"], items)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: not the data of a run ({error})") from error


def find_run(folder: str | Path, device: str | torch.device = "cpu", sibling: Run | None = None) -> Run:
    """Open the folder of a run that has begun to train; InputError where it is none, or has no data.pt."""
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        why = "no such run folder, as it has no config.json; python -m minirec.train --tiny makes runs/tiny"
        raise InputError(f"{folder}: {why}")
    cfg = replace(settings.read(folder / "config.json"), out=str(folder))
    return open_run(cfg, Processes(pick_device(device)), sibling)


def refuse_others(path: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Raise InputError if something was made with other values of settings, for the first that differs."""
    for name, value in new.items():
        if old[name] != value:
            flag = "--" + name.replace("_", "-")
            raise InputError(f"{flag}: {path} was made with {old[name]}; remove it, or use another --out")
