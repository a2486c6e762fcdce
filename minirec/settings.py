"""Every setting of a run: one frozen dataclass per stage, and the command line made from them.

A field's ``help`` is its line in ``--help``. ``--tiny`` is the one dial: a run of a minute on the world.
"""

import argparse
import json
import shlex
import sys
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from minirec.errors import InputError, nearest, usage_error
from minirec.files import atomic

ELSEWHERE = {"out", "device", "threads", "resume", "test_contexts"}  # may change when a run goes on elsewhere


def setting(default: Any, help: str, least: float = 0, most: float = 10**6) -> Any:
    """Declare a dataclass field: its default, its line in ``--help``, and the range of a number."""
    return field(default=default, metadata={"help": help, "least": least, "most": most})


@dataclass(frozen=True)
class RunConfig:
    """Where a run lives, what it runs on, and how it is evaluated."""

    out: str = setting("", "run folder (default: runs/NAME)")
    seed: int = setting(0, "seed of everything that is drawn", most=2**31 - 1)
    device: str = setting("auto", "auto, cpu, mps, cuda or cuda:N")
    threads: int = setting(0, "CPU threads; 0: 1 with --width below 128, else torch's own", most=1024)
    sasrec: bool = setting(True, "also train the one-code-per-item baseline, SASRec, for the table")
    keep_seen: bool = setting(False, "let items of the user's past be recommended again (the world does)")
    floors: bool = setting(False, "read the log and evaluate the floors alone; nothing is trained")
    test_contexts: int = setting(0, "test contexts, a random sample of so many; 0 takes all", most=10**9)
    beam: int = setting(100, "beam width; metrics at a larger K are left out", least=1)
    samples: int = setting(50, "rollouts per context for Pass@K, K up to this; 0 leaves it out", most=10_000)


@dataclass(frozen=True)
class DataConfig:
    """A real log. Without --data the run uses the built-in world."""

    data: str = setting("", "log: csv, tsv, .dat, .inter, .txt, json lines, parquet; gzipped or zipped too")
    columns: str = setting("", "names or positions: user=..,item=..,time=..,rating=..,group=..")
    items: str = setting("", "side information: a csv keyed by item, or a json of item to attributes")
    item_codes: str = setting("", "json of item to codes made elsewhere; sets --levels and --codes")
    split: Literal["last", "group", "time"] = setting("last", "what is left out: last item, group, time")
    core: int = setting(5, "keep users and items with at least this many events (k-core); 0 keeps all")


@dataclass(frozen=True)
class WorldConfig:
    """The simulated world (ours): a topic tree, tastes, and a law p*(next | taste, last item, period)."""

    world_items: int = setting(512, "items N", least=2, most=10**7)
    world_users: int = setting(8000, "users; each has one history and one period", least=10, most=10**8)
    world_events: int = setting(7, "events per user, the target included", least=2)
    world_periods: int = setting(6, "periods over which popularity moves", least=1)
    world_beta: float = setting(8.0, "how strongly taste decides the next item")


@dataclass(frozen=True)
class PolicyConfig:
    """Item codes, and the decoder-only transformer over them."""

    levels: int = setting(3, "codes per item L; 1: its number (SASRec with --no-vectors)", least=1, most=32)
    codes: int = setting(256, "codes per level V", least=1)
    history: int = setting(50, "most recent items the policy sees", least=1, most=10_000)
    width: int = setting(128, "model width d", least=2, most=2**14)
    layers: int = setting(2, "transformer blocks", least=1, most=1024)
    heads: int = setting(2, "attention heads", least=1, most=2**13)
    dropout: float = setting(0.3, "dropout on embeddings and residual branches", most=0.9)
    vectors: bool = setting(True, "items have vectors: they order what codes find (README)")


@dataclass(frozen=True)
class TrainConfig:
    """Supervised training by NLL on the code tokens at all positions."""

    epochs: int = setting(16, "passes over the training sequences", least=1)
    batch: int = setting(1024, "items of history per step, over all processes", least=1, most=10**8)
    rate: float = setting(2e-3, "peak learning rate")
    clip: float = setting(1.0, "largest gradient norm")
    validate: int = setting(2, "epochs between validations and checkpoints", least=1)
    patience: int = setting(3, "stop after so many validations without a better one; 0: never")
    resume: bool = setting(False, "go on with an interrupted run")


@dataclass(frozen=True)
class LoopConfig:
    """Reinforcement learning: the one loop and the one loss of all objectives."""

    objective: str = setting("none", "continued (NLL), grpo, adagrpo, recast, flexrec, list, all or none")
    fresh: float = setting(0.0, "share of training users left to RL; .2 with an objective", most=0.9)
    rl_steps: int = setting(400, "batches of rollouts; 60 for lists unless given", least=1)
    rl_rate: float = setting(1e-4, "learning rate of Adam, constant; 5e-4 for lists unless given")
    contexts: int = setting(32, "contexts per batch B, over all processes", least=1)
    group: int = setting(16, "rollouts per context G; 8 for lists unless given", least=1, most=10_000)
    updates: int = setting(1, "updates per batch of rollouts", least=1)
    clip_low: float = setting(0.2, "the ratio is clipped below 1 minus this")
    clip_high: float = setting(0.28, "and above 1 plus this (OpenOneRec: .2 and .28)")
    kl: float = setting(0.001, "weight of the k3 KL to the policy of the start (OpenOneRec: .001)")
    rollouts: Literal["sample", "beam"] = setting("sample", "a group: samples, or the beams of one search")
    mask: Literal["trie", "none"] = setting("trie", "of rollouts; adagrpo has none unless it is given")
    reward: Literal["hit", "ranker"] = setting("hit", "of next items; adagrpo has the ranker's")
    measure: int = setting(20, "batches between lines of metrics", least=1)


@dataclass(frozen=True)
class GRPOConfig:
    """How rewards become advantages, wherever a whole group is compared."""

    ddof: int = setting(1, "1: the unbiased std of a group (OpenOneRec), 0: the biased one", most=1)
    eps: float = setting(1e-6, "added to the std (OpenOneRec: 1e-6)")
    std: bool = setting(True, "divide by the std of the group; --no-std as in Dr. GRPO")
    leave_one_out: bool = setting(False, "the baseline is the mean of the others; with --no-std, RLOO")


@dataclass(frozen=True)
class AdaGRPOConfig:
    """The gate."""

    gate: Literal["both", "difficulty", "discriminability", "random", "open", "shut"] = setting(
        "both", "contexts that the reward teaches; random: as many as both, open: all"
    )
    tau: float = setting(0.125, "difficult: rank of the target beyond tau*G; well ranked: within it", most=1)
    rho: float = setting(0.25, "negatives rank beyond rho*G", most=1)
    negatives: int = setting(5, "cross-sample negatives M (paper: 5)")
    rl_weight: float = setting(1.0, "weight of the admitted GRPO term beside the NLL")
    ranker: Literal["trained", "right", "noise", "harmful"] = setting("trained", "all others are simulated")


@dataclass(frozen=True)
class ReCastConfig:
    """The two switches."""

    repair: bool = setting(True, "put the target into groups without a hit")
    contrast: bool = setting(True, "update one hit and one near miss; without it, the whole group")


@dataclass(frozen=True)
class FlexRecConfig:
    """Ranking of closed candidate sets for a need."""

    credit: Literal["causal", "noncausal", "independent", "list"] = setting(
        "causal", "of a position: swaps with later ones, with all, its gain, the NDCG"
    )
    candidates: int = setting(10, "size of the set C; all of it is ranked", least=2, most=10_000)
    feedback: float = setting(1.0, "share of the gains that are observed; the critic fills the rest", most=1)
    uncertainty: Literal["none", "context", "rollout"] = setting(
        "context", "1/variance scales: per context (ours) or rollout (paper)"
    )


@dataclass(frozen=True)
class Reinforced(LoopConfig, GRPOConfig, AdaGRPOConfig, ReCastConfig, FlexRecConfig):
    """All that reinforcement learning has beyond supervised training."""


@dataclass(frozen=True)
class Config(RunConfig, DataConfig, WorldConfig, PolicyConfig, TrainConfig, Reinforced):
    """All settings of a run, flat: every field but the last is a flag of the command line."""

    given: tuple[str, ...] = setting((), "what the command line named: an objective's defaults yield to it")


SECTIONS = (*Config.__bases__[:-1], *Reinforced.__bases__)
TYPES = get_type_hints(Config)
LEARNING = {f.name for section in SECTIONS[3:] for f in fields(section)}  # what floors do not read
REINFORCED = {f.name for f in fields(Reinforced)} - {"fresh"}  # the users are divided before

TINY = Config(out="runs/tiny", codes=16, history=6, width=48, dropout=0.0, beam=50)
TINY = replace(TINY, vectors=False, epochs=15, batch=512, rate=7e-3, validate=3, patience=0)
TINY = replace(TINY, objective="all", fresh=0.2, rl_steps=120, measure=40, ranker="harmful", feedback=0.3)


def check_value(name: str, value: Any) -> Any:
    """Convert one setting to its declared type; InputError names the nearest valid setting or value."""
    if name not in TYPES:
        raise InputError(f"unknown setting '{name}'{nearest(name, TYPES)}")
    kind, flag, f = TYPES[name], "--" + name.replace("_", "-"), Config.__dataclass_fields__[name]
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise InputError(f"{flag}: '{value}' is not valid{nearest(str(value), get_args(kind))}")
        return value
    try:
        value = kind(value)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{flag}: '{value}' is not {kind.__name__}; for example {f.default}") from None
    least, most = f.metadata["least"], f.metadata["most"]
    if kind in (int, float) and not least <= value <= most:  # NaN fails too
        raise InputError(f"{flag}: {value} is not valid; choose from {least} to {most}")
    return value


def from_dict(values: dict[str, Any], preset: Config | None = None) -> Config:
    """Make a Config from named values, the rest from a preset; InputError for one that is not valid."""
    cfg = replace(preset or Config(), **{name: check_value(name, value) for name, value in values.items()})
    if cfg.width % (2 * cfg.heads):
        most = max(2 * cfg.heads, cfg.width // (2 * cfg.heads) * 2 * cfg.heads)
        raise InputError(f"--width: {cfg.width} is no multiple of twice --heads; the nearest is {most}")
    return cfg


def write(cfg: Config, path: Path) -> None:
    """Write a Config as JSON into a folder, made if need be; InputError if the file cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as file:
        file.write(json.dumps(asdict(cfg), indent=1).encode() + b"\n")


def read(path: Path) -> Config:
    """Read a Config that ``write`` wrote; InputError if it is missing, damaged, or has an unknown setting."""
    try:
        return from_dict(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: {error}; expected the settings of a run") from None


def arguments(argv: list[str] | None = None) -> dict[str, str | bool]:
    """Read the flags of ``minirec.train``, by the names of their settings; InputError for an unknown one."""
    about = "Train a generative recommender on a click log or on the built-in world. [default]"
    usage = "python -m minirec.train [--tiny | --data FILE] [--FLAG VALUE ...]"
    parser = argparse.ArgumentParser(usage=usage, description=about, allow_abbrev=False)
    parser.argument_default = argparse.SUPPRESS  # what is not given is not there
    parser.add_argument("--tiny", action="store_true", help="all of it in minutes, on the built-in world")
    for section in SECTIONS:
        group = parser.add_argument_group(section.__name__.removesuffix("Config").lower(), section.__doc__)
        for f in fields(section):
            flag, kind = "--" + f.name.replace("_", "-"), TYPES[f.name]
            text = f.metadata["help"] + ("" if f.default in ("", False) else f" [{f.default}]")
            if kind is bool:
                group.add_argument(flag, action=argparse.BooleanOptionalAction, help=text)
            else:
                value = {int: "N", float: "X", str: "WORD"}.get(kind) or f"{{{','.join(get_args(kind))}}}"
                group.add_argument(flag, metavar=value, help=text)
    parser.error = usage_error  # type: ignore[method-assign]
    known, unknown = parser.parse_known_args(argv)
    if unknown:
        hint = nearest(unknown[0].split("=")[0], parser._option_string_actions)
        raise InputError(f"unknown argument '{unknown[0]}'{hint}")
    return vars(known)


def command_line(cfg: Config) -> str:
    """The command that makes a run again in another folder: what was named, over the preset that it had."""
    changed = [{name for name in TYPES if getattr(cfg, name) != getattr(p, name)} for p in (Config(), TINY)]
    tiny = len(changed[1].difference(cfg.given)) < len(changed[0].difference(cfg.given))
    words = [*sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1], *["--tiny"] * tiny]
    named = changed[tiny].union(cfg.given)
    for name in [name for name in TYPES if name in named - {"out", "resume", "given"}]:
        flag, value = name.replace("_", "-"), getattr(cfg, name)
        words += [f"--{'' if value else 'no-'}{flag}"] if TYPES[name] is bool else [f"--{flag}", str(value)]
    return shlex.join([*words, "--out", "runs/again"])


def configure(given: dict[str, str | bool]) -> Config:
    """Put flags over a preset, or over the run that --resume names; InputError if they contradict it."""
    values = {name: value for name, value in given.items() if name != "tiny"}
    cfg = from_dict(values | {"given": sorted(values)}, TINY if given.get("tiny") else Config())
    if not cfg.data and "keep_seen" not in given:
        cfg = replace(cfg, keep_seen=True)  # the world draws with replacement: what was seen comes again
    if cfg.objective != "none" and "fresh" not in given and not cfg.resume:
        cfg = replace(cfg, fresh=0.2)
    if not cfg.out:
        name = Path(cfg.data).name.split(".")[0].lower() or "world"
        cfg = replace(cfg, out=f"runs/{name}")
    if not cfg.resume:
        return cfg
    path = Path(cfg.out) / "config.json"
    if not path.is_file():
        raise InputError(f"--resume: {cfg.out} holds no run; --out names its folder, or leave out --resume")
    old, free = read(path), ELSEWHERE | REINFORCED  # arms check their own
    for name in sorted(values.keys() - free):
        if getattr(cfg, name) != getattr(old, name):
            flag, value = name.replace("_", "-"), getattr(old, name)
            raise InputError(f"--{flag}: the run in {cfg.out} has {value}; it cannot change on the way")
    changed = {name: getattr(cfg, name) for name in free & values.keys()}
    return replace(old, **changed | {"out": cfg.out}, given=tuple(sorted({*cfg.given, *old.given})))
