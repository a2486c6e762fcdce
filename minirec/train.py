"""The whole run, from a log to a report: ``python -m minirec.train --tiny``.

Supervised training is here; ``run/experiment.py`` goes on with reinforcement learning, if an objective is
set.

The randomness of a step is made from (seed, step, process), and the order of an epoch from (seed, epoch). So
there is no random state to save: a run that is stopped at any moment goes on where its last checkpoint
stands, on one machine bit for bit. A batch is that of all processes together, each takes its share of the
rows, and the loss is divided by the items of the whole batch: but for dropout, the number of processes does
not change the gradient.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from minirec import config
from minirec.errors import command
from minirec.measure import evaluation, report
from minirec.policy import Policy
from minirec.records import Batch, Dataset
from minirec.run import checkpoint
from minirec.run.arms import Reinforced, arms, label, settings
from minirec.run.experiment import reinforce_all
from minirec.run.fit import fit
from minirec.run.machine import Processes
from minirec.run.prepare import begin
from minirec.settings import Config, TrainConfig
from minirec.trie import Trie


def epoch_rows(lengths: Tensor, budget: int, seed: int, epoch: int) -> list[Tensor]:
    """Cut an epoch into batches of rows of similar length, in random order.

    Args:
        lengths: (S,) int64 items per training sequence.
        budget: most items of a batch, padding counted; one row at least.
        seed: of the run.
        epoch: of the pass; each has its own order.

    Returns:
        Row indices per batch, (b,) int64; every row once. The number of batches is the same in every epoch.

    Source: ours.

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

    Args:
        step: from 0.
        steps: of the whole run.
        cfg: rate and warmup are read.

    Returns:
        The learning rate of this step.

    Source: definition; the last hundredth is ours.

    >>> cfg = TrainConfig(rate=1.0, warmup=0.1)
    >>> [round(learning_rate(step, 101, cfg), 3) for step in (0, 9, 10, 55, 100)]
    [0.1, 1.0, 1.0, 0.505, 0.01]
    """
    rise = max(1, round(cfg.warmup * steps))
    if step < rise:
        return cfg.rate * (step + 1) / rise
    progress = (step - rise) / max(1, steps - 1 - rise)
    return cfg.rate * (0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2)


def nll(model: nn.Module, trie: Trie, batch: Batch) -> Tensor:
    """Sum of −log π(codes | condition, items before) over all items of a batch.

    Args:
        model: the policy, or its distributed wrapper.
        trie: for the codes of the items.
        batch: on the model's device; the history is what is predicted.

    Returns:
        A scalar in nats, float32.

    Source: definition; AdaGRPO's NLL(g | x) (2606.08480), at every item of the sequence (ours).
    """
    return -model(batch.condition, trie.encode(batch.history)).sum()


class Training:
    """A policy while it is trained; ``save`` and ``load`` hold all that changes."""

    def __init__(self, cfg: Config, dataset: Dataset, trie: Trie, processes: Processes) -> None:
        self.cfg, self.dataset, self.trie, self.processes = cfg, dataset, trie, processes
        torch.manual_seed(cfg.seed)
        self.policy = Policy(cfg, trie.levels, trie.size, dataset.periods).to(processes.device)
        self.model = processes.wrap(self.policy)
        self.optimiser = torch.optim.AdamW(
            self.policy.parameters(), cfg.rate, betas=(0.9, 0.98), weight_decay=cfg.decay, fused=True
        )
        self.lengths = dataset.train.lengths.clamp(max=cfg.history + 1)  # items that a batch sees
        self.per_epoch = len(epoch_rows(self.lengths, cfg.batch, cfg.seed, 0))
        self.steps = self.per_epoch * cfg.epochs
        order = torch.randperm(len(dataset.valid), generator=torch.Generator().manual_seed(cfg.seed))
        self.valid = dataset.valid.select(order[: cfg.valid_users])
        self.step = 0
        self.rows: list[Tensor] = []  # of this epoch's batches
        self.recent: list[tuple[float, int, float]] = []  # NLL, items, norm of each step since ..
        self.measured: list[dict] = []  # .. the last line of metrics
        self.best = self.policy.state_dict()

    def save(self, run: Path) -> None:
        """Write ``checkpoint.pt``, then ``metrics.jsonl``, which follows from it."""
        if self.processes.rank:
            return
        state = {
            "policy": self.policy.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "best": self.best,
        }
        checkpoint.save_progress(run, state | {"step": self.step, "recent": self.recent}, self.measured)

    def load(self, run: Path) -> None:
        """Go on where ``checkpoint.pt`` stands; ``save`` after it brings metrics.jsonl to the same point."""
        state = checkpoint.load(run / "checkpoint.pt")
        self.policy.load_state_dict(state["policy"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.recent, self.measured = state["step"], state["recent"], state["measured"]
        self.best = state["best"]

    def update(self) -> None:
        """One step of AdamW on the mean NLL per code of the next batch."""
        cfg, processes, device = self.cfg, self.processes, self.processes.device
        epoch, place = divmod(self.step, self.per_epoch)
        if place == 0 or not self.rows:  # an epoch begins, or a run goes on in the middle of one
            self.rows = epoch_rows(self.lengths, cfg.batch, cfg.seed, epoch)
        rows = self.rows[place]
        mine, weight = processes.share(rows)
        batch = self.dataset.train.batch(mine, cfg.history + 1).to(device)
        items = int(self.lengths[rows].sum())  # of all processes
        torch.manual_seed((cfg.seed * 1_000_003 + self.step) * processes.count + processes.rank)  # dropout
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, self.steps, cfg)
        self.policy.train()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = nll(self.model, self.trie, batch) * weight / items  # per item
        (loss / self.trie.levels).backward()  # per code, so that the rate means the same for every L
        norm = nn.utils.clip_grad_norm_(self.policy.parameters(), cfg.clip)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.recent.append((processes.total(loss.item()) * items / processes.count, items, norm.item()))
        self.step += 1

    def due(self) -> bool:
        """Whether an epoch that ends in a validation is over, and the validation still to come."""
        epoch, place = divmod(self.step, self.per_epoch)
        return (
            bool(self.recent) and place == 0 and (epoch % self.cfg.validate == 0 or self.step == self.steps)
        )

    def measure(self) -> None:
        """Add a line of metrics; keep the weights if they are the best on validation so far."""
        nlls, items, norms = zip(*self.recent, strict=True)
        self.recent = []
        if self.processes.rank:
            return
        line = {"step": self.step, "epoch": self.step // self.per_epoch}
        line |= {"nll": sum(nlls) / sum(items), "gradient_norm": sum(norms) / len(norms)}
        result = evaluation.evaluate_policy(
            self.policy,
            self.trie,
            self.dataset,
            self.valid,
            replace(self.cfg, beam=20),
            self.processes.device,
            full=False,
        )
        line |= {name: result.values[name].mean().item() for name in ("recall@10", "ndcg@10")}
        if line["ndcg@10"] > max((old["ndcg@10"] for old in self.measured), default=-1.0):
            self.best = {name: value.clone() for name, value in self.policy.state_dict().items()}
        self.measured.append(line)
        tqdm.write("epoch {epoch:3}  nll {nll:.3f}  valid ndcg@10 {ndcg@10:.4f}".format(**line))


def train(cfg: Config, processes: Processes) -> tuple[Policy, Trie, Dataset, list[str]]:
    """Train one policy in a run folder that ``begin`` has filled; go on from a checkpoint that is there.

    Args:
        cfg: the run's settings.
        processes: this process and the others.

    Returns:
        The policy (see ``fit``), its trie, the dataset, and what is to be said of the data.
    """
    run = Path(cfg.out)
    dataset, fitted, notes = checkpoint.load_data(run, cfg)
    trie = Trie(fitted.codes, fitted.size).to(processes.device)
    training = Training(cfg, dataset, trie, processes)
    if (run / "checkpoint.pt").is_file():
        training.load(run)
        training.save(run)
    if processes.rank == 0:
        parameters = sum(p.numel() for p in training.policy.parameters())
        print(*notes, f"policy: {parameters:,} parameters, {training.steps:,} steps", sep="\n", flush=True)
    return fit(training, run), trie, dataset, notes


def finish(
    trained: dict[str, tuple], reinforced: Reinforced, cfg: Config, processes: Processes, began: float
) -> None:
    """Evaluate beside the floors on the test split, and write and print the report.

    Args:
        trained: by method name, what ``train`` returned; the policy is the one called "supervised".
        reinforced: the arms of reinforcement learning, maybe none.
        cfg: the settings of the policy's run.
        processes: for the device.
        began: ``time.monotonic()`` at the start, in seconds.
    """
    _, trie, dataset, notes = trained["supervised"]
    results = evaluation.floors(dataset, dataset.test, cfg)
    models = {name: (policy, own) for name, (policy, own, _, _) in trained.items()}
    trained_arms = reinforced.policies.items()
    models |= {label(settings(cfg, arm)): (policy, trie) for arm, policy in trained_arms}
    for name, (policy, own) in models.items():
        results[name] = evaluation.evaluate_policy(policy, own, dataset, dataset.test, cfg, processes.device)
    print("\n" + report.text(results, "test", cfg.seed, reinforced))
    seconds = time.monotonic() - began
    written = report.write(Path(cfg.out), results, "test", dataset, cfg, seconds, notes, reinforced)
    print(f"\n{seconds:.0f} s; written: {', '.join(map(str, written))}")
    print("Read next: minirec/records.py, then the files in the order of minirec/__init__.py.")


@command
def main() -> None:
    """Train a policy, and SASRec for the table; reinforce the policy; evaluate all; write the report."""
    began = time.monotonic()
    cfg = config.parse()
    for arm in arms(cfg):
        settings(cfg, arm)  # what cannot be reinforced is said before anything is trained
    processes = Processes(cfg)
    runs = {"supervised": cfg}
    if cfg.sasrec and cfg.levels > 1:
        runs = {"SASRec": replace(cfg, levels=1, sasrec=False, out=f"{cfg.out}/sasrec"), **runs}
    if processes.rank == 0:
        begin(list(runs.values())[::-1])  # the run itself first: its folder is the one to go on with
    processes.total(0)  # all wait for the data
    try:
        trained = {name: train(each, processes) for name, each in runs.items()}
        policy, trie, dataset, _ = trained["supervised"]
        reinforced = reinforce_all(cfg, policy, trie, dataset, processes)
        if processes.rank == 0:
            finish(trained, reinforced, cfg, processes, began)
    except KeyboardInterrupt:
        if processes.rank == 0:
            again = f" --objective {cfg.objective}" if cfg.objective != "none" else ""
            print(f"to go on: python -m minirec.train --resume --out {cfg.out}{again}", file=sys.stderr)
        raise
    processes.close()


if __name__ == "__main__":
    main()
