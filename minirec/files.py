"""Files that appear whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from minirec.errors import InputError


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a file for bytes that appears whole or not at all: a temporary name, flushed, then renamed.

    If the block raises, the temporary file is removed and ``path`` is untouched. Raises InputError if the
    folder is missing or cannot be written, or the disk is full.
    """
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
