"""Found: the inserted target kept the old log-probability of the rollout that it replaced.

The ratio of such a target was π(target) / π(replaced) instead of 1. For an unlikely target it is far below 1
and multiplies its gradient; above 1.28 the clip takes the gradient away altogether.

How one could have seen it: at the first update after the rollouts every ratio is 1 and advantages sum to 0,
so the loss must be 0. It was not.

    python tutorials/solutions/ch07_bug.py
"""

import torch
from torch import Tensor

from minirec.objectives import grpo, recast
from minirec.objectives.loss import token_loss

CONTEXTS, ITEMS, GROUP, STEPS = 200, 64, 8, 100


def loss(logits: Tensor, items: Tensor, old: Tensor, target: Tensor) -> Tensor:
    """The loss of GRPO on repaired groups, at the first update after the rollouts were made.

    Args:
        logits: (B, N) of the policy.
        items: (B, G) int64, its rollouts.
        old: (B, G) their log-probabilities when they were drawn.
        target: (B,) int64.

    Returns:
        A scalar.
    """
    hits = (items == target[:, None]).float()
    rows, place = recast.repair(hits, torch.zeros_like(hits), old)
    items = items.clone()
    items[rows, place] = target[rows]
    hits = (items == target[:, None]).float()
    advantage = grpo.advantages(hits)
    logp = logits.log_softmax(1).gather(1, items)
    old = old.clone()
    old[rows, place] = logp.detach()[rows, place]  # it was not drawn: its ratio starts at 1
    tokens, _ = token_loss(logp[..., None], old[..., None], old[..., None], advantage, 0.2, 0.28, kl=0.0)
    return tokens.mean()


def main() -> None:
    """Train, and say by how much the targets became likelier."""
    random = torch.Generator().manual_seed(0)
    logits = (1.5 * torch.randn(CONTEXTS, ITEMS, generator=random)).requires_grad_()
    target = torch.randint(ITEMS, (CONTEXTS,), generator=random)
    rows = torch.arange(CONTEXTS)
    start = logits.detach().softmax(1)[rows, target]
    optimiser = torch.optim.SGD([logits], lr=40.0)
    for _ in range(STEPS):
        with torch.no_grad():
            items = logits.softmax(1).multinomial(GROUP, replacement=True, generator=random)
            old = logits.log_softmax(1).gather(1, items)
        loss(logits, items, old, target).backward()
        optimiser.step()
        optimiser.zero_grad()
    now = logits.detach().softmax(1)[rows, target]
    for name, part in zip(("unlikely", "middle", "likely"), start.argsort().chunk(3), strict=True):
        print(f"{name:8} targets: {start[part].mean():.4f} before, {now[part].mean():.4f} after")


if __name__ == "__main__":
    main()
