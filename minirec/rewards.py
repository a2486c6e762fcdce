"""What a generated item or list is worth: pure functions, no policy in sight.

Next item: ``hit``, and ``prefix_score``, which only chooses inside a group and is never a reward. Lists:
NDCG, and each position's share of it; ``ops.swap_ndcg`` has what swaps change. Gains below 0 count as 0, and
a list whose IDCG is 0 is worth 0, whatever its order. Everywhere, gains (..., K) stand in the order of the
list, ``ideal`` (...) is the IDCG, broadcastable, and ``cut`` is the number of ranks that count (None: all).
"""

import torch
from torch import Tensor

from minirec.noise import sent
from minirec.ops.reference import discounts
from minirec.records import HOLE


def hit(items: Tensor, targets: Tensor) -> Tensor:
    """Give 1 to items (B, G) that are in the context's target set (B, n), else 0: (B, G) float32.

    A HOLE or PAD is no hit. Source: OpenOneRec-RL (2512.24762).
    """
    return ((items[:, :, None] == targets[:, None]) & (items != HOLE)[:, :, None]).any(2).float()


def prefix_score(codes: Tensor, targets: Tensor) -> Tensor:
    """How many of the first codes of a target a tuple has: the paper's φ, the best over the targets.

    Codes (B, G, L) and targets' codes (B, n, L), -1 in every level where there is no target. Returns (B, G)
    float32: 1 for all L codes, 10^-(L-m) for the first m >= 1 only, 0 for none.
    Source: ReCast (2604.22169), φ and u; L other than 3 is ours.

    >>> prefix_score(torch.tensor([[[4, 9], [4, 2], [5, 9]]]), torch.tensor([[[4, 9]]]))
    tensor([[1.0000, 0.1000, 0.0000]])
    """
    same = codes[:, :, None] == targets[:, None]  # (B, G, n, L)
    common = same.long().cumprod(-1).sum(-1)  # (B, G, n) length m of the common prefix
    levels = codes.shape[-1]
    score = [0.0, *(10.0 ** (m - levels) for m in range(1, levels + 1))]  # by m
    return sent(torch.tensor(score), codes.device)[common].amax(-1)


def in_order(candidates: Tensor, values: Tensor, items: Tensor) -> Tensor:
    """Look up a value (B, C) of each candidate (B, C) in the order of lists (B, G, K): (B, G, K)."""
    place = (items[..., None] == candidates[:, None, None]).int().argmax(-1)  # (B, G, K)
    return values[:, None].expand(-1, items.shape[1], -1).gather(-1, place)


def ideal(gains: Tensor, length: int, cut: int | None = None) -> Tensor:
    """DCG of the best list of ``length`` items that candidates with gains (..., C), in any order, allow."""
    best = gains.clamp(min=0).sort(-1, descending=True).values[..., :length]
    return (best * discounts(length, cut).to(best)).sum(-1)


def per_ideal(value: Tensor, ideal: Tensor) -> Tensor:
    """Divide by IDCG, and give 0 where it is 0."""
    return torch.where(ideal > 0, value / ideal.clamp(min=torch.finfo(ideal.dtype).tiny), 0.0)


def ndcg(gains: Tensor, ideal: Tensor, cut: int | None = None) -> Tensor:
    """NDCG of lists, the reward R(y) in [0, 1]: (...). Source: FlexRec (2603.11901), R = DCG/IDCG."""
    dcg = (gains.clamp(min=0) * discounts(gains.shape[-1], cut).to(gains)).sum(-1)
    return per_ideal(dcg, ideal)


def independent(gains: Tensor, ideal: Tensor, cut: int | None = None) -> Tensor:
    """Each position's own share of NDCG, g_k d_k / IDCG: (..., K). Source: FlexRec (2603.11901)."""
    return per_ideal(gains.clamp(min=0) * discounts(gains.shape[-1], cut).to(gains), ideal[..., None])
