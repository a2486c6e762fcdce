"""Size of a public log, and its floors on the test split: no training, nothing drawn.

    python -m bench.floors --data Beauty.txt.gz --items Beauty_item2attributes.json.gz
    python -m bench.floors --data ratings.csv.gz
    python -m bench.floors --data first_purchase_5core.csv.gz --items items.csv --split group

It takes the flags of ``minirec.train``.
"""

import gzip
import json
from pathlib import Path

import torch

from bench.timing import write
from minirec import settings
from minirec.data import prepare
from minirec.data.dataset import Dataset
from minirec.measure.evaluation import floors

SHOWN = ("recall@5", "ndcg@5", "recall@10", "ndcg@10")


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
    lines = [summary, f"{len(dataset.test):,} test contexts"]
    if cfg.items.endswith(".json.gz"):
        listed = list(json.loads(gzip.decompress(Path(cfg.items).read_bytes())))
        share, pairs = in_order(dataset, listed)
        lines.append(
            f"{share:.1%} of {pairs:,} neighbouring pairs of events stand in the order of {cfg.items}"
        )
    lines += ["", "| method | " + " | ".join(SHOWN) + " |", "|---" * (len(SHOWN) + 1) + "|"]
    for name, result in floors(dataset, dataset.test, cfg).items():
        cells = [f"{result.values[metric].mean():.4f}" for metric in SHOWN]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    name = cfg.data.split("/")[-1].split(".")[0].lower()
    write("floors", f"Floors on {cfg.data}", lines, result=f"floors_{name}")


if __name__ == "__main__":
    main()
