"""The contexts that reinforcement learning learns from: users that supervised training never saw.

On contexts that the policy was fitted to, its rollouts say little and an objective only fits them further. So
some users are left to RL, and to *supervised continued*, the control of all objectives. All of it is ours.
"""

from dataclasses import replace

import torch

from minirec.data.dataset import Examples
from minirec.noise import stream


def leave_fresh(train: Examples, share: float, seed: int) -> tuple[Examples, Examples]:
    """Split training sequences by user: those of most users, and those of a random share, left to RL."""
    users, owner = train.user.unique_consecutive(return_inverse=True)
    order = torch.randperm(len(users), generator=stream("fresh users", seed))
    chosen = torch.isin(owner, order[: round(share * len(users))])
    return train.select(~chosen), train.select(chosen)


def whole(sequences: Examples) -> Examples:
    """Join training windows, a user's one after another, to one sequence per user."""
    count = sequences.user.unique_consecutive(return_counts=True)[1]  # (U,) windows
    last = count.cumsum(0) - 1
    return replace(sequences.select(last), start=sequences.start[last - count + 1])


def contexts(sequences: Examples) -> Examples:
    """Make every item of training windows but a user's first a target (B, 1); all before it is history."""
    users = whole(sequences)
    count = (users.lengths - 1).clamp(min=0)  # (U,) targets
    owner = torch.arange(len(users)).repeat_interleave(count)  # (B,)
    stop = users.start[owner] + 1 + torch.arange(len(owner)) - (count.cumsum(0) - count)[owner]
    return replace(users.select(owner), stop=stop, targets=sequences.events[stop][:, None])
