"""Find the bug: the swap rewards of lists that a policy said.

A policy that knows the gains a little ranks sets of candidates. The program says how good its lists are, and
what each position is paid. It runs, and the numbers are such as a mediocre policy might have. They are wrong.

    python tutorials/exercises/ch08_bug.py
"""

import torch
from torch import Tensor

from minirec import ops, rewards


def gains_of_lists(candidates: Tensor, gains: Tensor, items: Tensor) -> Tensor:
    """Gains (B, G, K) of lists items (B, G, K), from gains (B, K) in the order of candidates (B, K)."""
    same = candidates[:, None, :, None] == items[:, :, None]  # (B, G, K, K)
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
