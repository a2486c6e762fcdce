"""Find the bug: a policy learns eight contexts at once, from groups of eight rollouts.

    python tutorials/exercises/ch05_bug.py

Every context has twenty items with rewards of its own, and some contexts have better items than others. The
policy is a table of logits. It gets better, from the first line to the last. Yet one line is wrong.
"""

import torch
from torch import Tensor

CONTEXTS, GROUP, ITEMS = 8, 8, 20


def advantages(reward: Tensor) -> Tensor:
    """Compare each reward (B, G) with the mean of its group."""
    return reward - reward.mean(1)


def learn(steps: int = 120, rate: float = 0.05, seed: int = 0) -> list[tuple[float, float]]:
    """Train; for each step the exact expected reward of the policy, as a share of the best, and the loss."""
    random = torch.Generator().manual_seed(seed)
    level = torch.linspace(0, 1, CONTEXTS)[:, None]
    worth = level + torch.rand(CONTEXTS, ITEMS, generator=random)  # (B, N)
    logits = torch.zeros(CONTEXTS, ITEMS, requires_grad=True)
    adam = torch.optim.Adam([logits], rate)
    lines = []
    for _ in range(steps):
        logp = logits.log_softmax(1)
        items = torch.multinomial(logp.detach().exp(), GROUP, replacement=True, generator=random)  # (B, G)
        now = logp.gather(1, items)
        ratio = (now - now.detach()).exp()
        loss = -(ratio * advantages(worth.gather(1, items))).mean()
        loss.backward()
        adam.step()
        adam.zero_grad()
        got = (logp.detach().exp() * worth).sum(1) - worth.mean(1)
        lines.append(((got.sum() / (worth.amax(1) - worth.mean(1)).sum()).item(), loss.item()))
    return lines


if __name__ == "__main__":
    for step, (share, loss) in list(enumerate(learn(), 1))[19::20]:
        print(f"step {step:3}  of what can be gained {share:6.1%}  loss {loss:+.3f}")
