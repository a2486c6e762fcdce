"""Files that appear whole or not at all, and a folder that one process has for itself."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

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

    The operating system locks the file ``lock`` in it, and lets go when the process ends, however it ends.
    Raises InputError if the folder is taken, or cannot be written.
    """
    lock = FileLock(folder / "lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise InputError(f"{folder}: another process has it; wait, or name another folder by --out") from None
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror}; name another by --out") from None
    try:
        yield
    finally:
        lock.release()
