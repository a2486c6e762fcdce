"""Four ways of making a learning signal from a group of rollouts, and the control without one.

    loss        what all share: clipped ratio, KL, NLL
    grpo        a rollout against the mean of its group
    adagrpo     only where the policy is unsure and the ranker is sure
    recast      repair silent groups, then learn from one pair
    flexrec     credit for every position of a list
    continued   the control: NLL alone

An objective is a function of an Experience that returns a Signal. A new one is one file, with one
line in it: ``OBJECTIVES["name"] = signal``. To keep it, import and enter it here.
"""

from collections.abc import Callable

from minirec.objectives import adagrpo, continued, flexrec, grpo, recast
from minirec.records import Experience, Signal

OBJECTIVES: dict[str, Callable[[Experience], Signal]] = {
    "continued": continued.signal,
    "grpo": grpo.signal,
    "adagrpo": adagrpo.signal,
    "recast": recast.signal,
    "flexrec": flexrec.signal,
    "list": flexrec.signal,  # with --credit list: the baseline
}
