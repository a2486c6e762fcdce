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

from minirec import ops, rewards
from minirec.ops import reference

# %% tags=["hide"] caption="Seven versions on a CPU, in one thread; the last has two. Orange line: one pass of one thread over the memory."
page = (book.ROOT / "bench" / "results" / "ladder.md").read_text()
rows = re.findall(r"\| (swap_\w+) \| [\d,.]+ \| ([\d,.]+) \|", page)
names = [name.removeprefix("swap_") for name, _ in rows]
times = [float(value.replace(",", "")) for _, value in rows]
figure, axes = plt.subplots(figsize=(7.5, 2.8))
axes.barh(names, times, color=["0.6"] * 5 + ["C0"] * 2)
for place, value in enumerate(times):
    axes.text(
        value * 1.15, place, f"{value / 1000:,.0f} thousand" if value >= 1000 else f"{value:.2g}", va="center"
    )
axes.axvline(1, color="C1")
axes.set(xscale="log", xlim=(0.8, 1e6), xlabel="time, multiples of torch.mul(out=) over the same bytes")
axes.invert_yaxis()
plt.show()

# %% [markdown]
# Chapter 8 gave every position of a list a reward: how much NDCG falls, on average, when its item changes
# places with a later one. Written as it is defined, that is two loops over positions around a sum over
# positions. The picture shows seven versions of the same numbers, from that one to the one that minirec
# uses (blue). They are C++, one below the other in `csrc/ladder/swap_ndcg.cpp`: *literal* and *pairs* are the first
# two functions below, *closed* is the third with a logarithm at every step, *tables* takes logarithms and divisions
# out of the loop, as they are the same for every list; *lanes*, *tiles* and *threads* come further down. The times
# were measured by `python -m bench.ladder` and lie in `bench/results/ladder.md`; the slowest ran on fewer lists and
# is scaled.
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
# Only two terms of DCG change, so one product per pair is enough [algebra]:
#
# $$R(y) - R(y_{kj}) = \frac{(g_k - g_j)(d_k - d_j)}{\mathrm{IDCG}}$$

# %%
book.show(reference.swap_pairs)

# %% [markdown]
# $d_k - d_j$ is a sum of steps $\Delta_t = d_t - d_{t+1}$, for $t$ from $k$ to $j - 1$. So the sum over $j$ turns
# into running sums from the end of the list. With $x = g - \min g$ [ours]:
#
# $$
# U_k = \sum_{j > k} (d_k - d_j) = \sum_{t \ge k} \Delta_t (K - t), \qquad
# T_k = \sum_{j > k} x_j (d_k - d_j) = \sum_{t \ge k} \Delta_t \sum_{j > t} x_j
# $$
#
# $$r_k = \frac{x_k U_k - T_k}{n_k \mathrm{IDCG}}$$
#
# In the code these are `u` and `t`, and what is masked is not counted. The part below `if later` is for partners on
# both sides: a covariance.

# %%
book.show(reference.swap_ndcg)

# %% tags=["exact"]
gains = torch.tensor([[1, 2, 0, 2, 2, 0]], dtype=torch.float64) / 3  # the list of chapter 8
valid, idcg = torch.ones_like(gains, dtype=torch.bool), rewards.ideal(gains, 6)
for form in (reference.swap_literal, reference.swap_pairs, reference.swap_ndcg):
    print([round(value, 6) for value in form(gains, idcg, valid, 6, True)[0].tolist()])

# %% [markdown]
# ## Why the pivot
#
# The closed form takes the last gain away first. Without that, it subtracts two large numbers that are nearly
# equal.

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
# A CPU with AVX-512 computes sixteen float32 numbers in one instruction (with AVX2 eight), if they lie side by
# side. Within a list each step waits for the one before, so the sixteen are sixteen lists: position $k$ of all of
# them is one vector. In memory those sixteen numbers lie a whole list apart. Reading them one by one is the rung
# called *lanes*, and it is slower than not doing it at all. The production kernel reads sixteen rows of sixteen
# numbers as they lie and transposes the block in registers: `csrc/cpu/lanes.h`. It also asks for the next rows in
# advance: sixteen rows are more streams than the hardware follows by itself. After that, computing is no longer
# what takes the time; reading and writing is.

# %% tags=["hide"]
kernels = (book.ROOT / "bench" / "results" / "kernels_cpu.md").read_text()
rows = re.findall(r"\| ([^|]+) \| [\d,.]+ \| ([\d,.]+) \| [\d,.]+ \|", kernels)
floor = dict(reversed(rows))  # the first of a name: swap rewards before the others
both, tile = floor["swap_ndcg(out=)"], times[names.index("tiles")]
book.say(
    f"In one thread that takes {tile:.1f} times as long as `torch.mul` over the same bytes. With two threads on both"
    f" sides it is {both} times (`bench/results/kernels_cpu.md`, by `python -m bench.kernels`). A multiplication is as"
    " little as one can do with a number that has to be read and written, so little is left to gain here. What is"
    " left is not to write the rewards and read them back: to fuse. `ops.swap_advantages` makes the rewards of a"
    f" context and normalises them while they are in the cache: {floor['swap_advantages(out=)']} times that floor,"
    f" where the two after each other take {floor['swap_ndcg, then group_normalize']}."
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


rungs = {1: "all pairs", 2: "thread per list", 3: "warp per list", 4: "staged"}
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
    f" running sum. The production kernel has both: its threads copy many lists to shared memory, {used[4][0] // 32}"
    f" bytes each and {used[4][0]} a warp in one run, and there every thread goes through a list of its own."
)

# %% [markdown]
# ## The roof
#
# A kernel cannot be faster than its bytes allow, nor than its arithmetic. The roofline draws both: operations
# per byte to the right, operations per second upwards. Requests are counted from the trace. Operations are counted
# by hand from the source, `csrc/ladder/swap_ndcg.cu`, a logarithm as one; the order of magnitude is what matters.

# %%
bandwidth, peak = 4.8e12, 67e12  # of an H200, the vendor's: bytes and float32 operations per second
operations = {1: 6 * size * (size - 1) / 2, 2: 12 * size, 3: 34 * size, 4: 11 * size}  # of a list
read, written = ({r: s[s[:, 3] == w, 1].sum().item() / lists for r, s in seen.items()} for w in (0, 1))
for rung, name in rungs.items():
    print(f"{name:20} asks for {read[rung]:6,.0f} bytes of a list, writes {written[rung]:3,.0f}")

# %% tags=["hide"] caption="Left: bytes of a list that its threads ask for, from the trace. Right: the roof of an H200. Filled: if every request goes to memory. Hollow: if a cache keeps what was read once. Bounds, not measured times."
least = read[4] + written[4]
figure, (left, right) = plt.subplots(1, 2, figsize=(7.5, 3), width_ratios=[1, 1.2])
places = list(range(len(rungs)))
left.plot(read.values(), places, "o", color="C0", label="read")
left.plot(written.values(), places, "s", color="C1", label="written")
left.set(xscale="log", xlim=(300, 1e5), ylim=(3.6, -0.6), xlabel="bytes a list")
left.set_yticks(places, rungs.values())
left.grid(axis="x", color="0.9")
left.legend(loc="lower right", fontsize=8)
intensity = torch.logspace(-1, 3, 100)
right.plot(intensity, torch.minimum(intensity * bandwidth, torch.tensor(peak)), color="0.4")
for rung, marker, color in zip(rungs, "osD^", ("C0", "C1", "C2", "C3"), strict=True):
    for moved, fill in ((read[rung] + written[rung], color), (least, "w")):
        x = operations[rung] / moved
        label = rungs[rung] if fill == color else None
        right.plot(x, min(x * bandwidth, peak), marker, color=color, mfc=fill, ms=5, label=label, alpha=0.9)
right.legend(loc="lower right", fontsize=8)
right.set(
    xscale="log",
    yscale="log",
    xlabel="operations per byte of memory",
    ylabel="operations per second",
    ylim=(2e11, 2e14),
)
plt.show()

# %% tags=["hide"]
many = 65_536
book.say(
    "If every request went to memory, bytes would bound all four: the filled marks lie on the slope. If a cache"
    f" keeps a list once it was read, all four move {least:,.0f} bytes of memory a list, and *all pairs*, with"
    f" {operations[1] / least:.0f} operations a byte, is past the ridge at {peak / bandwidth:.0f}: there arithmetic"
    f" decides. For the others memory does, and {many:,} lists of {size}, read from memory and written to it, take at"
    f" least {1e6 * many * least / bandwidth:.1f} microseconds on such a GPU. What a good kernel saves is requests."
    " How much time that is, only a GPU says, and it has not been measured here; `python -m bench.kernels` prints it"
    " on a machine with one."
)

# %% [markdown]
# ## What you can do now
#
# Say what a kernel must at least move, count what it does move, and know how far it is from the end. Read
# `csrc/README.md`, which maps the files, and the two ladders in `csrc/ladder`.
#
# ## What we left out
#
# - Time, and races within a warp: the emulator runs warps one after another, in rising and in falling order.
# - Masks, lengths and ragged groups, which are the same recurrence with a count more.
# - Group normalisation, whose ladder is shorter: subtract the first reward, then two passes.
#
# ## Next
#
# This is the last chapter. The [table of contents](README.md) has the others.
