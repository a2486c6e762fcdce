"""Found: a rollout that is the click itself stood above it.

The bug: `difficult` compared log-probabilities alone. Where the group has the click, its log-probability was
computed twice, once when it was drawn and once by teacher forcing, and the two differ in the last bit. By
that bit, all copies of the click stand above the click, or none. A policy that is nearly sure draws the click
many times, so the easiest contexts are called difficult, as often as the rounding goes that way.

How one could have seen it: where the policy gives the click two thirds, few contexts can be difficult. Or ask
the extreme case: if all rollouts are the click, its rank must be 1.
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
    rank = 1 + ((logp > own) & (items != target[:, None])).sum(1)  # an item is not above itself
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
