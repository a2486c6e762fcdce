"""What the properties of the operations are tried on: bounded lists and groups, with every kind of hole."""

import torch
from hypothesis import strategies as st

GAINS = st.one_of(
    st.sampled_from([0.0, 1.0]), st.integers(0, 4).map(float), st.integers(0, 8000).map(lambda i: i / 1000)
)
REWARDS = st.one_of(st.sampled_from([0.0, 1.0, 0.7]), st.integers(-8000, 8000).map(lambda i: i / 1000))


@st.composite
def tables(draw, values, rows=4, columns=40):
    """A (rows, columns) float64 table of float32 numbers."""
    shape = draw(st.integers(1, rows)), draw(st.integers(1, columns))
    flat = draw(st.lists(values, min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
    return torch.tensor(flat, dtype=torch.float64).view(shape)


@st.composite
def masks(draw, shape):
    """A bool table of that shape, or None."""
    if draw(st.booleans()):
        return None
    size = torch.Size(shape).numel()
    return torch.tensor(draw(st.lists(st.booleans(), min_size=size, max_size=size))).view(shape)


@st.composite
def lists(draw, columns=40):
    """Gains (n, K) and the other arguments of ``swap_ndcg``, without IDCG and out."""
    gains = draw(tables(GAINS, columns=columns))
    n, size = gains.shape
    some = st.lists(st.integers(0, size), min_size=n, max_size=n).map(torch.tensor)
    return gains, {
        "lengths": draw(st.none() | some),
        "mask": draw(masks(gains.shape)),
        "cutoff": draw(st.none() | st.integers(1, size + 2)),
        "pool": draw(st.sampled_from(["later", "all"])),
    }


CONVENTIONS = st.fixed_dictionaries(
    {
        "ddof": st.sampled_from([0, 1]),
        "eps": st.sampled_from([0.0, 1e-6, 1e-4]),
        "scale": st.sampled_from(["std", "none"]),
        "leave_one_out": st.booleans(),
    }
)


@st.composite
def offsets(draw, size):
    """Offsets of ragged groups over a dimension of that size, empty ones among them."""
    inner = draw(st.lists(st.integers(0, size), max_size=4))
    return torch.tensor([0, *sorted(inner), size])
