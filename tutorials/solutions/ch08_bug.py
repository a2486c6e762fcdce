"""The bug: ``candidates`` and ``items`` were compared the wrong way round.

``place`` said where each candidate stands in the list, and was used as if it said which candidate stands at
each place. One is the inverse permutation of the other. Both are permutations, so every gain is used once,
shapes and ranges are right, and NDCG stays between its bounds. For two items they are the same, for three
they differ in two orders of six: a test on short lists passes.

How one could have seen it: the lists are no better than random ones, and this policy knows the gains. Or ask
for something that is known: lists in the best order have NDCG 1. ``rewards.in_order`` is tested that way.
"""

import torch
from torch import Tensor

from minirec import ops, rewards


def gains_of_lists(candidates: Tensor, gains: Tensor, items: Tensor) -> Tensor:
    """Gains (B, G, K) of lists items (B, G, K), from gains (B, K) in the order of candidates (B, K)."""
    same = items[..., None] == candidates[:, None, None]  # (B, G, K, K)
    place = same.int().argmax(-1)  # (B, G, K)
    return gains[:, None].expand_as(items).gather(-1, place)


def main() -> None:
    """Say what the lists of a policy are worth."""
    random = torch.Generator().manual_seed(0)
    candidates = torch.rand(64, 100, generator=random).topk(8).indices  # (64, 8) of a hundred items
    gains = torch.randint(4, (64, 8), generator=random) / 3
    luck = -torch.rand(64, 16, 8, generator=random).log().neg().log()  # Gumbel: order by it and you sample
    order = (6 * gains[:, None] + luck).argsort(-1, descending=True)  # (64, 16, 8)
    items = candidates[:, None].expand_as(order).gather(-1, order)
    placed, ideal = gains_of_lists(candidates, gains, items), rewards.ideal(gains, 8)[:, None]
    credit = ops.swap_ndcg(placed, ideal)
    print(f"NDCG of the lists        {rewards.ndcg(placed, ideal).mean():.3f}")
    print(f"NDCG of random lists     {rewards.ndcg(gains, ideal[:, 0]).mean():.3f}")
    print("swap reward by position ", " ".join(f"{r:+.3f}" for r in credit.mean((0, 1)).tolist()))


if __name__ == "__main__":
    main()
