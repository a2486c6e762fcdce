"""The truth of the kernels in plain torch, in layers: each is checked against the one before it.

    swap_literal      exchange two items, compute NDCG again               O(K³) per list, the definition
    swap_pairs        (g_k - g_j)(d_k - d_j) / IDCG for every pair          O(K²), one identity
    swap_ndcg         running sums from the end of the list                 O(K), the closed form
    group_normalize   r minus its mean, over the std of its group
    swap_normalize    the two, one after the other

The last three run where no kernel is built. All compute and return float32 or float64, the dtype of their
input, on any device. One swap changes NDCG by (g_k - g_j)(d_k - d_j)/IDCG, also where a cut-off makes d 0.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from minirec.noise import widest

Maybe = Tensor | None  # what may be left out


def discounts(length: int, cut: int | None = None, device: torch.device | None = None) -> Tensor:
    """The weight of each rank in DCG, d_k = 1/log2(k + 1), and 0 beyond the first ``cut`` ranks (None: all).

    Returns (length,) float64, on MPS float32, made on the device, so that a CUDA graph need not copy.
    Source: definition.

    >>> discounts(3, cut=2)
    tensor([1.0000, 0.6309, 0.0000], dtype=torch.float64)
    """
    rank = torch.arange(1, length + 1, dtype=widest(device or "cpu"), device=device)
    return (rank <= (length if cut is None else cut)) / torch.log2(rank + 1)


def valid_positions(gains: Tensor, lengths: Maybe, mask: Maybe) -> Tensor:
    """Which positions are valid, (..., K) bool, given lengths (...) int64 and mask (..., K) bool, or None."""
    valid = torch.ones_like(gains, dtype=torch.bool) if mask is None else mask
    if lengths is not None:
        valid = valid & (torch.arange(gains.shape[-1], device=gains.device) < lengths[..., None])
    return valid


def ideal_dcg(gains: Tensor, valid: Tensor, cut: int) -> Tensor:
    """DCG of the best order of a list's own valid gains, which take the ranks from 1 on.

    gains (..., K), at least 0 where valid (..., K); ``cut`` ranks count. Returns (...). Source: definition.
    """
    best = gains.masked_fill(~valid, 0).sort(-1, descending=True).values  # (..., K)
    return (best * discounts(gains.shape[-1], cut, best.device).to(best)).sum(-1)


def relative(gains: Tensor, idcg: Maybe, valid: Tensor, cut: int) -> tuple[Tensor, Tensor]:
    """Gains (..., K) and IDCG (...), None for that of the list's own gains, over the unit of each list.

    The unit is the power of two at the largest valid gain, so no digit is lost and no sum overflows.
    """
    tiny = torch.finfo(gains.dtype).tiny
    largest = gains.masked_fill(~valid, 0).amax(-1, keepdim=True).clamp(tiny, 1 / tiny)
    unit = largest / (2 * largest.frexp().mantissa)  # (..., 1)
    gains = gains / unit
    return gains, ideal_dcg(gains, valid, cut) if idcg is None else idcg / unit[..., 0]


def _mean(total: Tensor, count: Tensor, idcg: Tensor, valid: Tensor) -> Tensor:
    """Divide sums over partners (n, K) by their count and by IDCG; 0 where one is 0 and if not valid."""
    zero = ~valid | (count == 0) | (idcg < torch.finfo(idcg.dtype).tiny)[:, None]
    return (total / (count * idcg[:, None])).masked_fill(zero, 0)


def swap_literal(gains: Tensor, idcg: Tensor, valid: Tensor, cut: int, later: bool) -> Tensor:
    """The swap reward by its definition: mean of NDCG(list) - NDCG(list with k and j exchanged).

    gains (n, K) in the order of the lists; idcg (n,); valid (n, K) bool: masked positions keep their rank,
    take part in no swap and get reward 0; cut is how many ranks count. Partners are all j > k with ``later``,
    else all j but k. Returns (n, K). Source: FlexRec (2603.11901), the swap reward; its sign is ours.
    """
    size = gains.shape[1]
    gains, d = gains.masked_fill(~valid, 0), discounts(size, cut, gains.device).to(gains)
    total, count = torch.zeros_like(gains), torch.zeros_like(gains)
    for k in range(size):
        partners = range(k + 1, size) if later else [j for j in range(size) if j != k]
        for j in partners:
            order = torch.arange(size)
            order[k], order[j] = j, k
            fall = (gains * d).sum(1) - (gains[:, order] * d).sum(1)  # (n,) of DCG
            both = valid[:, k] & valid[:, j]
            total[:, k] += torch.where(both, fall, 0)
            count[:, k] += both
    return _mean(total, count, idcg, valid)


def swap_pairs(gains: Tensor, idcg: Tensor, valid: Tensor, cut: int, later: bool) -> Tensor:
    """``swap_literal`` from a K × K table of pairs. Source: definition."""
    gains = gains.masked_fill(~valid, 0)
    d = discounts(gains.shape[1], cut, gains.device).to(gains)
    change = (gains[:, :, None] - gains[:, None]) * (d[:, None] - d)  # (n, K, K)
    partner = (valid[:, :, None] & valid[:, None]).to(gains)
    partner = partner.triu(1) if later else partner * (1 - torch.eye(len(d)).to(gains))
    return _mean((change * partner).sum(2), partner.sum(2), idcg, valid)


def _after(values: Tensor) -> Tensor:
    """Sum of the entries behind each one: (n, K) to (n, K), 0 in the last column."""
    return pad(values[:, 1:].flip(1).cumsum(1).flip(1), (0, 1))


def swap_ndcg(gains: Tensor, idcg: Maybe, valid: Tensor, cut: int, later: bool) -> Tensor:
    """``swap_literal`` from running sums; IDCG that is None is that of the list's own gains.

    The pivot x = g - (the last valid g) keeps nearly equal gains from cancelling. Where all gains from k on
    are equal, x and so every term of the sums is 0, and the reward exactly 0, in any order of the sums and
    with or without fused operations. For later partners, with Δ_t = d_t - d_{t+1},

        U_k = Σ_{j>k} (d_k - d_j)     = Σ_{t≥k} Δ_t · #{j > t}
        T_k = Σ_{j>k} x_j (d_k - d_j) = Σ_{t≥k} Δ_t Σ_{j>t} x_j
        r_k = (x_k U_k - T_k) / (n_k IDCG)

    and for all partners r_k = n/(n-1) · [(x_k - x̄)(d_k - d̄) + cov(x, d)] / IDCG. Source: ours.
    """
    gains, idcg = relative(gains, idcg, valid, cut)
    last = (valid * torch.arange(gains.shape[1], device=gains.device)).argmax(1, keepdim=True)
    x = (gains - gains.gather(1, last)).masked_fill(~valid, 0)  # (n, K)
    d, m = discounts(gains.shape[1], cut, gains.device).to(gains), valid.to(gains)
    if later:
        step = d - pad(d[1:], (0, 1))  # Δ
        count = _after(m)
        u, t = step * count, step * _after(x)
        u, t = u + _after(u), t + _after(t)
        return _mean(x * u - t, count, idcg, valid)
    n = m.sum(1, keepdim=True)
    d = (d - (d * m).sum(1, keepdim=True) / n) * m
    product = (x - x.sum(1, keepdim=True) / n) * m * d
    total = n * product + product.sum(1, keepdim=True)
    return _mean(total, (n - 1) * m, idcg, valid)


def group_normalize(
    reward: Tensor, mask: Maybe, offsets: Maybe, ddof: int, eps: float, scale: bool, leave_one_out: bool
) -> Tensor:
    """Compare each reward with its group. The first one is subtracted first, so equal rewards give exact 0.

    reward (A, G, I); a group is a column of the middle dimension. mask (A, G, I) bool: where it is False a
    reward is not counted and gets 0. Instead of a mask, offsets (m + 1,) int64, ascending from 0 to G, divide
    each column into the groups offsets[s] to offsets[s + 1]. The variance is the sum of squares over the
    larger of n - ddof and 1. ``scale`` divides by std + eps; ``leave_one_out`` centres on the mean of the
    others. Returns (A, G, I). Source: GRPO (2402.03300), with the options of ``objectives.grpo``.
    """
    size = reward.shape[1]
    mask = valid_positions(reward, None, mask)
    if offsets is None:
        place, first = slice(None), mask.int().argmax(1, keepdim=True)  # (A, 1, I)
    else:
        groups = torch.arange(len(offsets) - 1, device=offsets.device)
        place = groups.repeat_interleave(offsets.diff(), output_size=size)  # (G,) the group of each one
        first = offsets[:-1, None].clamp(max=size - 1).expand(len(reward), -1, reward.shape[2])

    def total(values: Tensor) -> Tensor:
        """The sum of each group, at each of its members: (A, 1, I) or (A, G, I)."""
        if offsets is None:
            return values.sum(1, keepdim=True)
        by_row = values.transpose(0, 1).contiguous()  # (G, A, I)
        sums = torch.segment_reduce(by_row, "sum", offsets=offsets, axis=0, initial=0, unsafe=True)
        return sums.transpose(0, 1)[:, place]

    x = (reward - reward.gather(1, first)[:, place]).masked_fill(~mask, 0)
    n = total(mask.to(x))
    x = (x - total(x) / n).masked_fill(~mask, 0)
    spread = (total(x * x) / (n - ddof).clamp(min=1)).sqrt() + eps
    if leave_one_out:
        x = x * n / (n - 1).clamp(min=1)
    return (x / spread).masked_fill((spread == 0) | ~mask, 0) if scale else x


def swap_normalize(gains: Tensor, idcg: Maybe, valid: Tensor, cut: int, later: bool, *how: float) -> Tensor:
    """Swap rewards, then each position against the same position of the group's other lists.

    gains (B, G, K); idcg (B, G) or None; valid (B, G, K) bool: what counts. ``how`` are the last four
    arguments of ``group_normalize``. Returns (B, G, K). Source: FlexRec (2603.11901); per position over the
    group is ours.
    """
    idcg = idcg if idcg is None else idcg.flatten()
    flat = swap_ndcg(gains.flatten(0, 1), idcg, valid.flatten(0, 1), cut, later)
    return group_normalize(flat.view_as(gains), valid, None, *how)
