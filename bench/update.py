"""ReCast's actor update at G = 32 against GRPO's, on the same rollouts: time and peak memory.

    python -m bench.update

The update is forward and backward of ``Learner``, and the reference pass before it. Every group is
learnable after repair, so ReCast updates 2 of 32 rows and the row count allows 16. Two ways of computing a
prompt: repeated for every rollout, as in the paper and wherever a sequence is a row of a batch; and shared
by the group, which is minirec's own. Peak memory is that of the tensors alive at once,
above weights and batch, by torch's profiler.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

import torch
from torch.profiler import ProfilerActivity

from bench.timing import medians, write
from minirec.config import Config
from minirec.machine import keep_freed_memory
from minirec.objectives.loss import Learner
from minirec.policy import Policy
from minirec.records import Batch, Signal
from minirec.trie import Trie

LEVELS, SIZE, ITEMS, CONTEXTS, GROUP = 3, 256, 12_101, 16, 32


def update(history: int, rows: int, repeated: bool):
    """Make the two passes of an update on ``rows`` sequences for each of CONTEXTS contexts."""
    torch.manual_seed(0)
    flat = torch.randperm(SIZE**LEVELS)[:ITEMS]
    trie = Trie(torch.stack([flat // SIZE**level % SIZE for level in range(LEVELS)], -1), SIZE)
    learner = Learner(Policy(Config(), LEVELS, SIZE).eval(), trie, Config())
    batch = Batch(
        user=torch.arange(CONTEXTS),
        history=torch.randint(ITEMS, (CONTEXTS, history)),
        condition=torch.zeros(CONTEXTS, 4, dtype=torch.int64),
        targets=torch.randint(ITEMS, (CONTEXTS, 1)),
        seen=torch.empty(CONTEXTS, 0, dtype=torch.int64),
    )
    codes = trie.encode(torch.randint(ITEMS, (CONTEXTS, rows)))[:, :, None]  # (B, S, 1, L)
    if repeated:  # every sequence is a context of its own
        batch = batch.select(torch.arange(CONTEXTS).repeat_interleave(rows))
        codes = codes.flatten(0, 1)[:, None]  # (B*S, 1, 1, L)
    signal = Signal(torch.arange(len(codes)), codes, torch.randn(codes.shape[:3]), width=codes.shape[1])
    allowed = trie.masks(codes)

    @torch.no_grad()
    def reference() -> torch.Tensor:
        return learner.logp(batch, signal, allowed)

    anchor = reference()

    def actor() -> None:
        loss, _ = learner(batch, signal, allowed, None, anchor, len(batch))
        loss.backward()
        learner.zero_grad()

    return actor, reference


def peak(run: Callable[[], object]) -> float:
    """MiB of tensors alive at once while something runs, above what was alive before."""
    with torch.profiler.profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))) / 2**20


def main() -> None:
    """Measure both ways at two prompt lengths."""
    keep_freed_memory()
    sizes = f"{CONTEXTS} contexts, G = {GROUP}, {LEVELS} × {SIZE} codes"
    lines = [f"{sizes}, the default policy; medians of 5 rounds.", ""]
    head = "| prompt | tokens | actor: GRPO | ReCast | gain | reference: gain | peak: GRPO | ReCast | ratio |"
    lines += [head, "|" + "---|" * 9]
    for history in (20, 50):
        for repeated in (True, False):
            many, few = update(history, GROUP, repeated), update(history, 2, repeated)
            names = ("many", "few", "many reference", "few reference")
            runs = many[0], few[0], many[1], few[1]
            seconds = medians(dict(zip(names, runs, strict=True)), 5)
            gain = seconds["many"] / seconds["few"]
            other = seconds["many reference"] / seconds["few reference"]
            cells = ["repeated" if repeated else "shared", str(1 + history * LEVELS)]
            cells += [f"{1000 * seconds[n]:.1f} ms" for n in names[:2]] + [f"{gain:.1f}", f"{other:.1f}"]
            high, low = peak(many[0]), peak(few[0])
            cells += [f"{high:.0f} MiB", f"{low:.0f} MiB", f"{high / low:.1f}"]
            lines.append("| " + " | ".join(cells) + " |")
    write("update", "ReCast's update against GRPO's", lines)


if __name__ == "__main__":
    main()
