"""The contexts that reinforcement learning learns from: users that supervised training never saw.

On contexts that the policy was fitted to, its own rollouts say little and every objective only fits them
further. So users are split: some are left to RL, and to *supervised continued*, the control that every
objective is held against.
"""

import torch
from torch import Tensor

from minirec.data.dataset import Examples
from minirec.noise import stream


def leave_fresh(train: Examples, share: float, seed: int) -> tuple[Examples, Examples]:
    """Split the training users.

    Args:
        train: training sequences, a user's windows one after another.
        share: of the users that are left to RL.
        seed: of the choice.

    Returns:
        The sequences of the others and those of the chosen; each user is whole in one of them.

    Source: ours.
    """
    users, owner = train.user.unique_consecutive(return_inverse=True)
    order = torch.randperm(len(users), generator=stream("fresh users", seed))
    chosen = torch.zeros(len(users), dtype=torch.bool)
    chosen[order[: round(share * len(users))]] = True
    return train.select(~chosen[owner]), train.select(chosen[owner])


def contexts(sequences: Examples) -> Examples:
    """Make every item but a user's first a target, with all before it as history.

    Args:
        sequences: training sequences, a user's windows one after another.

    Returns:
        Examples with one target each, (B, 1), in the order of users and time.

    Source: ours.
    """
    users, count = sequences.user.unique_consecutive(return_counts=True)
    last = count.cumsum(0) - 1  # the last window of each user
    begin, end = sequences.start[last - count + 1], sequences.stop[last]  # (U,)
    own = (end - begin - 1).clamp(min=0)  # targets of each user
    owner = torch.arange(len(users)).repeat_interleave(own)  # (B,)
    stop = begin[owner] + 1 + torch.arange(len(owner)) - (own.cumsum(0) - own)[owner]
    return Examples(
        events=sequences.events,
        start=begin[owner],
        stop=stop,
        user=users[owner],
        condition=sequences.condition[last][owner],
        targets=sequences.events[stop][:, None],
        tied=torch.zeros(len(owner), dtype=torch.bool),
    )


def step_rows(count: int, size: int, seed: int, step: int) -> Tensor:
    """Pick the contexts of a step: every context once, in random order, before any comes again.

    Args:
        count: contexts there are, at least ``size``.
        size: B.
        seed: of the run.
        step: from 0; the last contexts of a pass, fewer than B, are left out.

    Returns:
        (B,) int64, a function of the arguments alone.

    Source: ours.

    >>> step_rows(5, 2, seed=0, step=0).tolist(), step_rows(5, 2, seed=0, step=1).tolist()
    ([4, 0], [1, 3])
    """
    epoch, place = divmod(step, count // size)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
    return order[place * size : (place + 1) * size]
