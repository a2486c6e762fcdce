"""Files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from minirec.errors import InputError


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a file for bytes that appears whole or not at all: a temporary name, flushed, then renamed.

    If the block raises, the temporary file is removed and ``path`` is untouched. Raises InputError if the
    folder is missing or cannot be written, or the disk is full.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
