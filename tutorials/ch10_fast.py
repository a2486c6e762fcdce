# %% [markdown]
# # 10 · Making it fast
#
# **How fast can a swap reward be, and how does one get there?**

# %% tags=["hide"]
# introduces: minirec.ops.reference
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
# nearly equal.

# %%
K = 1000
almost = torch.full((1, K), 5.0)  # float32
almost[0, K // 2] = 5.000001  # nearly as good as all others
everything = torch.ones_like(almost, dtype=torch.bool)
one = torch.ones(1)
truth = reference.swap_pairs(almost.double(), one.double(), everything, K, True)
largest = truth.abs().max().item()

# %% tags=["hide"]
book.say(
    f"That is a list of {K:,} gains of {almost[0, 0]:.0f}, and in the middle one that is larger by"
    f" {almost.max() - almost.min():.1e}. No reward of this list is further from 0 than {largest:.1e}. A list"
    " without any difference should give exactly 0."
)

# %% tags=["exact"]
d = reference.discounts(K).float()
behind = torch.arange(K - 1, -1, -1.0).clamp(min=1)


def after(x: torch.Tensor) -> torch.Tensor:
    """The sum of what lies behind each position."""
    return x.flip(-1).cumsum(-1).flip(-1) - x


count = torch.arange(K - 1, -1, -1.0)
expanded = almost * (count * d - after(d)) - (d * after(almost) - after(d * almost))
worst = (expanded / behind - truth).abs().max().item()
pivot = (reference.swap_ndcg(almost, one, everything, K, True) - truth).abs().max().item()
print("multiplied out: off by more than any true reward:", worst > largest)
print("with the pivot: off by less than a thousandth of the largest:", pivot < largest / 1000)

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
    """Accesses to gains and rewards: byte from the start of either, bytes, thread, written; (n, 4)."""
    rewards = torch.empty(lists, size)
    pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (gains, idcg, rewards))
    gpu.traced(None)  # forget what was
    gpu.swap_ladder(rung, *pointers, ctypes.c_int64(lists), ctypes.c_int64(size))
    seen = torch.zeros(gpu.traced(None), 4, dtype=torch.int64)
    gpu.traced(ctypes.c_void_p(seen.data_ptr()))
    start = torch.where(seen[:, 3] == 0, gains.data_ptr(), rewards.data_ptr())
    seen[:, 0] -= start
    return seen[(seen[:, 0] >= 0) & (seen[:, 0] < gains.nbytes)]


rungs = {1: "all pairs", 2: "thread per list", 3: "warp per list", 4: "eight lanes per list"}
seen = {rung: trace(rung) for rung in rungs}


def first(accesses: torch.Tensor) -> torch.Tensor:
    """The bytes that the first read of each thread of the first warp touches."""
    reads = accesses[(accesses[:, 3] == 0) & (accesses[:, 2] < 32)]
    firsts = [reads[reads[:, 2] == thread][0] for thread in reads[:, 2].unique()]
    return torch.cat([torch.arange(address, address + width) for address, width, _, _ in firsts])


# %% tags=["hide"] caption="The first read of a warp. A row is a list, a cell a sector: fetched (grey), used (blue)"
SECTOR = 32
figure, panels = plt.subplots(1, 3, figsize=(7.5, 2.9), sharey=True)
used = {}
for axes, rung in zip(panels, (2, 3, 4), strict=True):
    touched = first(seen[rung])
    sectors = (touched // SECTOR).unique()
    used[rung] = len(touched), SECTOR * len(sectors)
    rows, columns = sectors // (4 * size // SECTOR), sectors % (4 * size // SECTOR)
    axes.barh(rows, SECTOR, left=SECTOR * columns, color="0.8", height=0.9)
    for byte in touched[::4].tolist():  # a float
        row, column = divmod(byte, 4 * size)
        axes.barh(row, 4, left=column, color="C0", height=0.9)
    title = f"{rungs[rung]}\n{used[rung][0]} of {used[rung][1]:,} bytes used"
    axes.set(title=title, xlim=(0, 4 * size), xlabel="byte within the list")
    axes.set_xticks(range(0, 4 * size + 1, 4 * SECTOR))
    axes.set_xticks(range(0, 4 * size + 1, SECTOR), minor=True)
panels[0].set(ylabel="list", ylim=(lists - 0.5, -0.5))
plt.show()

# %% tags=["hide"]
book.say(
    f"With a thread per list, a warp touches {lists} lists at once: it fetches {used[2][1]:,} bytes and uses"
    f" {used[2][0]} of them now. Whether the others are still in a cache when their turn comes, nobody"
    f" promises. With a warp per list all {used[3][0]} bytes are used, but 32 threads must then agree on every"
    f" running sum. The production kernel lies between: eight threads hold a list, each a piece of it, and read"
    f" {used[4][0] // 32} bytes at a time. What it fetches and does not use now, it uses with its next read."
)

# %% [markdown]
# ## The roof
#
# A kernel cannot be faster than its bytes allow, nor than its arithmetic. The roofline draws both: operations
# per byte to the right, operations per second upwards. Bytes are counted from the trace. Operations are counted
# by hand from the source, `csrc/ladder/swap_ndcg.cu`; the order of magnitude is what matters.

# %%
bandwidth = 4.3e12  # bytes per second of an H200, a measured copy
peak = 67e12  # its float32 operations per second, the vendor's number
operations = {1: 4 * size * (size - 1) / 2, 2: 12 * size, 3: 34 * size, 4: 14 * size}  # of a list
read, written = ({r: s[s[:, 3] == w, 1].sum().item() / lists for r, s in seen.items()} for w in (0, 1))
for rung, name in rungs.items():
    print(f"{name:20} reads {read[rung]:6,.0f} bytes of a list, writes {written[rung]:3,.0f}")

# %% tags=["hide"] caption="Bytes of a list, counted from the trace, and the roof of an H200. Points are what bytes allow, not measured times"
figure, (left, right) = plt.subplots(1, 2, figsize=(7.5, 3))
places = range(len(rungs))
left.barh(places, read.values(), color="C0", label="read")
left.barh(places, written.values(), left=list(read.values()), color="C1", label="written")
left.set(xscale="log", xlim=(100, 1e5), xlabel="bytes a list")
left.set_yticks(places, rungs.values())
left.invert_yaxis()
left.legend(loc="lower right", fontsize=8)
intensity = torch.logspace(-1, 3, 100)
right.plot(intensity, torch.minimum(intensity * bandwidth, torch.tensor(peak)), color="0.4")
for rung, marker in zip(rungs, "osD^", strict=True):
    x = operations[rung] / (read[rung] + written[rung])
    right.plot(x, min(x * bandwidth, peak), marker, label=rungs[rung])
right.legend(loc="lower right", fontsize=8)
right.set(
    xscale="log",
    yscale="log",
    xlabel="operations per byte",
    ylabel="operations per second",
    ylim=(2e11, 2e14),
)
plt.show()

# %% tags=["hide"]
least, many = read[4] + written[4], 65_536
worst = read[1] + written[1]
book.say(
    f"All of them lie on the slope: memory decides, not arithmetic. A kernel that moves {least:,.0f} bytes a"
    f" list can end {worst / least:.0f} times earlier than one that moves {worst:,.0f}, unless a cache helps the"
    f" second. And {many:,} lists of {size} cannot take less than {1e6 * many * least / bandwidth:.1f}"
    " microseconds on such a GPU. Whether the kernel reaches that has not been measured here;"
    " `python -m bench.kernels` prints it on a machine with one."
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
