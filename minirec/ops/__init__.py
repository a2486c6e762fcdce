"""Two operations of the objectives, fast: swap rewards and group normalisation, and both in one pass.

Kernels in C++ and CUDA serve them where they are built, the closed forms of ``reference.py`` otherwise;
``python -m minirec.ops`` says which. Inputs are detached: rewards carry no gradient. float32 and float64 are
computed in their own dtype, bfloat16 in float32, which is also what comes out. Differences of rewards are
squared, so in float32 they count between about 1e-18 and 1e18; gains may be as large as floats get, and an
IDCG that is subnormal beside the largest gain of its list counts as 0.

A ValueError names the argument that does not fit. Values are checked with ``check=True``, the default on the
CPU outside of ``torch.compile``: looking at a value stops a graph. An unchecked NaN spoils its list or group;
unchecked lengths and offsets must be right. ``out`` is written into, whatever a check finds, and must share
no input's memory.
These files import only one another and ``noise``; read ``reference.py`` first.
"""

import math
from typing import Literal

from torch import Tensor

from minirec.ops.arguments import group_inputs, list_inputs, need, options, output
from minirec.ops.load import compute
from minirec.ops.reference import Maybe


def swap_ndcg(
    gains: Tensor,
    idcg: Maybe = None,
    lengths: Maybe = None,
    mask: Maybe = None,
    cutoff: int | None = None,
    pool: Literal["later", "all"] = "later",
    out: Maybe = None,
    check: bool | None = None,
) -> Tensor:
    """How much NDCG falls, on average, when the item of a position changes places with another.

        r_k = mean over partners j of (g_k - g_j)(d_k - d_j) / IDCG,   d_k = 1/log2(k + 1)

    gains (..., K), at least 0, in the order of the lists; they are not changed to 2^g - 1. idcg (...), IDCG
    at the cut-off (None: that of the list's own gains). lengths (...) integers: positions from there on are
    masked. mask (..., K) bool: False is masked. The last three may be broadcast. Masked positions keep their
    rank, take part in no swap, get reward 0, and may hold any value. Only the first ``cutoff`` ranks count
    (None: all). The pool "later" swaps with the positions behind, so the last gets 0; "all" with all others.
    Returns (..., K), in [-1, 1] where IDCG is at least the list's own, exactly 0 where it is 0 or where all
    partners have the position's own gain.
    Source: FlexRec (2603.11901), the swap reward; its sign, the pool "all" and the closed form are ours.

    >>> import torch
    >>> swap_ndcg(torch.tensor([1.0, 0.0, 0.5]), idcg=torch.tensor(1.0))
    tensor([ 0.3095, -0.0655,  0.0000])
    """
    inputs, choices, checked = list_inputs(gains, (idcg, lengths, mask), cutoff, pool, check)
    return compute("swap_ndcg", inputs, choices, checked, output(out, gains, idcg, lengths, mask))


def group_normalize(
    rewards: Tensor,
    dim: int = -1,
    mask: Maybe = None,
    offsets: Maybe = None,
    ddof: int = 1,
    eps: float = 1e-6,
    scale: Literal["std", "none"] = "std",
    leave_one_out: bool = False,
    out: Maybe = None,
    check: bool | None = None,
) -> Tensor:
    """Compare each reward with its group: A = (r - mean r) / (std r + ε).

    rewards (..., G, ...) with the group in dimension ``dim``; mask bool, broadcastable: False is not counted,
    gets 0, and may hold any value. Instead of a mask, offsets (m + 1,) integers on the device of the rewards,
    ascending from 0 to the size of ``dim``, divide it into the groups offsets[s] to offsets[s + 1]. The
    variance of n rewards is their sum of squares over n - ddof, with ddof 0 or 1; eps is added to the std.
    scale "none" only centres (Dr. GRPO). leave_one_out centres on the mean of the n - 1 others (RLOO); with
    "std" that is a factor n/(n - 1). Returns the shape of the rewards, exactly 0 in a group of equal rewards
    or of one. Source: GRPO (2402.03300); options as in ``objectives/grpo.py``.

    >>> import torch
    >>> group_normalize(torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.7, 0.7, 0.7, 0.7]]))
    tensor([[ 1.5000, -0.5000, -0.5000, -0.5000],
            [ 0.0000,  0.0000,  0.0000,  0.0000]])
    """
    inputs, checked = group_inputs(rewards, dim, mask, offsets, check)
    choices = options(ddof, eps, scale, leave_one_out)
    return compute("group_normalize", inputs, choices, checked, output(out, rewards, mask, offsets))


def swap_advantages(
    gains: Tensor,
    idcg: Maybe = None,
    lengths: Maybe = None,
    mask: Maybe = None,
    cutoff: int | None = None,
    pool: Literal["later", "all"] = "later",
    ddof: int = 1,
    eps: float = 1e-6,
    scale: Literal["std", "none"] = "std",
    leave_one_out: bool = False,
    out: Maybe = None,
    check: bool | None = None,
) -> Tensor:
    """FlexRec's advantages in one pass: swap rewards, each position normalised over the group's lists.

    gains (..., G, K), G lists of a context; idcg, lengths, mask, cutoff and pool as in ``swap_ndcg``; the
    other options as in ``group_normalize``. Masked positions are not counted. Returns (..., G, K), what
    ``group_normalize(swap_ndcg(gains, ...), dim=-2, mask=valid)`` gives. Source: FlexRec (2603.11901); per
    position over the group is ours.

    >>> import torch
    >>> swap_advantages(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), eps=0.0)
    tensor([[ 0.7071,  0.0000],
            [-0.7071,  0.0000]])
    """
    inputs, choices, checked = list_inputs(gains, (idcg, lengths, mask), cutoff, pool, check)
    need(gains.dim() >= 2, "gains: expected (..., G, K), got one list")
    choices += options(ddof, eps, scale, leave_one_out)
    contexts = math.prod(gains.shape[:-2]), gains.shape[-2]  # B, G
    inputs = [x if x is None else x.view(*contexts, *x.shape[1:]) for x in inputs]
    return compute("swap_normalize", inputs, choices, checked, output(out, gains, idcg, lengths, mask))
