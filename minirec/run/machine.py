"""What a run stands on: a device, memory, the other processes of ``torchrun``, and Ctrl-C."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch
import torch.distributed as dist

from minirec.errors import InputError, nearest
from minirec.settings import Config
from minirec.tasks import Processes


def pick_device(name: str | torch.device) -> torch.device:
    """Make a device of auto, cpu, mps, cuda or cuda:N; of cuda, under ``torchrun``, the GPU of this process.

    auto is CUDA, where there is one, or the CPU. Raises InputError for a device that is not there.
    """
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if name == "auto":
        name = "cuda" if there["cuda"] else "cpu"
    kind, _, number = str(name).partition(":")
    if kind not in there or not (number or "0").isdecimal():
        raise InputError(f"--device: '{name}' is not valid{nearest(kind, ('auto', *there))}")
    place = int(number or (os.environ.get("LOCAL_RANK", 0) if kind == "cuda" else 0))
    if place >= there[kind]:
        found = f"{kind} devices of this machine: {there[kind]}"
        raise InputError(f"--device: {found}; use cpu, or fewer processes")
    if kind == "cuda":
        torch.cuda.set_device(place)  # what several processes exchange goes through their own
    return torch.device(kind, place) if kind == "cuda" else torch.device(kind)


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory: on a CPU, fresh pages for every large tensor halve the speed."""
    with suppress(AttributeError, OSError, TypeError):  # not glibc
        for parameter, value in ((-4, 0), (-1, 2**31 - 1), (-8, 1)):  # no mmap, no trim, one arena
            ctypes.CDLL(None).mallopt(parameter, value)


def prepare(cfg: Config, device: torch.device) -> None:
    """Set the number of threads, so that the numbers of a small policy are the same on every laptop."""
    if cfg.threads or cfg.width < 128:
        torch.set_num_threads(cfg.threads or 1)
    if device.type == "cpu":
        keep_freed_memory()


def join(cfg: Config) -> Processes:
    """Prepare this machine, and join the other processes that ``torchrun`` started, if any."""
    count, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    processes = Processes(pick_device(cfg.device), count, rank)
    prepare(cfg, processes.device)
    if count > 1 and not dist.is_initialized():
        backend = "nccl" if processes.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(hours=6))  # the first one alone evaluates
    return processes


def lost(error: RuntimeError) -> bool:
    """Whether an error says that another process is gone."""
    return dist.is_initialized() and any(word in str(error).lower() for word in ("gloo", "nccl", "peer"))


def leave() -> None:
    """Wait for all processes, then end this one at once, where there are several."""
    if dist.is_initialized():
        dist.barrier()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # tearing gloo's threads down aborts now and then, in 1 of 24 runs when busy


@contextmanager
def interruptions() -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM in a list, so that the step in progress ends before the run does."""
    caught: list[int] = []
    numbers = signal.SIGINT, signal.SIGTERM
    before = {number: signal.signal(number, lambda n, _: caught.append(n)) for number in numbers}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
