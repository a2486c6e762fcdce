"""Four ways of making a learning signal from a group of rollouts, and the control without one.

An objective is a record around a function from an Experience to a Signal; the loss is shared. A new one is
one file, with one line in it: ``OBJECTIVES["name"] = Objective(signal, "title")``. These files import the
ground, records, rewards, policy and ops. Read ``grpo.py`` first.
"""

from dataclasses import replace
from typing import Any

from minirec.errors import InputError
from minirec.objectives import adagrpo, continued, flexrec, grpo, recast
from minirec.records import Objective
from minirec.settings import Config

OBJECTIVES: dict[str, Objective] = {
    "continued": continued.OBJECTIVE,
    "grpo": grpo.OBJECTIVE,
    "adagrpo": adagrpo.OBJECTIVE,
    "recast": recast.OBJECTIVE,
    "flexrec": flexrec.OBJECTIVE,
    "list": flexrec.BASELINE,
}


def settings_of(cfg: Config, name: str, **changes: Any) -> Config:
    """The settings of an objective: its defaults, unless the command line or ``changes`` say otherwise.

    Raises InputError for a gate that could never open, or a designed ranker on real data.
    """
    objective, given = OBJECTIVES[name], (*cfg.given, *changes)
    defaults = {key: value for key, value in objective.defaults.items() if key not in given}
    cfg = replace(cfg, objective=name, **defaults, **changes)
    if name == "adagrpo" and cfg.tau * cfg.group < 1:
        why = f"{cfg.tau} of a group of {cfg.group} is less than one place, so the gate could never open"
        raise InputError(f"--tau: {why}; the smallest that can is {1 / cfg.group:.4g}")
    if cfg.reward == "ranker" and not objective.lists and cfg.data and cfg.ranker != "trained":
        raise InputError(f"--ranker: '{cfg.ranker}' is made from the simulated world; use trained")
    return cfg
