"""A small data set, an untrained policy, and a run folder of both, for the tests of what reads a run."""

from types import SimpleNamespace

import torch

from minirec import settings
from minirec.data.codes import Codes
from minirec.data.dataset import Catalogue, Dataset, Examples
from minirec.policy import Policy
from minirec.run.folder import save, save_data
from minirec.trie import Trie

ITEMS, USERS = 30, 24
CFG = settings.Config(
    vectors=False, levels=2, codes=8, history=4, width=16, layers=1, heads=2, beam=12, samples=6
)


def examples(events, starts, stops, targets, tied=None):
    size = len(starts)
    return Examples(
        events=events,
        start=starts,
        stop=stops,
        user=torch.arange(size),
        condition=torch.zeros(size, 4, dtype=torch.int64),
        targets=targets,
        tied=torch.zeros(size, dtype=torch.bool) if tied is None else tied,
    )


def make_dataset(law=None):
    """Users of 3 to 8 events; the last is the test target, the one before it the validation target."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(3, 9, (USERS,), generator=generator)
    events = torch.randint(ITEMS, (int(counts.sum()),), generator=generator)
    stop = counts.cumsum(0)
    start = stop - counts
    none = torch.empty(USERS, 0, dtype=torch.int64)
    return Dataset(
        Catalogue([f"item{i}" for i in range(ITEMS)], [f"Title {i}" for i in range(ITEMS)]),
        [f"user{u}" for u in range(USERS)],
        train=examples(events, start, stop - 2, none),
        valid=examples(events, start, stop - 2, events[stop - 2][:, None]),
        test=examples(events, start, stop - 1, events[stop - 1][:, None], tied=torch.arange(USERS) % 3 == 0),
        world=SimpleNamespace(law=law) if law else None,
        start=start,
    )


def make_codes():
    """30 of the 64 tuples, so that there are holes."""
    chosen = torch.randperm(64, generator=torch.Generator().manual_seed(1))[:ITEMS]
    return Codes(torch.stack([chosen // 8, chosen % 8], 1), size=8, centroids=torch.zeros(2, 8, 3), moved=0)


def make_policy(cfg=CFG):
    codes = make_codes()
    with torch.random.fork_rng():
        torch.manual_seed(2)
        policy = Policy(cfg, 2, 8)
    for parameter in policy.parameters():  # larger weights than at the start of training: no near ties
        parameter.data.mul_(8 if parameter.dim() == 2 else 1)
    return policy.eval(), Trie(codes.codes, codes.size)


def make_run(folder, cfg=CFG):
    """Write what recommend and evaluate need."""
    folder.mkdir(exist_ok=True)
    settings.write(cfg, folder / "config.json")
    data = save_data(folder, make_dataset(), make_codes(), [])
    save(folder / "checkpoint.pt", {"step": 0, "data": data, "best": make_policy(cfg)[0].state_dict()})
    return folder
