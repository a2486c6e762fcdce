"""Settings from a dictionary, a file, and the command line, which is generated from them."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from minirec.errors import InputError, nearest, usage_error
from minirec.files import atomic
from minirec.settings import ELSEWHERE, REINFORCED, SECTIONS, TINY, Config


def check_value(name: str, value: Any) -> Any:
    """Convert one setting to its declared type.

    Args:
        name: the field's name.
        value: what was given, a string or already of the right type.

    Returns:
        The value as int, float, bool or str.

    Raises:
        InputError: the field does not exist, or the value is not of its type; names the nearest valid one.

    >>> check_value("epochs", "12")
    12
    >>> check_value("split", "tim")
    Traceback (most recent call last):
    minirec.errors.InputError: --split: 'tim' is not valid; did you mean time?
    """
    types = get_type_hints(Config)
    if name not in types:
        raise InputError(f"unknown setting '{name}'{nearest(name, types)}")
    kind, flag = types[name], "--" + name.replace("_", "-")
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise InputError(f"{flag}: '{value}' is not valid{nearest(str(value), get_args(kind))}")
        return value
    if kind is bool and isinstance(value, bool):
        return value
    try:
        number = kind(value)
    except (TypeError, ValueError):
        example = getattr(Config(), name)
        raise InputError(f"{flag}: '{value}' is not {kind.__name__}; for example {example}") from None
    limits = Config.__dataclass_fields__[name].metadata
    if kind is not str and not limits["least"] <= number <= limits["most"]:  # NaN fails too
        raise InputError(f"{flag}: {value} is not valid; choose from {limits['least']} to {limits['most']}")
    return number


def from_dict(values: dict[str, Any], preset: Config | None = None) -> Config:
    """Make a Config from named values, the rest from a preset.

    Args:
        values: by field name, as in ``check_value``.
        preset: for all other fields; None is the defaults.

    Returns:
        The Config.

    Raises:
        InputError: a value that ``check_value`` refuses, or a width that is no multiple of twice the heads.

    >>> from_dict({"epocs": 3})
    Traceback (most recent call last):
    minirec.errors.InputError: unknown setting 'epocs'; did you mean epochs?
    """
    cfg = replace(preset or Config(), **{name: check_value(name, value) for name, value in values.items()})
    if cfg.width % (2 * cfg.heads):
        most = max(2 * cfg.heads, cfg.width // (2 * cfg.heads) * 2 * cfg.heads)
        raise InputError(f"--width: {cfg.width} is no multiple of twice --heads; the nearest is {most}")
    return cfg


def write(cfg: Config, path: Path) -> None:
    """Write a Config as JSON.

    Args:
        cfg: the settings.
        path: the file.

    Raises:
        InputError: the file cannot be written.
    """
    with atomic(path) as file:
        file.write(json.dumps(asdict(cfg), indent=1).encode() + b"\n")


def read(path: Path) -> Config:
    """Read a Config that ``write`` wrote.

    Raises:
        InputError: it is missing, damaged, or has an unknown setting.
    """
    try:
        return from_dict(json.loads(path.read_text()))
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: {error}; expected the settings of a run") from None


def parse(argv: list[str] | None = None) -> Config:
    """Read the command line of ``minirec.train``.

    Args:
        argv: the arguments, by default those of the process.

    Returns:
        The Config: the flags given, over the ``--tiny`` preset or the defaults.

    Raises:
        InputError: an unknown flag or an ill-typed value, with the nearest valid one.
    """
    parser = argparse.ArgumentParser(
        prog="python -m minirec.train",
        description="Train a generative recommender on a click log or on the built-in world.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--tiny", action="store_true", help="the whole run in seconds, on the built-in world")
    types = get_type_hints(Config)
    for section in SECTIONS:
        group = parser.add_argument_group(section.__name__.removesuffix("Config").lower(), section.__doc__)
        for f in fields(section):
            flag = "--" + f.name.replace("_", "-")
            text = f.metadata["help"] + ("" if f.default in ("", False) else f" [{f.default}]")
            if types[f.name] is bool:
                group.add_argument(flag, action=argparse.BooleanOptionalAction, help=text)
            else:
                group.add_argument(flag, metavar=f.name.split("_")[-1].upper(), help=text)
    parser.error = usage_error  # type: ignore[method-assign]
    known, unknown = parser.parse_known_args(argv)
    if unknown:
        flags = [option for action in parser._actions for option in action.option_strings]
        raise InputError(f"unknown argument '{unknown[0]}'{nearest(unknown[0].split('=')[0], flags)}")
    given = vars(known)
    preset = TINY if given.pop("tiny", False) else Config()
    cfg = from_dict(given, preset)
    if not cfg.data and "keep_seen" not in given:
        cfg = replace(cfg, keep_seen=True)  # the world draws with replacement: what was seen comes again
    from minirec.objectives import OBJECTIVES  # here, as objectives read settings

    if cfg.objective not in (choices := ("none", "all", *OBJECTIVES)):
        raise InputError(f"--objective: '{cfg.objective}' is not valid{nearest(cfg.objective, choices)}")
    if cfg.objective != "none" and "fresh" not in given and not cfg.resume:
        cfg = replace(cfg, fresh=0.2)
    if not cfg.out:
        name = Path(cfg.data).name.split(".")[0].lower() or "world"
        cfg = replace(cfg, out=f"runs/{name}")
    return _resumed(cfg, given) if cfg.resume else cfg


def _resumed(cfg: Config, given: dict[str, Any]) -> Config:
    """The settings of the run that is gone on with; flags beside --resume must not contradict them."""
    path = Path(cfg.out) / "config.json"
    if not path.is_file():
        raise InputError(
            f"--resume: {cfg.out} holds no run; name its folder with --out, or leave out --resume"
        )
    old = read(path)
    later = {f.name for section in REINFORCED for f in fields(section)} - {"fresh"}  # arms check their own
    for name in given.keys() - ELSEWHERE - later:
        if getattr(cfg, name) != getattr(old, name):
            flag, value = name.replace("_", "-"), getattr(old, name)
            raise InputError(f"--{flag}: the run in {cfg.out} has {value}; it cannot change on the way")
    return replace(old, **{name: getattr(cfg, name) for name in (ELSEWHERE | later) & given.keys()})
