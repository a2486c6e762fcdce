"""How good a ranker is: of the whole catalogue, and of the pairs of items whose true order is known."""

import torch
from torch import Tensor

from minirec.data.dataset import Dataset, Examples
from minirec.data.world import World, true_score
from minirec.measure import baselines, evaluation
from minirec.models.ranker import Ranker
from minirec.noise import stream
from minirec.records import Batch
from minirec.settings import Config

DESCRIBED, ORDERED = 2000, 200  # at most, contexts on which hr@10 and the order of pairs are measured


def hr10(ranker: Ranker, dataset: Dataset, examples: Examples, history: int) -> float:
    """Rank the full catalogue by the ranker alone, and measure HR@10 on contexts with targets, 0 to 1.

    On a simulated world it is exact under the law. Items of the past are left out on real data, as the world
    alone shows them again. Source: definition.
    """
    items = torch.arange(len(dataset.catalogue))
    cfg = Config(history=history, keep_seen=dataset.law is not None)
    result = evaluation.evaluate_scorer(lambda x: ranker(x, items.expand(len(x), -1)), dataset, examples, cfg)
    return result.values["hr@10"].mean().item()


def ordered(ranker: Ranker, world: World, batch: Batch) -> Tensor:
    """Measure how well a ranker orders the items of each context's own half of the world.

    Returns (B,) float64: the share of pairs of items, of A for a user of A and of B for one of B, that the
    ranker orders as the true score does; ½ is chance. Source: definition (AUC over pairs, as Kendall's tau).
    """
    share = []
    for row, tail in enumerate(world.tail_user[batch.user].tolist()):
        context = batch.select(torch.tensor([row]))
        items = (world.tail == tail).nonzero().T  # (1, C)
        true, score = true_score(world, context.user, items)[0], ranker(context, items)[0]  # (C,)
        agree = (score[:, None] - score).sign() * (true[:, None] - true).sign()  # (C, C)
        share.append(0.5 + 0.5 * agree.sum() / (len(true) * (len(true) - 1)))
    return torch.stack(share)


def describe_ranker(ranker: Ranker, dataset: Dataset, history: int, world: World | None = None) -> list[str]:
    """Say how good a ranker is on validation contexts, beside popularity; a line per group. Source: ours."""
    valid = dataset.valid
    groups = {"all": torch.ones(len(valid), dtype=torch.bool)}
    groups |= {"users left to RL": torch.isin(valid.user, dataset.fresh.user)} if dataset.fresh else {}
    if world is not None:
        groups |= {"users of A": ~world.tail_user[valid.user], "users of B": world.tail_user[valid.user]}
    popular = baselines.popularity(dataset.train, len(dataset.catalogue))
    # At random, as the order of users may mean something, and from a stream that nothing else draws from.
    order = torch.randperm(len(valid), generator=stream("judged contexts", 0))
    chosen = {name: order[inside[order]][:DESCRIBED] for name, inside in groups.items() if inside.any()}
    lines = []
    for name, rows in chosen.items():
        examples = valid.select(rows)
        judged = (ranker, lambda batch, items: popular(batch))
        value, floor = (hr10(each, dataset, examples, history) for each in judged)
        line = f"ranker, {name}: hr@10 {value:.4f}, popularity {floor:.4f}, "
        line += f"{len(examples):,} validation contexts"
        if world is not None:
            batch = examples.batch(torch.arange(min(len(examples), ORDERED)), history)
            line += f", pairs of the own half in true order {ordered(ranker, world, batch).mean():.3f}"
        lines.append(line)
    return lines
