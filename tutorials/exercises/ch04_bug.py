"""Find the bug: the rewards of a group.

A batch of users, for each a group of items that they are likely to want, and the true score as the reward.
The program runs, every reward lies in (0, 1), and the means are such as a policy might have. They are wrong.

    python tutorials/exercises/ch04_bug.py
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
    pairs = user.repeat(group), items.reshape(-1, 1)  # (B·G,), (B·G, 1)
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
