"""Every setting of a run, and the command line that is generated from them.

One frozen dataclass per stage, in pipeline order. A field's ``help`` is its line in ``--help``.
``--tiny`` is the one dial: it turns the whole run into one of seconds on the built-in world.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from minirec.errors import InputError, nearest, usage_error
from minirec.files import atomic

ELSEWHERE = {"out", "device", "threads", "resume"}  # may change when a run goes on elsewhere


def setting(default: Any, help: str, least: float = 0, most: float = 2**31 - 1) -> Any:
    """Declare a dataclass field.

    Args:
        default: of the setting.
        help: its line in ``--help``.
        least, most: the range of a number, both ends included.

    Returns:
        The field, with help and range as its metadata.
    """
    return field(default=default, metadata={"help": help, "least": least, "most": most})


@dataclass(frozen=True)
class RunConfig:
    """Where a run lives and what it runs on."""

    out: str = setting("", "run folder (default: runs/NAME)")
    seed: int = setting(0, "seed of everything that is drawn")
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "auto, cpu or cuda")
    threads: int = setting(0, "CPU threads; 0 leaves it to torch")
    sasrec: bool = setting(True, "also train the one-code-per-item baseline, SASRec, for the table")


@dataclass(frozen=True)
class DataConfig:
    """A real log. Without --data the run uses the built-in world."""

    data: str = setting(
        "", "log file: ratings.csv, *.inter, sequences *.txt, or any csv/tsv; .gz as it comes"
    )
    columns: str = setting("", "names of csv columns: user=..,item=..,time=..,rating=..,group=..")
    items: str = setting("", "side information: a csv keyed by item, or a json of item to attributes")
    split: Literal["last", "group", "time"] = setting(
        "last", "leave out: last item, last group, or by global time"
    )
    core: int = setting(5, "keep users and items with at least this many events (k-core); 0 keeps all")


@dataclass(frozen=True)
class WorldConfig:
    """The simulated world (ours): a topic tree, tastes, and a law p*(next | taste, last item, period)."""

    world_items: int = setting(512, "items N")
    world_users: int = setting(8000, "users; each has one history and one period")
    world_events: int = setting(7, "events per user, the target included")
    world_periods: int = setting(6, "periods over which popularity moves")
    world_beta: float = setting(8.0, "how strongly taste decides the next item")


@dataclass(frozen=True)
class CodesConfig:
    """Items to code tuples."""

    levels: int = setting(3, "codes per item L; 1 gives each item a code of its own (SASRec)", least=1)
    codes: int = setting(256, "codes per level V (ignored with --levels 1)", least=1)


@dataclass(frozen=True)
class PolicyConfig:
    """The decoder-only transformer."""

    history: int = setting(50, "most recent items the policy sees", least=1)
    width: int = setting(128, "model width d", least=2)
    layers: int = setting(2, "transformer blocks", least=1)
    heads: int = setting(2, "attention heads", least=1)
    dropout: float = setting(0.3, "dropout on embeddings and residual branches", most=0.9)


@dataclass(frozen=True)
class TrainConfig:
    """Supervised training by NLL on the code tokens at all positions."""

    epochs: int = setting(40, "passes over the training sequences", least=1)
    batch: int = setting(1024, "items of history per step, over all processes", least=1)
    rate: float = setting(2e-3, "peak learning rate")
    warmup: float = setting(0.05, "share of the steps with a rising rate; then it falls as a cosine", most=1)
    decay: float = setting(0.01, "weight decay of AdamW")
    clip: float = setting(1.0, "largest gradient norm")
    validate: int = setting(5, "epochs between validations and checkpoints", least=1)
    resume: bool = setting(False, "go on with an interrupted run")


@dataclass(frozen=True)
class LoopConfig:
    """Reinforcement learning: the one loop and the one loss of all objectives."""

    objective: str = setting(
        "none", "after supervised training: one of objectives/, continued (NLL alone), all, or none"
    )
    fresh: float = setting(0.0, "share of training users left to RL; .2 with an objective", most=0.9)
    rl_steps: int = setting(400, "batches of rollouts", least=1)
    rl_rate: float = setting(1e-4, "learning rate of Adam, constant")
    contexts: int = setting(32, "contexts per batch B, over all processes", least=1)
    group: int = setting(16, "rollouts per context G", least=1)
    updates: int = setting(1, "updates per batch of rollouts", least=1)
    clip_low: float = setting(0.2, "the ratio is clipped below 1 minus this")
    clip_high: float = setting(0.28, "and above 1 plus this (OpenOneRec: .2 and .28)")
    kl: float = setting(0.001, "weight of the k3 KL to the supervised policy (OpenOneRec: .001)")
    rollouts: Literal["sample", "beam"] = setting(
        "sample", "a group: samples, or the beams of one beam search"
    )
    mask: Literal["auto", "trie", "none"] = setting(
        "auto", "of rollouts; auto: none for adagrpo, else the trie"
    )
    reward: Literal["auto", "hit", "ranker"] = setting("auto", "auto: the ranker for adagrpo, else hit")
    measure: int = setting(20, "batches between lines of metrics", least=1)


@dataclass(frozen=True)
class GRPOConfig:
    """How rewards become advantages; every objective but contrast uses it."""

    ddof: int = setting(1, "1: the unbiased std of a group (OpenOneRec), 0: the biased one", most=1)
    eps: float = setting(1e-6, "added to the std (OpenOneRec: 1e-6)")
    std: bool = setting(True, "divide by the std of the group; --no-std as in Dr. GRPO")
    leave_one_out: bool = setting(False, "the baseline of a rollout is the mean of the others")


@dataclass(frozen=True)
class AdaGRPOConfig:
    """The gate."""

    gate: Literal["both", "difficulty", "discriminability", "random", "open", "shut"] = setting(
        "both", "which contexts the reward may teach; random: as many as both, open: a fixed mixture"
    )
    tau: float = setting(0.125, "difficult: rank of the target beyond tau*G; well ranked: within it", most=1)
    rho: float = setting(0.25, "negatives rank beyond rho*G", most=1)
    negatives: int = setting(5, "cross-sample negatives M (paper: 5)")
    rl_weight: float = setting(1.0, "weight of the admitted GRPO term beside the NLL")
    ranker: Literal["trained", "right", "noise", "harmful"] = setting(
        "trained", "the reward; all but trained are designed ones of the simulated world"
    )


@dataclass(frozen=True)
class ReCastConfig:
    """The two switches."""

    repair: bool = setting(True, "put the target into groups without a hit")
    contrast: bool = setting(True, "update one hit and one near miss; without it, the whole group")


@dataclass(frozen=True)
class FlexRecConfig:
    """Ranking of closed candidate sets for a need."""

    credit: Literal["causal", "noncausal", "independent", "list"] = setting(
        "causal", "of a position: swaps with later ones, with all others, its own gain, or the list's NDCG"
    )
    candidates: int = setting(10, "size of the set C; all of it is ranked", least=2)
    list_steps: int = setting(60, "batches of rollouts for lists", least=1)
    list_rate: float = setting(5e-4, "learning rate of Adam for lists")
    list_group: int = setting(8, "rankings per context", least=1)
    warm: int = setting(40, "steps of the list warm start", least=0)
    feedback: float = setting(
        1.0, "share of the gains that are observed; the rest is filled by the critic", most=1
    )
    uncertainty: Literal["none", "context", "rollout"] = setting(
        "context",
        "advantages scaled by 1/variance of the critic: per context (ours), per rollout (the paper)",
    )
    critic_steps: int = setting(600, "updates of the critic")


@dataclass(frozen=True)
class EvaluateConfig:
    """Full-catalogue evaluation."""

    keep_seen: bool = setting(False, "let items of the user's past be recommended again (the world does)")
    beam: int = setting(100, "beam width", least=1)
    samples: int = setting(50, "rollouts per context for Pass@K; 0 leaves it out")
    valid_users: int = setting(5000, "at most this many validation contexts choose the epoch", least=1)


@dataclass(frozen=True)
class Config(
    RunConfig,
    DataConfig,
    WorldConfig,
    CodesConfig,
    PolicyConfig,
    TrainConfig,
    LoopConfig,
    GRPOConfig,
    AdaGRPOConfig,
    ReCastConfig,
    FlexRecConfig,
    EvaluateConfig,
):
    """All settings of a run, flat: every field is a flag of the command line."""


SECTIONS = Config.__bases__
REINFORCED = (LoopConfig, GRPOConfig, AdaGRPOConfig, ReCastConfig, FlexRecConfig)

TINY = Config(
    out="runs/tiny",
    codes=16,
    history=6,
    width=48,
    dropout=0.0,
    epochs=15,
    batch=512,
    rate=7e-3,
    validate=3,
    objective="all",
    fresh=0.2,
    rl_steps=120,
    measure=40,
    ranker="harmful",
    feedback=0.3,
    critic_steps=300,
    beam=50,
)


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
