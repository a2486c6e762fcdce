"""Bad input ends in one clear line and exit code 2, never in a traceback."""

import difflib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NoReturn


class InputError(ValueError):
    """Something the user gave is wrong; the message says what, where, and what would be right."""


def nearest(word: str, valid: Iterable[str]) -> str:
    """End an error message with the valid word closest to a wrong one, or else with some of the valid words.

    >>> nearest("epocs", ["epochs", "batch"])
    '; did you mean epochs?'
    >>> nearest("zzz", ["last", "group"])
    '; choose from last, group'
    """
    valid = list(valid)
    close = difflib.get_close_matches(word, valid, n=1)
    some = ", ".join(valid[:12]) + (", ..." if len(valid) > 12 else "")
    return f"; did you mean {close[0]}?" if close else f"; choose from {some}"


def usage_error(message: str) -> NoReturn:
    """Take the place of ``ArgumentParser.error``: one line instead of the usage."""
    raise InputError(message)


@contextmanager
def command() -> Iterator[None]:
    """Decorate a command's ``main``: an InputError becomes one line on stderr and exit code 2, Ctrl-C 130."""
    try:
        yield
    except InputError as error:
        print(f"minirec: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
