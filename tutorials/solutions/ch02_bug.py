"""The bug: the NLL of users whose histories are of many lengths, before and after training.

    python tutorials/solutions/ch02_bug.py

The bug: ``.mean(1)`` divided each user's sum by the width of the batch, padding counted, and then every user
counted the same, however long the history. At padding the log-probability is 0: it adds nothing to the sum,
but it did add to what the sum was divided by. So the NLL came out too low, and the more so the longer the
longest history of the batch.

How one could have seen it: the number changed with ``size``, which must not matter. And before training the
policy knows nothing, so its NLL must be near L·log V = 3·log 16 = 8.3 nats; the program said less than
5. Know the value that a number must have before anything was learned.
"""

from dataclasses import replace

import torch

from minirec import settings
from minirec.data import codes, prepare
from minirec.data.dataset import Examples
from minirec.policy import Policy
from minirec.records import PAD
from minirec.trie import Trie


@torch.no_grad()
def nll_per_item(policy: Policy, trie: Trie, users: Examples, size: int = 64) -> float:
    """Mean over all items of all histories of -log π(item | items before) in nats; ``size`` users at once."""
    total, items = 0.0, 0
    for rows in torch.arange(len(users)).split(size):
        batch = users.batch(rows, history=6)
        logp = policy(batch.condition, trie.encode(batch.history))  # (b, H, L)
        total -= logp.sum().item()
        items += int((batch.history != PAD).sum())
    return total / items


def cut(users: Examples, seed: int = 0) -> Examples:
    """Keep one to six items of each history, as a log has short and long ones."""
    kept = torch.randint(1, 7, (len(users),), generator=torch.Generator().manual_seed(seed))
    return replace(users, stop=users.start + kept)


def main() -> None:
    """Train for a few seconds and measure."""
    cfg = replace(settings.TINY, world_users=3000)
    dataset, _ = prepare.read(cfg)
    fitted = codes.fit(dataset.catalogue.features, cfg.levels, cfg.codes, cfg.seed)
    trie, users = Trie(fitted.codes, fitted.size), cut(dataset.test)
    torch.manual_seed(0)
    policy = Policy(cfg, trie.levels, trie.size, dataset.periods)
    print(f"before training  {nll_per_item(policy, trie, users):.3f} nats per item")
    adam = torch.optim.AdamW(policy.parameters(), lr=7e-3, betas=(0.9, 0.98))
    for rows in torch.randint(len(dataset.train), (150, 64)):
        batch = dataset.train.batch(rows, cfg.history + 1)  # seven items each: nothing is padded
        (-policy(batch.condition, trie.encode(batch.history)).mean()).backward()
        adam.step()
        adam.zero_grad()
    print(f"after training   {nll_per_item(policy, trie, users):.3f} nats per item")


if __name__ == "__main__":
    main()
