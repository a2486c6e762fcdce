"""The bug: ``user.repeat(group)``. It gives users 0, 1, 2, ..., and the flat items are of users 0, 0, 0, ...

So most items were scored for a user whom they were not meant for. Shapes, range and type are right, and the
mean is that of a poor policy, which policies are. ``repeat_interleave`` repeats each user in place.

How one could have seen it: score each user in a batch of one, where nobody can be mixed up, and the rewards
are others; or put the users into another order, and the rewards do not follow. A reward is a function of a
context and an item. Whatever else it changes with is a bug.
"""

import torch
from torch import Tensor

from minirec import settings
from minirec.data import world


def group_rewards(truth: world.World, user: Tensor, items: Tensor) -> Tensor:
    """Rewards (B, G) of a group of items (B, G) for each of B users.

    A production ranker takes pairs, one user and one item a row. So the group is made flat and back again.
    """
    size, group = items.shape
    pairs = user.repeat_interleave(group), items.reshape(-1, 1)  # (B·G,), (B·G, 1)
    return world.true_score(truth, *pairs).view(size, group).float()


def main() -> None:
    """Say what groups of 16 likely items are worth."""
    truth = world.make_world(settings.Config(world_items=512, world_users=1000))
    user = torch.arange(256)
    liked = (truth.beta * truth.affinity(user, torch.arange(512).expand(256, -1))).softmax(1)  # (B, N)
    items = liked.multinomial(16, replacement=True, generator=torch.Generator().manual_seed(0))
    rewards = group_rewards(truth, user, items)
    print(f"mean reward       {rewards.mean():.3f}")
    print(f"best of a group   {rewards.amax(1).mean():.3f}")
    print(f"std within groups {rewards.std(1).mean():.3f}")


if __name__ == "__main__":
    main()
