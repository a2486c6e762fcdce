"""Bad input ends in one clear line and exit code 2, never in a traceback."""

import difflib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NoReturn

ALIASES = {"lr": "rate", "learning-rate": "rate", "hidden": "width", "dim": "width", "d-model": "width"}
ALIASES |= {"max-len": "history", "generations": "group", "gpu": "device"}  # what others call a setting


class InputError(ValueError):
    """Something the user gave is wrong; the message says what, where, and what would be right."""


def nearest(word: str, valid: Iterable[str]) -> str:
    """End an error message with the valid word closest to a wrong one, or with some of the valid words."""
    valid = list(valid)
    name = re.sub("^(n|num)-|-size$", "", word.lstrip("-").replace("_", "-"))
    close = [each for each in valid if each.lstrip("-") == ALIASES.get(name, name)]
    close = close or difflib.get_close_matches(word, valid, n=1)
    some = ", ".join(valid[:12]) + (", ..." if len(valid) > 12 else "")
    return f"; did you mean {close[0]}?" if close else f"; choose from {some}"


def usage_error(message: str) -> NoReturn:
    """Take the place of ``ArgumentParser.error``: one line instead of the usage."""
    raise InputError(message)


def escaped(text: str) -> str:
    """Make a stranger's text safe for a terminal and a table: what is not printable becomes its escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@contextmanager
def command() -> Iterator[None]:
    """Decorate a command's ``main``: what the user can fix is one line and exit code 2, Ctrl-C is 130.

    What a terminal cannot show is printed as its escape. A reader that closes the pipe ends the command.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # not so in a notebook
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        sys.exit(1)
    except (InputError, OSError) as error:
        print(f"minirec: {escaped(str(error))}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:  # what is left, Python writes at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
