"""Supervised continued: NLL on the same fresh contexts, the control of every objective. All of it is ours.

    L(x) = NLL(g | x)

It is AdaGRPO with the gate shut: rollouts are made and measured, and nothing is learned from them.
"""

from minirec.records import Experience, Objective, Signal


def signal(x: Experience) -> Signal:
    """No sequence of the rollout; the NLL of every target."""
    none = x.rollout.codes[:0]
    return Signal(x.part[:0], none, none[..., 0].float(), width=1, nll=True)


OBJECTIVE = Objective(signal, "supervised continued", reads=("rollouts", "mask"))
