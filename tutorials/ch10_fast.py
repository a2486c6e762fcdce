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

# %% tags=["hide"] caption="Versions on a CPU, in one thread; *threads* has two. Orange line: one pass of one thread over the memory. Blue: the kernel that minirec uses."


def number(cell: str) -> float:
    """A number of a table."""
    return float(cell.replace(",", ""))


ladder = book.tables("ladder")
title = next(heading for heading in ladder if heading.startswith("swap_ndcg"))
lists_timed, K_timed = (int(number(size)) for size in re.search(r"([\d,]+) x (\d+)", title).groups())
rows = {name.removeprefix("swap_"): cells for name, cells in ladder[title].items() if name != "rung"}
seconds = {name: number(cells[0]) / 1000 for name, cells in rows.items()}
times = {name: number(cells[1]) for name, cells in rows.items()}
bars = {name: value for name, value in times.items() if name != "torch.mul(out=)"}
figure, axes = plt.subplots(figsize=(7.5, 0.9 + 0.27 * len(bars)))
axes.barh(
    bars.keys(), bars.values(), color=["C0" if name in ("tiles", "threads") else "0.6" for name in bars]
)
for place, value in enumerate(bars.values()):
    axes.text(value * 1.15, place, f"{value:,.0f}" if value >= 10 else f"{value:.1f}", va="center")
axes.axvline(1, color="C1")
axes.set(xscale="log", xlim=(0.8, 1e6), xlabel="time, multiples of torch.mul(out=) over the same bytes")
axes.invert_yaxis()
plt.show()

# %% tags=["hide"]
moved = 8 * lists_timed * K_timed  # bytes: every gain read, every reward written, once
book.say(
    "Chapter 8 gave every position of a list a reward: how much NDCG falls, on average, when its item changes"
    " places with a later one. Written as it is defined, that is two loops over positions around a sum over"
    f" positions. Here {lists_timed:,} lists of {K_timed} positions get their rewards. That is {moved / 1e6:.0f} MB:"
    " each gain is read once and each reward written once, 4 bytes each. One pass of `torch.mul` over as many bytes"
    f" takes {1e3 * seconds['torch.mul(out=)']:.2f} ms, and the picture counts in such passes."
)

# %% [markdown]
# All versions give the same numbers. They are C++, one below the other in `csrc/ladder/swap_ndcg.cpp`. *literal*,
# *pairs* and *closed* are the three functions below; in C++ each computes a discount wherever it needs one, and a
# discount costs a logarithm and a division. *tables* takes logarithms and divisions out of the loop, as they are the same
# for every list, and so do all after it. *lanes*, *blocks*, *ahead*, *tiles* and *threads* come further down, and
# *fresh* is a warning. The times were measured by `python -m bench.ladder` and lie in `bench/results/ladder.md`; the
# slowest ran on fewer lists and are scaled.
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
# into running sums from the end of the list. With $x_k$, the gain $g_k$ minus the last gain of the list [ours]:
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
# The closed form takes the last gain away first. Multiplied out it would not need to:
#
# $$r_k = \frac{g_k \sum_{j > k} (d_k - d_j) - \sum_{j > k} g_j (d_k - d_j)}{n_k \mathrm{IDCG}}$$
#
# where each sum is a difference of two suffix sums. But then two large numbers are subtracted that are nearly equal.
# A list of equal gains shows it: whatever is exchanged, nothing changes, so every reward is 0.

# %%
K = 1000
d = reference.discounts(K).float()
count = torch.arange(K - 1, -1, -1.0)  # how many lie behind each position
one, everything = torch.ones(1), torch.ones(1, K, dtype=torch.bool)


def after(x: torch.Tensor) -> torch.Tensor:
    """The sum of what lies behind each position."""
    return x.flip(-1).cumsum(-1).flip(-1) - x


def suffix_sums(gains: torch.Tensor) -> torch.Tensor:
    """Swap rewards multiplied out."""
    rewards = gains * (count * d - after(d)) - (d * after(gains) - after(d * gains))
    return rewards / count.clamp(min=1)


def pivot(gains: torch.Tensor) -> torch.Tensor:
    """Swap rewards as the library has them."""
    return reference.swap_ndcg(gains, one, everything, K, True)


constant = torch.full((1, K), 0.7)  # float32
print(f"suffix sums: {suffix_sums(constant).count_nonzero():,} of {K:,} positions are not 0")
print(f"the pivot:   {pivot(constant).count_nonzero():,} of {K:,} positions are not 0")

# %% tags=["exact"]
print("with the pivot a constant list gets 0 everywhere:", bool((pivot(constant) == 0).all()))
print("with suffix sums it does not:", bool((suffix_sums(constant) != 0).any()))

# %% [markdown]
# That matters where rewards are divided by the standard deviation of their group: rounding is divided by rounding,
# and only $\epsilon$ keeps it from being an advantage like any other. A list that is nearly constant fares no better.

# %%
almost = torch.full((1, K), 5.0)  # float32
almost[0, K // 2] = 5.000001  # nearly as good as all others
truth = reference.swap_pairs(almost.double(), one.double(), everything, K, True)
largest = truth.abs().max().item()

# %% tags=["hide"]
book.say(
    f"That is a list of {K:,} gains of {almost[0, 0]:.0f}, and in the middle one that is larger by"
    f" {almost.max() - almost.min():.1e}. No reward of this list is further from 0 than {largest:.1e}."
)

# %% tags=["exact"]
worst, best = ((rewards(almost) - truth).abs().max().item() for rewards in (suffix_sums, pivot))
print("suffix sums: off by more than any true reward:", worst > largest)
print("the pivot: off by less than a thousandth of the largest:", best < largest / 1000)

# %% [markdown]
# ## On a CPU: one list per lane
#
# A CPU with AVX-512 computes sixteen float32 numbers in one instruction (with AVX2 eight), if they lie side by
# side. Within a list each step waits for the one before, so the sixteen are sixteen lists: position $k$ of all of
# them is one vector. In memory those sixteen numbers lie a whole list apart. Reading them one by one is *lanes*, and
# it is slower than not doing it at all.
#
# *blocks* reads runs of four numbers of four lists as they lie, and transposes the block in registers: rows that are
# two apart exchange the blocks off the diagonal, then neighbouring rows exchange single numbers.


# %%
def exchange(block: torch.Tensor, apart: int) -> torch.Tensor:
    """Rows that are so far apart exchange their blocks off the diagonal."""
    out = block.clone()
    for i, j in ((i, j) for i in range(4) for j in range(4) if not i & apart and not j & apart):
        out[i, j + apart], out[i + apart, j] = block[i + apart, j], block[i, j + apart]
    return out


rows = torch.arange(16).view(4, 4)  # number 4 l + k is position k of list l
halves = exchange(rows, 2)
columns = exchange(halves, 1)

# %% tags=["exact"]
print("row k has position k of all lists:", columns.equal(rows.T))

# %% tags=["hide"] caption="Four lists of four positions: a letter and a colour are a list, a number is a position. Each row is a register. Frames: what has been exchanged."
figure, panels = plt.subplots(1, 3, figsize=(6.5, 2.2))
steps = {"as it lies in memory": (rows, 4), "rows two apart": (halves, 2), "neighbouring rows": (columns, 1)}
for axes, (name, (block, apart)) in zip(panels, steps.items(), strict=True):
    axes.imshow(block // 4, cmap="Pastel1", vmin=0, vmax=8)
    for i, j in ((i, j) for i in range(4) for j in range(4)):
        of_list, position = divmod(block[i, j].item(), 4)
        axes.text(j, i, f"{'abcd'[of_list]}{position}", ha="center", va="center")
        if apart < 4 and bool(i & apart) != bool(j & apart):
            axes.add_patch(plt.Rectangle((j - 0.45, i - 0.45), 0.9, 0.9, fill=False, color="C3"))
    axes.set(title=name, xticks=[], yticks=range(4), yticklabels=[f"register {i}" for i in range(4)])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelleft=axes is panels[0])
plt.show()

# %%
book.show(("csrc/ladder/swap_ndcg.cpp", "transpose"))

# %% [markdown]
# Sixteen rows at a time are more streams than the hardware follows by itself, so *ahead* asks for the next sixteen
# while it computes: prefetching. *tiles* is the production kernel. It does the same with the widest vectors of the
# machine and transposes 16 x 16 numbers, by the same steps for 8, 4, 2 and 1 (`csrc/cpu/lanes.h`). After that,
# computing is no longer what takes the time; reading and writing is.
#
# *fresh* is *tiles* again, but into memory that was never touched. The system hands memory out page by page, when it
# is first written: the program stops, a page of 4 KB is found and filled with zeros. A call that returns a new
# tensor of this size pays for that each time; with `out=` one keeps the result's memory and pays once.

# %% tags=["hide"]
climb = [name for name in ("tables", "lanes", "blocks", "ahead", "tiles", "fresh") if name in times]
book.say("In passes of `torch.mul`: " + ", ".join(f"*{name}* {times[name]:.1f}" for name in climb) + ".")

# %% tags=["hide"]
kernels = (book.ROOT / "bench" / "results" / "kernels_cpu.md").read_text()
rows = re.findall(r"\| ([^|]+) \| [\d,.]+ \| ([\d,.]+) \| [\d,.]+ \|", kernels)
floor = dict(reversed(rows))  # the first of a name: swap rewards before the others
book.say(
    f"With two threads on both sides the kernel takes {floor['swap_ndcg(out=)']} times as long as `torch.mul`, and"
    f" without `out=` {floor['without out=']} times (`bench/results/kernels_cpu.md`, by `python -m bench.kernels`)."
    " A multiplication is as little as one can do with"
    " a number that has to be read and written, so little is left to gain here. What is left is not to write the"
    " rewards and read them back: to fuse. `ops.swap_advantages` makes the rewards of a context and normalises them"
    f" while they are in the cache: {floor['swap_advantages(out=)']} times that floor, where the two after each other"
    f" take {floor['swap_ndcg, then group_normalize']}."
)

# %%
contexts = torch.rand(2, 8, 10, generator=torch.Generator().manual_seed(book.USER))  # (B, G, K)
fused = ops.swap_advantages(contexts)
apart = ops.group_normalize(ops.swap_ndcg(contexts), dim=1)
print("largest difference below 1e-4:", bool((fused - apart).abs().max() < 1e-4))

# %% [markdown]
# ## On a GPU: who reads what
#
# A function that runs on a GPU is a *kernel*, and it runs in very many threads. They start in *blocks*, here of 128
# threads; all blocks of a launch are the *grid*. A thread knows the number of its block and its own number in the
# block, and finds its work by them. Here is the third function above as a kernel, with a thread for each list. A
# discount costs a logarithm and a division here too (`step` is the difference of two).

# %%
book.show(("csrc/ladder/swap_ndcg.cu", "ladder_closed"))

# %% [markdown]
# (`read` and `write` are what they say. They are functions so that every access can be seen.)
#
# 32 neighbouring threads of a block are a *warp* and run in step. What they ask of memory by one instruction is one
# *request*, and memory answers in *sectors* of 32 bytes. So it counts which addresses a warp touches at the same
# moment. In this kernel they lie a whole list apart.
#
# The threads of a block have *shared memory*: some ten thousand bytes beside the arithmetic, much nearer than the
# memory of the GPU. And they have a *barrier*, `__syncthreads()`: nobody goes on before all threads of the block
# have come there, and then each sees what the others wrote. With both, a block can copy many lists in whole runs and
# still give each thread a list of its own.

# %%
book.show(("csrc/ladder/swap_ndcg.cu", "ladder_shared"))

# %% [markdown]
# Shared memory has 32 *banks*, and each gives one word of 4 bytes at a time. Threads of a warp that want different
# words of one bank take turns, and each turn is a *wavefront*. That is why rows of `pitch` words, an odd number, are
# kept there: the same position of 32 lists is then in 32 banks.
#
# We need no GPU to see who reads what: the project runs the very source of its kernels under a small emulator, which
# writes down every access (`tests/emulator`).

# %%
folder = tempfile.TemporaryDirectory()
library = f"{folder.name}/kernels.so"
flags = ["-O1", "-std=c++17", "-fPIC", "-shared"]
subprocess.run(["g++", *flags, "-o", library, book.ROOT / "tests/emulator/kernels.cpp"], check=True)
gpu = ctypes.CDLL(library)
gpu.traced.restype, gpu.current_stream.restype = ctypes.c_int64, ctypes.c_void_p
gpu.size_of_gpu(1, 227 * 1024)

lists, size = 32, 128
gains, idcg = torch.rand(lists, size), torch.ones(lists)


def trace(rung: int) -> torch.Tensor:
    """Accesses to gains and rewards: byte from the start of either, bytes, thread, written; (n, 4)."""
    rewards = torch.empty(lists, size)
    pointers = (ctypes.c_void_p(tensor.data_ptr()) for tensor in (gains, idcg, rewards))
    gpu.traced(None)  # forget what was
    shape = ctypes.c_int64(lists), ctypes.c_int64(size)
    gpu.swap_ladder(rung, *pointers, *shape, ctypes.c_void_p(gpu.current_stream()))
    seen = torch.zeros(gpu.traced(None), 4, dtype=torch.int64)
    gpu.traced(ctypes.c_void_p(seen.data_ptr()))
    start = torch.where(seen[:, 3] == 0, gains.data_ptr(), rewards.data_ptr())
    seen[:, 0] -= start
    return seen[(seen[:, 0] >= 0) & (seen[:, 0] < gains.nbytes)]


rungs = {1: "all pairs", 2: "thread per list", 3: "warp per list", 4: "shared", 5: "staged"}
seen = {rung: trace(rung) for rung in rungs}


def second(accesses: torch.Tensor) -> torch.Tensor:
    """The bytes of the second read of each thread of the first warp; the first may be the pivot."""
    reads = accesses[(accesses[:, 3] == 0) & (accesses[:, 2] < 32)]
    own = [reads[reads[:, 2] == thread][1] for thread in range(32)]
    return torch.cat([torch.arange(address, address + width) for address, width, _, _ in own])


# %% tags=["hide"] caption="One read of a warp. A row is a list, a cell a sector: fetched (grey), used (blue)"
SECTOR = 32
figure, panels = plt.subplots(1, 3, figsize=(7.5, 2.9), sharey=True)
used = {}
for axes, rung in zip(panels, (2, 3, 5), strict=True):
    touched = second(seen[rung])
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
    " running sum. The version with shared memory has the same runs, and a thread for each list. The production"
    f" kernel copies {used[5][0] // 32} bytes a thread and {used[5][0]} a warp in one request."
)

# %% [markdown]
# So a kernel can be judged before it has run: by bytes, requests, sectors and wavefronts, which the emulator counts,
# and by the registers of a thread, which the compiler says; of those a multiprocessor has 65,536 for all of its
# threads.

# %% tags=["hide"]
costs = next(rows for heading, rows in book.tables("ladder_cuda").items() if heading.startswith("swap_ndcg"))
head = ["", *costs.pop("rung")]
rows = [[label, *cells] for label, cells in zip(rungs.values(), costs.values(), strict=True)]
book.say(f"Of a list of {size}, by `python -m bench.ladder_cuda`:")
book.say("\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)))
book.say(
    "Fewer bytes and sectors are better, and fewer requests for the same bytes. The production kernel has more"
    " wavefronts than *shared*: it keeps discounts in shared memory instead of computing logarithms, and looks for the"
    " largest gain of a list first."
)

# %% [markdown]
# ## The roof
#
# A version cannot be faster than its bytes allow, nor than its arithmetic. The roofline draws both: operations per
# byte to the right, operations per second upwards. The slope is the memory and the flat part the arithmetic, and
# both are what was measured, not what a vendor says: the pass of `torch.mul` above, and a product of matrices.
# Operations are counted by hand from the source; a logarithm is one operation in every version, and so is a division.

# %%
pairs = K_timed * (K_timed - 1) / 2
operations = {  # of a list
    "literal": pairs * K_timed * 4,  # logarithm, division, product, sum
    "pairs": pairs * 8,  # two logarithms, two divisions, two differences, product, sum
    "closed": 15 * K_timed,  # of them two logarithms and three divisions
    **dict.fromkeys(("tables", "lanes", "blocks", "ahead"), 8 * K_timed),
    **dict.fromkeys(("tiles", "threads", "fresh"), 10 * K_timed),  # and the unit of a list
}
bandwidth = moved / seconds["torch.mul(out=)"]  # bytes a second
speed = {name: operations[name] * lists_timed / seconds[name] for name in bars}  # operations a second

# %% tags=["hide"] caption="Left: what the versions for a GPU ask of memory for a list, counted by the emulator. Right: the measured roof of one thread of a CPU, and the versions below it, measured. *threads* has two threads, and so may be above."
peak = next((number(row["operations"][1]) * 1e9 for row in ladder.values() if "operations" in row), None)
figure, (left, right) = plt.subplots(1, 2, figsize=(7.5, 3.2), width_ratios=[1, 1.4])
places = list(range(len(rungs)))
for column, marker, label in ((1, "o", "requests"), (2, "s", "sectors")):
    left.plot([number(cells[column]) for cells in costs.values()], places, marker, label=label)
left.set(xscale="log", xlim=(1, 3e4), ylim=(4.6, -0.6), xlabel="for a list")
left.set_yticks(places, rungs.values())
left.grid(axis="x", color="0.9")
left.legend(loc="lower right", fontsize=8)
intensity = torch.logspace(-1, 4, 100)
roof = intensity * bandwidth
right.plot(intensity, roof if peak is None else roof.clamp(max=peak), color="0.4")
for place, name in enumerate(speed):
    per_byte = operations[name] / (8 * K_timed)
    right.plot(per_byte, speed[name], "osD^vP*X<>"[place], color=f"C{place}", ms=5, label=name)
right.legend(loc="upper left", fontsize=7, ncols=2)
right.set(
    xscale="log",
    yscale="log",
    xlabel="operations per byte of memory",
    ylabel="operations per second",
    ylim=(min(speed.values()) / 3, 100 * max(peak or 0, 10 * bandwidth)),
)
plt.show()

# %% tags=["hide"]


def share(name: str) -> float:
    """How far up the slope a version is."""
    return 8 * K_timed * lists_timed / bandwidth / seconds[name]


gpu_times = {heading: rows for heading, rows in book.tables("ladder_cuda").items() if ", on " in heading}
book.say(
    f"The thread moves {bandwidth / 1e9:.0f} GB a second. *literal* has {operations['literal'] / (8 * K_timed):,.0f}"
    f" operations for a byte and *closed* {operations['closed'] / (8 * K_timed):.1f}, and they stay at"
    f" {speed['literal'] / 1e9:.1f} and {speed['closed'] / 1e9:.1f} thousand million operations a second: a logarithm"
    " or a division counts as one operation, and takes as long as many sums. Without them memory is what counts:"
    f" *tables* is at {share('tables'):.0%} of the slope, *tiles* at {share('tiles'):.0%}."
)
for heading, rows in gpu_times.items():
    shown = ", ".join(f"*{name}* {cells[1]}" for name, cells in rows.items() if cells[1] != "of the floor")
    book.say(f"{heading}, in copies of the same bytes: {shown}.")
if not gpu_times:
    book.say(
        "On a GPU the slope is a copy of the same bytes. What a good kernel saves there is requests and sectors. How"
        " much time that is, only a GPU says, and it has not been measured here; `python -m bench.ladder_cuda`"
        " measures it on a machine with one."
    )

# %% [markdown]
# ## Exercises
#
# Both are kernels, and the emulator's counts judge them: `g++` is enough.
#
# - Build: [`exercises/ch10_build.cu`](exercises/ch10_build.cu). Make a rung read 16 bytes at once.
# - Find the bug: [`exercises/ch10_bug.cu`](exercises/ch10_bug.cu). A rung that gives the right numbers, and asks memory
#   for too much.
#
# `pytest tutorials/exercises -k ch10` says when you are done; ours are in `solutions/`.
#
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
