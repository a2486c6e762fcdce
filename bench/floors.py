"""Floors of a public log on the test split, as ``minirec.train --floors`` prints them, kept in bench/results.

    python -m bench.floors --data Beauty.txt.gz --items Beauty_item2attributes.json.gz
    python -m bench.floors --data ratings.csv.gz
    python -m bench.floors --data first_purchase_5core.csv.gz --items items.csv --split group

It takes the flags of ``minirec.train``. Beside them stands how often a user's events follow a list of items.
"""

import gzip
import json
from pathlib import Path

import torch

from bench.timing import write
from minirec import settings
from minirec.data import prepare
from minirec.data.dataset import Dataset
from minirec.measure import evaluation, report

SHOWN = ("method", "recall@5", "ndcg@5", "recall@10", "ndcg@10")


def in_order(dataset: Dataset, listed: list[str]) -> tuple[float, int]:
    """Share of a user's neighbouring events that stand in the order of a list of items; number of such pairs.

    For a log of which every user has a test context with one target.
    """
    place = {name: i for i, name in enumerate(listed)}
    places = torch.tensor([place[name] for name in dataset.catalogue.ids])
    test, forward = dataset.test, []
    for start, stop in zip(test.start.tolist(), test.stop.tolist(), strict=True):
        sequence = places[test.events[start : stop + 1]]  # the target stands behind the history
        forward.append(sequence[:-1] < sequence[1:])
    share = torch.cat(forward).double()
    return share.mean().item(), len(share)


def main() -> None:
    """Read a log, evaluate the floors, write the table."""
    cfg = settings.configure(settings.arguments())
    dataset, summary = prepare.read(cfg)
    test = evaluation.sample(dataset.test, cfg.test_contexts, cfg.seed)
    results = report.Results(evaluation.floors(dataset, test, cfg), "test", whole=len(dataset.test))
    lines = [summary, f"test split, {report.contexts(results)}"]
    if cfg.items.endswith(".json.gz"):
        listed = list(json.loads(gzip.decompress(Path(cfg.items).read_bytes())))
        share, pairs = in_order(dataset, listed)
        lines.append(
            f"{share:.1%} of {pairs:,} neighbouring pairs of events stand in the order of {cfg.items}"
        )
    lines += ["", report.markdown(results.rows, SHOWN)]
    name = cfg.data.split("/")[-1].split(".")[0].lower()
    write("floors", f"Floors on {cfg.data}", lines, result=f"floors_{name}")


if __name__ == "__main__":
    main()
