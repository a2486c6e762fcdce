"""Every setting of a run: one frozen dataclass per stage, in pipeline order.

A field's ``help`` is its line in ``--help``. ``--tiny`` is the one dial: it turns the whole run into one of a
minute on the built-in world.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

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
        "none",
        "after supervised training: continued (NLL alone), grpo, adagrpo, recast, flexrec, list, all, none",
    )
    fresh: float = setting(0.0, "share of training users left to RL; .2 with an objective", most=0.9)
    rl_steps: int = setting(400, "batches of rollouts", least=1)
    rl_rate: float = setting(1e-4, "learning rate of Adam, constant")
    contexts: int = setting(32, "contexts per batch B, over all processes", least=1)
    group: int = setting(16, "rollouts per context G", least=1)
    updates: int = setting(1, "updates per batch of rollouts", least=1)
    clip_low: float = setting(0.2, "the ratio is clipped below 1 minus this")
    clip_high: float = setting(0.28, "and above 1 plus this (OpenOneRec: .2 and .28)")
    kl: float = setting(0.001, "weight of the k3 KL to the policy of the start (OpenOneRec: .001)")
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
    """How rewards become advantages, wherever a whole group is compared."""

    ddof: int = setting(1, "1: the unbiased std of a group (OpenOneRec), 0: the biased one", most=1)
    eps: float = setting(1e-6, "added to the std (OpenOneRec: 1e-6)")
    std: bool = setting(True, "divide by the std of the group; --no-std as in Dr. GRPO")
    leave_one_out: bool = setting(False, "the baseline is the mean of the others; with --no-std, RLOO")


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
