# %% [markdown]
# # 10 · Making it fast
#
# **How fast can a swap reward be, and how does one get there?**

# %% tags=["hide"]
# introduces: minirec.ops minirec.ops.reference
import ctypes
import re
import subprocess
import tempfile

import book
import matplotlib.pyplot as plt
import torch

from minirec import ops
from minirec.ops import reference

# %% tags=["hide"] caption="Seven versions on a CPU. The orange line is the floor: one pass over the memory"
page = (book.ROOT / "bench" / "results" / "ladder.md").read_text()
rows = re.findall(r"\| (swap_\w+) \| [\d,.]+ \| ([\d,.]+) \|", page)
names = [name.removeprefix("swap_") for name, _ in rows]
times = [float(value.replace(",", "")) for _, value in rows]
figure, axes = plt.subplots(figsize=(7.5, 2.8))
axes.barh(names, times, color=["0.6"] * 5 + ["C0"] * 2)
for place, value in enumerate(times):
    axes.text(value * 1.15, place, f"{value:,.0f}" if value >= 10 else f"{value:.1f}", va="center")
axes.axvline(1, color="C1")
axes.set(xscale="log", xlim=(0.8, 1e6), xlabel="time, multiples of torch.mul(out=) over the same bytes")
axes.invert_yaxis()
plt.show()

# %% [markdown]
# Chapter 8 gave every position of a list a reward: how much NDCG falls, on average, when its item changes
# places with a later one. Written as it is defined, that is two loops over positions around a sum over
# positions. The picture shows seven versions of the same numbers, from that one to the one that minirec
# uses (blue). The times were measured by `python -m bench.ladder` and lie in `bench/results/ladder.md`.
#
# ## Three layers of truth
#
# The definition is what everything is tested against. It exchanges two items and computes DCG again
# [paper: FlexRec, 2603.11901; the sign is ours]:
#
# $$r_k = \frac{1}{n_k} \sum_{j > k} \left( R(y) - R(y_{kj}) \right)$$
#
# where $y_{kj}$ is the list with the items at $k$ and $j$ exchanged, and $n_k$ counts the $j$.

# %%
book.show(reference.swap_literal)

# %% [markdown]
# Only two terms of DCG change, so one product per pair is enough:
#
# $$R(y) - R(y_{kj}) = \frac{(g_k - g_j)(d_k - d_j)}{\mathrm{IDCG}}$$

# %%
book.show(reference.swap_pairs)

# %% [markdown]
# And because $d_k - d_j$ is a sum of steps $\Delta_t = d_t - d_{t+1}$, the sum over $j$ is two running sums
# from the end of the list [ours].

# %%
book.show(reference.swap_ndcg)

# %% tags=["exact"]
gains = torch.tensor([[3.0, 0.0, 1.0, 2.0]], dtype=torch.float64)
valid, idcg = torch.ones_like(gains, dtype=torch.bool), torch.ones(1, dtype=torch.float64)
for form in (reference.swap_literal, reference.swap_pairs, reference.swap_ndcg):
    print([round(value, 6) for value in form(gains, idcg, valid, 4, True)[0].tolist()])

# %% [markdown]
# ## Why the pivot
#
# The closed form takes the smallest gain away first. Without that, it subtracts two large numbers that are
# nearly equal. Here are 1,000 gains of 5 with one that is a millionth larger, in float32. The true rewards
# are about 1e-9; a list without any difference should give exactly 0.

# %% tags=["exact"]
almost = torch.full((1, 1000), 5.0)
almost[0, 500] = 5.000001
everything = torch.ones_like(almost, dtype=torch.bool)
one = torch.ones(1)
truth = reference.swap_pairs(almost.double(), one.double(), everything, 1000, True)
d = reference.discounts(1000).float()
behind = torch.arange(999, -1, -1.0).clamp(min=1)


def after(x: torch.Tensor) -> torch.Tensor:
    """The sum of what lies behind each position."""
    return x.flip(-1).cumsum(-1).flip(-1) - x


count = torch.arange(999, -1, -1.0)
expanded = almost * (count * d - after(d)) - (d * after(almost) - after(d * almost))
worst = (expanded / behind - truth).abs().max().item()
pivot = (reference.swap_ndcg(almost, one, everything, 1000, True) - truth).abs().max().item()
print("multiplied out: off by more than 1e-7:", worst > 1e-7)
print("with the pivot: off by less than 1e-11:", pivot < 1e-11)

# %% [markdown]
# ## On a CPU: one list per lane
#
# A CPU computes sixteen float32 numbers in one instruction, if they lie side by side. Within a list each step
# waits for the one before, so the sixteen are sixteen lists: position $k$ of all of them is one vector. In
# memory those sixteen numbers lie a whole list apart. Reading them one by one is the rung called `lanes`, and
# it is slower than not doing it at all. The production kernel reads sixteen rows of sixteen numbers as they lie
# and transposes the block in registers: `csrc/cpu/tiles.h`. After that, computing is no longer what takes the
# time; reading and writing is.

# %% tags=["hide"]
tile, thread = times[names.index("tiles")], times[names.index("threads")]
book.say(
    f"One thread then takes {tile:.1f} times as long as `torch.mul` over the same bytes, two take {thread:.1f}"
    " times as long. A multiplication is as little as one can do with a number that has to be read and"
    " written, so this is the end of the ladder. What is left is not to read the numbers at all: to fuse."
    " `ops.swap_advantages` makes the rewards of a context and normalises them while they are in the cache."
)

# %%
contexts = torch.rand(2, 8, 10, generator=torch.Generator().manual_seed(book.USER))  # (B, G, K)
fused = ops.swap_advantages(contexts)
apart = ops.group_normalize(ops.swap_ndcg(contexts), dim=1)
print("largest difference below 1e-4:", bool((fused - apart).abs().max() < 1e-4))

# %% [markdown]
# ## On a GPU: who reads what
#
# A GPU runs 32 threads in step, a warp, and fetches memory in sectors of 32 bytes. What counts is which
# addresses a warp touches at the same moment. We need no GPU to see that: the project runs the very source of
# its kernels under a small emulator, which writes down every access (`tests/emulator`).

# %%
folder = tempfile.TemporaryDirectory()
library = f"{folder.name}/kernels.so"
flags = ["-O1", "-std=c++17", "-fPIC", "-shared"]
subprocess.run(["g++", *flags, "-o", library, book.ROOT / "tests/emulator/kernels.cpp"], check=True)
gpu = ctypes.CDLL(library)
gpu.traced.restype = ctypes.c_int64
gpu.size_of_gpu(1, 227 * 1024)

lists, size = 32, 128
gains, idcg = torch.rand(lists, size), torch.ones(lists)


def trace(rung: int) -> torch.Tensor:
    """Every access of a rung: address from the start of the gains, bytes, thread, written; (n, 4)."""
    out = torch.empty(lists, size)
    pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (gains, idcg, out))
    gpu.traced(None)
    gpu.swap_ladder(rung, *pointers, ctypes.c_int64(lists), ctypes.c_int64(size))
    seen = torch.zeros(gpu.traced(None), 4, dtype=torch.int64)
    gpu.traced(ctypes.c_void_p(seen.data_ptr()))
    seen[:, 0] -= gains.data_ptr()
    return seen[(seen[:, 0] >= 0) & (seen[:, 0] < gains.nbytes) & (seen[:, 3] == 0)]


names_gpu = {2: "a thread per list", 3: "a warp per list", 4: "eight lanes per list, 16 bytes (production)"}
seen = {rung: trace(rung) for rung in names_gpu}

# %% tags=["hide"] caption="The first 12 reads of the 32 threads of a warp; a row is a list, colour is the order"
figure, panels = plt.subplots(1, 3, figsize=(7.5, 2.9), sharey=True)
for axes, (rung, name) in zip(panels, names_gpu.items(), strict=True):
    reads, count = seen[rung], {}
    for address, width, thread, _ in reads.tolist():
        order = count[thread] = count.get(thread, -1) + 1
        if thread < 32 and order < 12:
            row, column = divmod(address, 4 * size)
            axes.barh(row, width, left=column, color=plt.cm.viridis(order / 12), height=0.9)
    axes.set(title=name, xlim=(0, 4 * size), xlabel="byte within the list")
    axes.title.set_fontsize(8)
panels[0].set(ylabel="list", ylim=(lists - 0.5, -0.5))
plt.show()

# %% [markdown]
# On the left a warp touches 32 lists at once, 4 bytes in each: 32 sectors are fetched, an eighth of which is
# used. In the middle it touches one run of 128 bytes. On the right 32 threads hold four lists among them and
# read 16 bytes each.
#
# ## The roof
#
# A kernel cannot be faster than its bytes allow, nor than its arithmetic. The roofline draws both: operations
# per byte to the right, operations per second upwards. Bytes are those of the trace, with the rewards written;
# operations are counted from the source by hand, a dozen for each position, five for each pair. The slope is 4.3
# TB/s, a measured copy; the flat part is 67 TFLOP/s of float32, the vendor's number.

# %% tags=["hide"] caption="The roof of an H200. Points are what bytes allow, not measured times"
bandwidth, peak = 4.3e12, 67e12
pairs = size * (size - 1) / 2
work = {
    "pairs": (5 * pairs, trace(1)),
    "thread per list": (12 * size, seen[2]),
    "eight lanes": (14 * size, seen[4]),
}
figure, axes = plt.subplots(figsize=(7.5, 3))
intensity = torch.logspace(-1, 3, 100)
axes.plot(intensity, torch.minimum(intensity * bandwidth, torch.tensor(peak)), color="0.4")
for number, (name, (operations, reads)) in enumerate(work.items()):
    moved = reads[:, 1].sum().item() / lists + 4 * size
    x = operations / moved
    text = f"{name}: {moved:,.0f} bytes a list, at least {1e9 * moved / bandwidth:.2f} ns"
    axes.plot(x, x * bandwidth, "o", color=f"C{number}", label=text)
axes.legend(loc="lower right", fontsize=8)
axes.set(
    xscale="log",
    yscale="log",
    xlabel="operations per byte",
    ylabel="operations per second",
    ylim=(2e11, 2e14),
)
plt.show()

# %% tags=["hide"]
least, pairs_moved = 2 * 4 * size, trace(1)[:, 1].sum().item() / lists + 4 * size
seconds = 65_536 * least / bandwidth
book.say(
    f"All of them lie under the slope: memory decides, not arithmetic. So a kernel that moves {least:,} bytes a"
    f" list ends where one that moves {pairs_moved:,.0f} cannot come near, unless a cache helps, and 65,536"
    f" lists of {size} cannot take less than {1e6 * seconds:.1f} microseconds on such a GPU. Whether the kernel"
    " reaches that has not been measured here; `python -m bench.kernels` prints it on a machine with one."
)

# %% [markdown]
# ## What you can do now
#
# Say what a kernel must at least move, count what it does move, and know how far it is from the end. Read
# `csrc/README.md`, which maps the files, and the two ladders in `csrc/ladder`.
#
# ## What we left out
#
# - Races and time: the emulator runs threads one after another.
# - Masks, lengths and ragged groups, which are the same recurrence with a count more.
# - Group normalisation, whose ladder is shorter: subtract the first reward, then two passes.
#
# ## Next
#
# This is the last chapter. The [table of contents](README.md) has the others.
