"""Drive a training to its end, supervised or reinforced: lines of metrics, checkpoints, and Ctrl-C.

Supervised training is by NLL of every item given those before it. The randomness of a step is made from
(seed, step, process), the order of an epoch from (seed, epoch). So no random state is saved, and a run that
was stopped goes on bit for bit on one machine. A batch is that of all processes, each takes its share of the
rows, and the loss is divided by the items of the whole batch: but for dropout, the number of processes does
not change the gradient.
"""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from tqdm import tqdm

from minirec.files import atomic
from minirec.loop import LOGGED, Learner, Tally, reinforce, update
from minirec.measure import report
from minirec.measure.exact import PROBED, probe
from minirec.noise import wide
from minirec.objectives import OBJECTIVES
from minirec.policy import Policy
from minirec.records import Batch, Objective
from minirec.run import folder
from minirec.run.machine import interruptions
from minirec.settings import TrainConfig
from minirec.tasks import Processes, Task
from minirec.trie import Trie

LINES = LOGGED | PROBED
LINES |= {
    "step": "updates done, or with an objective, batches of rollouts done",
    "epoch": "passes over the training sequences",
    "recall@10": "on validation contexts, beam 20; 0 to 1",
    "ndcg@10": "on validation contexts, beam 20; its maximum chooses the supervised weights; 0 to 1",
    "hallucination": "on validation contexts, as in the report; 0 to 1",
    "ndcg@5": "lists: of the greedy ranking on validation contexts, mean over the trained needs; 0 to 1",
}  # every number in metrics.jsonl, beside the facts of an objective
WARMUP = 0.05  # share of the steps with a rising rate
DECAY = 0.01  # weight decay of AdamW
VALID = 5000  # at most so many validation contexts choose the epoch
SEEN = ("reward", "silent", "admitted")  # of an arm, on every line but that of the start
PRINTED = *SEEN, *"estimate exact_reward exact_kl ndcg@10 ndcg@5 hallucination".split()

Validate = Callable[[Policy], dict[str, float]]  # metrics on validation contexts


class Training:
    """A policy while it is trained. All that changes on the way is written by ``save`` and read by ``load``.

    A subclass has ``update``, one step, and ``measure``, which completes a line of metrics.
    """

    last = 0  # step of the last measurement; with -1 the start is measured too
    named = False  # whether the names of the numbers are on the screen

    def __init__(self, policy: Policy, optimiser: Optimizer, processes: Processes, steps: int, every: int):
        self.policy, self.optimiser, self.processes = policy, optimiser, processes
        self.step, self.steps, self.every = 0, steps, every
        self.tally = Tally(())  # of the steps since the last line
        self.measured: list[dict[str, Any]] = []  # lines of metrics
        self.best: dict[str, Tensor] | None = None  # the weights to keep; None: the latest

    def ended(self) -> bool:
        """Whether nothing is left to do; it may differ between processes."""
        return self.step == self.steps

    def show(self, numbers: report.Row) -> None:
        """Print a line of numbers, the first time under their names."""
        lines = report.table([numbers], list(numbers)).splitlines()
        tqdm.write("\n".join(lines[self.named :]))
        self.named = True

    def save(self, run: folder.Run) -> None:
        """Write checkpoint.pt, then metrics.jsonl, in the first process; all must call it."""
        sums = dict(zip(self.tally.sums, self.processes.totals(self.tally.read()).tolist(), strict=True))
        if self.processes.rank == 0:
            weights = self.policy.state_dict()
            folder.refuse_infinite(run.folder / "checkpoint.pt", weights)
            state = {"policy": weights, "best": self.best or weights, "step": self.step, "tally": sums}
            state |= {"measured": self.measured, "optimiser": self.optimiser.state_dict()}
            state["data"] = run.fingerprint
            lines = [json.dumps(line, allow_nan=False) + "\n" for line in self.measured]
            folder.save(run.folder / "checkpoint.pt", state)
            with atomic(run.folder / "metrics.jsonl") as file:
                file.write("".join(lines).encode())

    def load(self, run: folder.Run) -> None:
        """Go on where checkpoint.pt stands; InputError if that is another run, or past the end of this."""
        with run.loaded("checkpoint.pt") as state:
            self.policy.load_state_dict(state["policy"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step, self.measured, self.best = state["step"], state["measured"], state["best"]
            if self.step > self.steps:
                raise ValueError(f"it has done {self.step} steps, and the run has {self.steps}")
        self.last = self.step  # if a measurement was due, it came before the checkpoint
        if self.processes.rank == 0:  # what all processes had added up
            self.tally.sums = state["tally"]


def fit(training: Training, run: folder.Run, *about: str) -> Policy:
    """Say what it is about, and train to the last step; when a line of metrics is due, write a checkpoint.

    Goes on from a checkpoint in the run folder, and writes one after Ctrl-C, when the step is done. Returns
    the policy in evaluation mode, in the first process with the weights that are kept.
    """
    if about and training.processes.rank == 0:
        report.say("", *about)
    if (run.folder / "checkpoint.pt").is_file():
        training.load(run)
        training.save(run)  # brings metrics.jsonl to the same point
    quiet = bool(training.processes.rank) or None  # one bar, and none where nobody looks
    place = {"total": training.steps, "initial": training.step, "disable": quiet}
    with tqdm(desc="train", unit=" steps", leave=False, **place) as bar, interruptions() as caught:
        while True:
            due = training.step % training.every == 0 or training.step == training.steps
            if due and training.step > training.last:
                training.measure()
                training.last = training.step
                training.save(run)
            if training.processes.any(bool(caught)):
                training.save(run)
                raise KeyboardInterrupt
            if training.processes.any(training.ended()):
                break
            training.update()
            bar.update()
    if training.best:
        training.policy.load_state_dict(training.best)
    return training.policy.eval()


def epoch_rows(lengths: Tensor, budget: int, seed: int, epoch: int) -> list[Tensor]:
    """Cut an epoch into batches of rows of similar length, in random order.

    Lengths (S,) are items per training sequence; ``budget`` is the most items of a batch, padding counted.
    Returns row indices per batch, every row once, in equally many batches each epoch (ours).
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(lengths), generator=generator)
    order = order[lengths[order].sort(stable=True).indices]  # by length, in random order among equals
    batches, start = [], 0
    for stop, longest in enumerate(lengths[order].tolist()):
        if stop > start and (stop + 1 - start) * longest > budget:
            batches.append(order[start:stop])
            start = stop
    batches.append(order[start:])
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def learning_rate(step: int, steps: int, cfg: TrainConfig) -> float:
    """Warm up linearly over the first share of the steps, then fall as a cosine to a hundredth.

    Source: definition; the last hundredth is ours.

    >>> cfg = TrainConfig(rate=1.0)
    >>> [round(learning_rate(step, 101, cfg), 3) for step in (0, 4, 5, 53, 100)]
    [0.2, 1.0, 1.0, 0.497, 0.01]
    """
    rise = max(1, round(WARMUP * steps))
    if step < rise:
        return cfg.rate * (step + 1) / rise
    progress = (step - rise) / max(1, steps - 1 - rise)
    return cfg.rate * (0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2)


def nll(model: nn.Module, trie: Trie, batch: Batch) -> tuple[Tensor, Tensor]:
    """Sum of −log π(codes | condition, items before) over all items of a batch's histories, in nats.

    The second sum is that of the items by their vectors, 0 without. Source: definition; AdaGRPO's NLL(g | x)
    (2606.08480), at every item of the sequence (ours).
    """
    logp = model(batch.condition, trie.encode(batch.history))  # (B, H, L) or (B, H, L + 1)
    return -logp[..., : trie.levels].sum(), -logp[..., trie.levels :].sum()


class Supervised(Training):
    """The policy of a run while it is trained."""

    def __init__(self, run: folder.Run) -> None:
        cfg, self.run = run.cfg, run
        torch.manual_seed(cfg.seed)
        policy = run.untrained()
        self.model = run.processes.wrap(policy)
        optimiser = AdamW(policy.parameters(), cfg.rate, (0.9, 0.98), weight_decay=DECAY, fused=True)
        self.lengths = run.dataset.train.lengths.clamp(max=cfg.history + 1)  # items that a batch sees
        self.per_epoch = len(epoch_rows(self.lengths, cfg.batch, cfg.seed, 0))
        steps, every = self.per_epoch * cfg.epochs, self.per_epoch * cfg.validate
        super().__init__(policy, optimiser, run.processes, steps, every)
        self.tally = Tally(("nll", "gradient_norm"))
        self.rows: list[Tensor] = []  # of this epoch's batches

    def ended(self) -> bool:
        """Whether all steps are done, or the last ``patience`` validations brought nothing better."""
        scores = [line["ndcg@10"] for line in self.measured if "ndcg@10" in line]
        worse = len(scores) - 1 - scores.index(max(scores)) if scores else 0
        return super().ended() or 0 < self.run.cfg.patience <= worse

    def update(self) -> None:
        """One step of AdamW on the mean NLL per code of the next batch."""
        cfg, processes, trie = self.run.cfg, self.processes, self.run.trie
        epoch, place = divmod(self.step, self.per_epoch)
        if place == 0 or not self.rows:  # an epoch begins, or a run goes on in the middle of one
            self.rows = epoch_rows(self.lengths, cfg.batch, cfg.seed, epoch)
        rows = self.rows[place]
        part, weight = processes.share(rows)
        batch = self.run.dataset.train.batch(part, cfg.history + 1).to(processes.device)
        items = int(self.lengths[rows].sum())  # of all processes
        torch.manual_seed((cfg.seed * 1_000_003 + self.step) * processes.count + processes.rank)  # dropout
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, self.steps, cfg)
        self.policy.train()
        kind = processes.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
            of_codes, of_items = (part * weight / items for part in nll(self.model, trie, batch))  # per item
        # The gradient is per code, so that the rate means the same for every L.
        norm = update((of_codes + of_items) / trie.levels, self.optimiser, self.step, cfg.clip)
        self.tally.add("nll", wide(of_codes.detach()) * items / processes.count, items / processes.count)
        self.tally.add("gradient_norm", norm)
        self.step += 1

    def measure(self) -> None:
        """Add a line of metrics; keep the weights if they are the best on validation so far."""
        line = {"step": self.step, "epoch": self.step // self.per_epoch} | self.tally.means(self.processes)
        self.tally = Tally(self.tally.sums)
        self.measured.append(line)
        if self.processes.rank:
            return
        line |= self.run.validate(self.policy, VALID, ("recall@10", "ndcg@10"))
        if line["ndcg@10"] > max((old["ndcg@10"] for old in self.measured[:-1]), default=-1.0):
            self.best = {name: value.clone() for name, value in self.policy.state_dict().items()}
        self.show({name: line[name] for name in ("epoch", "nll", "ndcg@10")})


def train(run: folder.Run, heading: str) -> None:
    """Train the policy of a run, from the checkpoint in its folder where there is one."""
    training = Supervised(run)
    size = sum(p.numel() for p in training.policy.parameters())
    fit(training, run, f"{heading}: {size:,} parameters, {training.steps:,} steps")


class Reinforcement(Training):
    """A policy while an objective teaches it. The last weights are kept, whatever validation says."""

    last = -1  # so that the start is measured too

    def __init__(self, start: Policy, task: Task, objective: Objective, validate: Validate) -> None:
        self.task, self.objective, self.validate, cfg = task, objective, validate, task.cfg
        self.learner = learner = Learner(cfg, start, task.trie, task.processes)
        super().__init__(learner.policy, learner.optimiser, task.processes, cfg.rl_steps, cfg.measure)

    def update(self) -> None:
        """One step of ``loop.reinforce``, and a line of what was seen."""
        tally = reinforce(self.learner, self.task, self.objective, self.step)
        self.step, self.best = self.step + 1, None  # the latest weights are kept
        self.measured.append({"step": self.step} | tally.means(self.processes))

    def measure(self) -> None:
        """Complete the last line: this moment's exact values beside estimates, and validation."""
        self.measured = self.measured or [{"step": self.step}]
        line = self.measured[-1]
        if self.task.probe is not None:
            line |= probe(self.task, self.policy, self.learner.reference, self.step)
        if self.processes.rank:
            return
        line |= self.validate(self.policy)
        shown = [place for place, other in enumerate(self.measured[:-1], 1) if "estimate" in other]
        lines = self.measured[max(shown, default=0) :]
        names = [name for name in PRINTED if name in SEEN or name in self.measured[0]]
        values = {name: [each[name] for each in lines if name in each] for name in names}
        means = {name: sum(numbers) / len(numbers) if numbers else "" for name, numbers in values.items()}
        self.show({"step": self.step} | means)


def train_arm(run: folder.Run, start: Policy, task: Task, validate: Validate, name: str, *notes: str) -> None:
    """Run one arm to its end, from its checkpoint where there is one; the policy of the last step is kept."""
    cfg = task.cfg
    training = Reinforcement(start, task, OBJECTIVES[cfg.objective], validate)
    size = f"{cfg.rl_steps} batches of {cfg.contexts} x {cfg.group} rollouts"
    fit(training, replace(run, cfg=cfg), f"{name}: {size}", *notes)
