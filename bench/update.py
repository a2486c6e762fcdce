"""ReCast's actor update at G = 32 against GRPO's, on the same rollouts: time and peak memory.

    python -m bench.update

An update is a reference pass, then the actor's: forward and backward of ``Loss``. Every group is learnable
after repair, the most that ReCast can have to do: it updates 2 rows of 32, so the row count allows 16. Two
ways of computing a prompt: repeated for every rollout, as in the paper and wherever a sequence is a row of a
batch; and shared by the group, which is minirec's own. Peak memory is that of the tensors alive at once in
the actor's pass, gradients included, above weights and batch, by torch's profiler.
"""

from collections.abc import Callable
from itertools import accumulate
from statistics import median

import torch
from torch.profiler import ProfilerActivity

from bench.timing import medians, write
from minirec.objectives.loss import Loss, logprobs
from minirec.policy import Policy
from minirec.records import Batch, Signal
from minirec.run.machine import keep_freed_memory
from minirec.settings import Config
from minirec.trie import Trie

LEVELS, SIZE, ITEMS, CONTEXTS, GROUP = 3, 256, 12_101, 16, 32
REPEATS, ROUNDS = 3, 5

Pass = Callable[[], object]


def update(history: int, rows: int, repeated: bool) -> tuple[Pass, Pass]:
    """Make the actor's and the reference pass on the first ``rows`` rollouts of each of CONTEXTS groups."""
    torch.manual_seed(0)
    flat = torch.randperm(SIZE**LEVELS)[:ITEMS]
    trie = Trie(torch.stack([flat // SIZE**level % SIZE for level in range(LEVELS)], -1), SIZE)
    policy = Policy(Config(), LEVELS, SIZE).eval()
    model = Loss(policy, trie, Config())
    batch = Batch(
        user=torch.arange(CONTEXTS),
        history=torch.randint(ITEMS, (CONTEXTS, history)),
        condition=torch.zeros(CONTEXTS, 4, dtype=torch.int64),
        targets=torch.randint(ITEMS, (CONTEXTS, 1)),
        seen=torch.empty(CONTEXTS, 0, dtype=torch.int64),
    )
    codes = trie.encode(torch.randint(ITEMS, (CONTEXTS, GROUP))[:, :rows])[:, :, None]  # (B, S, 1, L)
    if repeated:  # every sequence is a context of its own
        batch = batch.select(torch.arange(CONTEXTS).repeat_interleave(rows))
        codes = codes.flatten(0, 1)[:, None]  # (B*S, 1, 1, L)
    signal = Signal(torch.arange(len(codes)), codes, torch.randn(codes.shape[:3]), width=codes.shape[1])
    allowed = trie.masks(codes)

    @torch.no_grad()
    def reference() -> torch.Tensor:
        return logprobs(policy, trie, batch, signal, allowed)

    anchor = reference()

    def actor() -> None:
        loss, _ = model(batch, signal, allowed, None, anchor, len(batch))
        loss.backward()
        model.zero_grad()

    return actor, reference


def peak(run: Pass) -> float:
    """MiB of tensors alive at once while something runs, above what was alive before."""
    with torch.profiler.profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))) / 2**20


def compare(history: int, repeated: bool) -> list[str]:
    """Rows of the table for one prompt."""
    grpo, grpo_reference = update(history, GROUP, repeated)
    recast, recast_reference = update(history, 2, repeated)
    passes = {"actor": (grpo, recast), "reference": (grpo_reference, recast_reference)}
    every = {(name, i): run for name, pair in passes.items() for i, run in enumerate(pair)}
    repeats = [medians(every, ROUNDS) for _ in range(REPEATS)]
    middle = {key: median(seconds[key] for seconds in repeats) for key in every}
    saved = {name: middle[name, 0] - middle[name, 1] for name in passes}
    prompt = f"| {'repeated' if repeated else 'shared'}, {1 + history * LEVELS} tokens"
    lines = []
    for name in passes:
        long, short = middle[name, 0], middle[name, 1]
        ratios = [seconds[name, 0] / seconds[name, 1] for seconds in repeats]
        each = ", ".join(f"{ratio:.1f}" for ratio in ratios)
        cells = f"{1000 * long:.0f} ms | {1000 * short:.1f} ms | {median(ratios):.1f} | {each}"
        lines.append(f"{prompt} | {name} | {cells} | {saved[name] / sum(saved.values()):.0%} |")
    high, low = peak(grpo), peak(recast)
    return [*lines, f"{prompt} | actor, peak | {high:.0f} MiB | {low:.0f} MiB | {high / low:.1f} | | |"]


def main() -> None:
    """Measure both ways at two prompt lengths."""
    keep_freed_memory()
    sizes = f"{CONTEXTS} contexts, G = {GROUP}, {LEVELS} × {SIZE} codes, the default policy"
    lines = [
        f"{sizes}; median of {REPEATS} repeats, each the median of {ROUNDS} rounds in turn.",
        "A ratio is taken within each repeat, and the median is shown.",
        "Every group is learnable after repair: 2 rows of 32 are updated, and the row count allows 16.",
        "With several updates per batch an old pass comes on top, of the cost of the reference's.",
        "Peak memory is that of tensors, above weights and batch, so no share of a whole run's memory.",
        "",
        "| prompt | pass | GRPO | ReCast | ratio | by repeat | of the time saved |",
        "|" + "---|" * 7,
    ]
    for history in (20, 50):
        for repeated in (True, False):
            lines += compare(history, repeated)
    write("update", "ReCast's update against GRPO's", lines)


if __name__ == "__main__":
    main()
