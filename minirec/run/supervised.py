"""Supervised training: NLL of every item given those before it.

The randomness of a step is made from (seed, step, process), the order of an epoch from (seed, epoch). So no
random state is saved, and a run that was stopped goes on bit for bit on one machine. A batch is that of all
processes, each takes its share of the rows, and the loss is divided by the items of the whole batch: but for
dropout, the number of processes does not change the gradient.
"""

import math

import torch
from torch import Tensor, nn, optim

from minirec.loop import Tally, update
from minirec.measure import report
from minirec.noise import wide
from minirec.records import Batch
from minirec.run.folder import Run
from minirec.run.training import Training, fit
from minirec.settings import TrainConfig
from minirec.trie import Trie

WARMUP = 0.05  # share of the steps with a rising rate
DECAY = 0.01  # weight decay of AdamW
PRINTED = "epoch", "nll", "ndcg@10"
VALID = 5000  # at most so many validation contexts choose the epoch


def epoch_rows(lengths: Tensor, budget: int, seed: int, epoch: int) -> list[Tensor]:
    """Cut an epoch into batches of rows of similar length, in random order.

    Lengths (S,) are items per training sequence; ``budget`` is the most items of a batch, padding counted.
    Returns row indices per batch, every row once, in equally many batches each epoch (ours).

    >>> sorted(len(rows) for rows in epoch_rows(torch.tensor([2, 6, 2, 5, 2]), 6, seed=0, epoch=0))
    [1, 1, 3]
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


def nll(model: nn.Module, trie: Trie, batch: Batch) -> Tensor:
    """Sum of −log π(codes | condition, items before) over all items of a batch's histories, in nats.

    Source: definition; AdaGRPO's NLL(g | x) (2606.08480), at every item of the sequence (ours).
    """
    return -model(batch.condition, trie.encode(batch.history)).sum()


class Supervised(Training):
    """The policy of a run while it is trained."""

    def __init__(self, run: Run) -> None:
        cfg, self.run = run.cfg, run
        torch.manual_seed(cfg.seed)
        policy = run.untrained()
        self.model = run.processes.wrap(policy)
        optimiser = optim.AdamW(policy.parameters(), cfg.rate, (0.9, 0.98), weight_decay=DECAY, fused=True)
        self.lengths = run.dataset.train.lengths.clamp(max=cfg.history + 1)  # items that a batch sees
        self.per_epoch = len(epoch_rows(self.lengths, cfg.batch, cfg.seed, 0))
        steps, every = self.per_epoch * cfg.epochs, self.per_epoch * cfg.validate
        super().__init__(policy, optimiser, run.processes, steps, every)
        self.tally = Tally(("nll", "gradient_norm"))
        self.rows: list[Tensor] = []  # of this epoch's batches

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
            loss = nll(self.model, trie, batch) * weight / items  # per item
        # The gradient is per code, so that the rate means the same for every L.
        norm = update(loss / trie.levels, self.optimiser, self.step, cfg.clip)
        self.tally.add("nll", wide(loss.detach()) * items / processes.count, items / processes.count)
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
        self.show({name: line[name] for name in PRINTED})


def train(run: Run, heading: str) -> None:
    """Train the policy of a run, from the checkpoint in its folder where there is one."""
    training = Supervised(run)
    if run.processes.rank == 0:
        size = sum(p.numel() for p in training.policy.parameters())
        report.say("", f"{heading}: {size:,} parameters, {training.steps:,} steps")
    fit(training, run)
