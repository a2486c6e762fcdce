"""A GRPO step of minirec against one of TRL's GRPOTrainer: equal model, contexts, group, and lengths.

    pip install trl
    python -m bench.trl_step

A step is everything: rollouts, rewards, reference pass, update. Both have a decoder of the same width,
depth, heads and tied embeddings, prompts of the same length, three tokens to generate, a reward of 1 for an
item, the k3 KL, no dropout, one update per batch, float32. TRL generates with transformers and knows no
trie, so neither side has a mask. Rounds alternate in one process; the first steps of each are not counted.
"""

import statistics
import tempfile
import time
from dataclasses import replace

import torch
import transformers
import trl
from datasets import Dataset as Rows
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from bench.timing import write
from bench.training import llama
from minirec.data.dataset import Examples, contexts
from minirec.loop import Learner, reinforce
from minirec.objectives import OBJECTIVES, settings_of
from minirec.policy import Policy
from minirec.run.machine import keep_freed_memory
from minirec.settings import TINY, Config
from minirec.tasks import NextItem
from minirec.trie import Trie

LEVELS, CONTEXTS, GROUP, WARM, STEPS = 3, 8, 16, 2, 6


def sequences(trie: Trie, history: int) -> Examples:
    """Random sequences of history + 1 items, the last of each a target."""
    users = 400
    events = torch.randint(len(trie), (users * (history + 1),))
    start = torch.arange(users) * (history + 1)
    return Examples(
        events=events,
        start=start,
        stop=start + history,
        user=torch.arange(users),
        condition=torch.zeros(users, 4, dtype=torch.int64),
        targets=events[start + history][:, None],
        tied=torch.zeros(users, dtype=torch.bool),
    )


class Stopwatch(TrainerCallback):
    """Notes the time at the end of each of TRL's steps."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_, **__) -> None:
        """Called by the trainer."""
        self.ends.append(time.perf_counter())


def theirs(cfg: Config, trie: Trie, examples: Examples, folder: str) -> list[float]:
    """Seconds of each step of GRPOTrainer."""
    names = [str(token) for token in range(LEVELS * trie.size)] + ["start", "pad", "end"]
    words = Tokenizer(WordLevel({name: i for i, name in enumerate(names)}, unk_token="pad"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="pad", eos_token="end", unk_token="pad"
    )
    offset = torch.arange(LEVELS) * trie.size
    batch = examples.batch(torch.arange(len(examples)), cfg.history)
    prompts = (trie.encode(batch.history) + offset).flatten(1).tolist()
    right = {" ".join(map(str, (codes + offset).tolist())) for codes in trie.codes}
    rows = Rows.from_list([{"prompt": " ".join(["start", *map(str, tokens)])} for tokens in prompts])
    watch = Stopwatch()
    arguments = GRPOConfig(
        output_dir=folder,
        use_cpu=True,
        per_device_train_batch_size=CONTEXTS * GROUP,
        num_generations=GROUP,
        max_completion_length=LEVELS,
        max_steps=WARM + STEPS,
        beta=cfg.kl,
        learning_rate=cfg.rl_rate,
        report_to=[],
        logging_strategy="no",
        save_strategy="no",
        disable_tqdm=True,
        bf16=False,
        gradient_checkpointing=False,
    )
    model = f"{folder}/model"  # on disk, as the trainer loads its reference from where the policy came from
    llama(cfg, len(names)).save_pretrained(model)
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=lambda completions, **_: [float(text.strip() in right) for text in completions],
        args=arguments,
        train_dataset=rows,
        processing_class=tokenizer,
        callbacks=[watch],
    )
    trainer.train()
    return [b - a for a, b in zip(watch.ends[WARM - 1 :], watch.ends[WARM:], strict=False)]


def ours(cfg: Config, trie: Trie, examples: Examples) -> list[float]:
    """Seconds of each step of ``loop.reinforce``."""
    cfg = settings_of(cfg, "grpo", contexts=CONTEXTS, group=GROUP, mask="none")
    task = NextItem(cfg, trie, contexts(examples))
    learner = Learner(cfg, Policy(cfg, LEVELS, trie.size), trie)
    ends = []
    for step in range(WARM + STEPS):
        reinforce(learner, task, OBJECTIVES["grpo"], step)
        ends.append(time.perf_counter())
    return [b - a for a, b in zip(ends[WARM - 1 :], ends[WARM:], strict=False)]


def main() -> None:
    """Measure at the sizes of the tiny preset and of the defaults."""
    keep_freed_memory()
    lines = [
        f"{CONTEXTS} contexts, {GROUP} rollouts each; median of 3 rounds, each the median of {STEPS} steps.",
        "A ratio is taken within each round, and the median is shown.",
        f"TRL {trl.__version__} with transformers {transformers.__version__}, gradient checkpointing off.",
        "minirec computes a prompt once per context, TRL once per rollout: that grows with the history.",
        "",
    ]
    lines += ["| size | minirec, ms | GRPOTrainer, ms | ratio | ratios by round |", "|---|---|---|---|---|"]
    sizes = {
        "tiny: d = 48, 3 × 16 codes, history 6": (replace(TINY, dropout=0.0), 16, 512, 6),
        "default: d = 128, 3 × 256 codes, history 20": (Config(history=20, dropout=0.0), 256, 12_101, 20),
    }
    for name, (cfg, size, items, history) in sizes.items():
        torch.manual_seed(0)
        flat = torch.randperm(size**LEVELS)[:items]
        trie = Trie(torch.stack([flat // size**level % size for level in range(LEVELS)], -1), size)
        examples = sequences(trie, history)
        rounds = []
        for _ in range(3):
            seconds = statistics.median(ours(cfg, trie, examples))
            with tempfile.TemporaryDirectory() as folder:
                rounds.append((seconds, statistics.median(theirs(cfg, trie, examples, folder))))
        a, b = (statistics.median(values) for values in zip(*rounds, strict=True))
        ratios = [y / x for x, y in rounds]  # within a round, as the machine's load drifts
        each = ", ".join(f"{ratio:.1f}" for ratio in ratios)
        ratio = statistics.median(ratios)
        lines.append(f"| {name} | {1000 * a:.0f} | {1000 * b:.0f} | {ratio:.1f} | {each} |")
    write("trl_step", "A GRPO step against TRL's", lines)


if __name__ == "__main__":
    main()
