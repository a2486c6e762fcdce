"""Find the bug: which contexts are difficult?

A policy over 200 items, from one that hardly knows to one that is often sure. Clicks and groups are drawn
from it, and a context is difficult where the click ranks beyond tau·G in its group. The program runs, and all
shares are plausible. Read the column on the right from top to bottom before you read the code.

    python tutorials/exercises/ch06_bug.py
"""

import torch
from torch import Tensor


def scored(logits: Tensor, items: Tensor) -> Tensor:
    """Log-probabilities of items (B, n), by teacher forcing."""
    return (logits.double().gather(1, items) - logits.double().logsumexp(1, keepdim=True)).float()


def sampled(logits: Tensor, group: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Items (B, G) drawn from the policy, and their log-probabilities as they were when they were drawn."""
    logp = logits.log_softmax(1)
    items = logp.exp().multinomial(group, replacement=True, generator=random)
    return items, logp.gather(1, items)


def difficult(logits: Tensor, items: Tensor, logp: Tensor, target: Tensor, tau: float) -> Tensor:
    """Whether the click (B,) ranks beyond tau·G among the rollouts (B, G): (B,) bool."""
    own = scored(logits, target[:, None])  # (B, 1)
    rank = 1 + (logp > own).sum(1)
    return rank > tau * items.shape[1]


def main() -> None:
    """Say how much is difficult for policies that know more and more."""
    random = torch.Generator().manual_seed(0)
    taste = torch.randn(2000, 200, generator=random)
    print("sharpness  probability of the click  difficult")
    for sharpness in (0.5, 1.0, 2.0, 4.0, 8.0):
        logits = sharpness * taste
        p = logits.softmax(1)
        target = p.multinomial(1, generator=random)[:, 0]
        items, logp = sampled(logits, 16, random)
        share = difficult(logits, items, logp, target, tau=1 / 8).double().mean()
        print(f"{sharpness:9.1f} {p.gather(1, target[:, None]).mean():25.3f} {share:10.2f}")


if __name__ == "__main__":
    main()
