"""Files that appear whole or not at all, and a folder that one process has for itself."""

import os
import platform
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from minirec.errors import InputError


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a file for bytes that appears whole or not at all; InputError where it cannot be written."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:  # never through a link that somebody has laid there
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # the error above says what is wrong
            temporary.unlink()


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Make a folder, and have it for this process while the block runs; any other process is refused.

    The file ``lock`` is created exclusively and names the process. One that a dead process of this machine
    has left is taken over. Raises InputError if the folder is taken, or cannot be written.
    """
    lock, here = folder / "lock", f"process {os.getpid()} on {platform.node()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _take_over(lock)
        # Windows has no signal 0 to ask whether a process lives; there the lock goes with its process.
        number = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_TEMPORARY", 0))
    except OSError as error:
        if lock.is_file():
            words = f"{_owner(lock)} has it; wait, or remove {lock} if that process no longer runs"
            raise InputError(f"{folder}: {words}") from None
        raise InputError(f"{folder}: cannot be written: {error.strerror}; name another by --out") from None
    try:
        os.write(number, here.encode())
        yield
    finally:
        os.close(number)
        if _owner(lock) == here:
            lock.unlink(missing_ok=True)


def _owner(lock: Path) -> str:
    """The process that a lock names, as far as can be read."""
    try:
        return lock.read_text("utf-8", errors="replace") or "a process"
    except OSError:
        return "a process"


def _take_over(lock: Path) -> None:
    """Remove a lock whose owner is dead. It is moved first: of two processes one can, and reads it again."""
    owner = _owner(lock)
    if _alive(owner):
        return
    moved = lock.with_name(f"lock.{secrets.token_hex(8)}")
    os.rename(lock, moved)
    if _owner(moved) == owner:
        moved.unlink()
    else:  # another process came between
        os.rename(moved, lock)


def _alive(owner: str) -> bool:
    """Whether the process that a lock names may be running; of another machine, nobody knows."""
    found = re.fullmatch(r"process (\d{1,9}) on (.*)", owner)
    if os.name == "nt" or not found or found[2] != platform.node():
        return True
    try:
        with suppress(PermissionError):  # of another user
            os.kill(int(found[1]), 0)
    except ProcessLookupError:
        return False
    return True
