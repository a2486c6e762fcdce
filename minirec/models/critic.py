"""FlexRec's critic: the mean and the variance of what an item is worth to a user for a need (2603.11901).

Feedback is sparse. The critic learns from the part that was seen; its mean stands in for what is missing, and
its variance says how far a list's reward can be trusted [paper]. It minimises the Gaussian NLL

    ½ log s² + (y − μ)² / (2 s²)

Ours: the network. An item is a vector of its own plus a map of what is known of it, the vectors that codes
are made from; a user is the mean item of the history, so unknown users have one too; the two, their product
and the condition go through an MLP with one hidden layer to μ and log s². log s² is kept in LOG_VARIANCE: at
a gain that can be predicted exactly, the NLL has no lower bound.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from minirec.data.lists import ListSource, needs_of_step
from minirec.noise import stream
from minirec.records import PAD, Batch, Lists

WIDTH, HIDDEN, DROPOUT = 32, 64, 0.2
BATCH, RATE, DECAY = 64, 3e-3, 0.1
KEPT_OUT, JUDGED = 1000, 25  # at most so many sets judge the critic, every so many steps
LOG_VARIANCE = (-8.0, 2.0)  # of gains between 0 and 1


class Critic(nn.Module):
    """μ and s² of gains, given history, condition and item.

    Source: FlexRec (2603.11901) for what it predicts; the network is ours.
    """

    def __init__(self, vectors: Tensor, periods: int, seed: int = 0) -> None:
        """Make an untrained critic; ``load_state_dict`` makes it a trained one.

        Args:
            vectors: (N, F) float32, what is known of the items.
            periods: of the condition; 0 where the data has none.
            seed: of the weights.
        """
        super().__init__()
        self.register_buffer("vectors", vectors)
        with torch.random.fork_rng(devices=[]):  # layers draw from the global generator
            torch.manual_seed(seed)
            self.map = nn.Linear(vectors.shape[1], WIDTH)
            self.own = nn.Embedding.from_pretrained(torch.zeros(len(vectors), WIDTH), freeze=False)
            self.condition = nn.ModuleList(nn.Embedding(kinds, WIDTH) for kinds in (3, 3, periods + 1))
            self.hidden = nn.Linear(4 * WIDTH, HIDDEN)
            self.out = nn.Linear(HIDDEN, 2)
        self.dropout = nn.Dropout(DROPOUT)

    def item(self, items: Tensor) -> Tensor:
        """Embed items (...): (..., d); PAD reads item 0."""
        items = items.clamp(min=0)
        return self.map(F.embedding(items, self.vectors)) + self.own(items)

    def forward(self, batch: Batch, items: Tensor) -> tuple[Tensor, Tensor]:
        """Predict gains.

        Args:
            batch: B contexts; history and condition are read.
            items: (B, C) int64.

        Returns:
            mean (B, C) float32, which may leave [0, 1], and variance (B, C) float32, above 0.
        """
        real = (batch.history != PAD)[..., None]  # (B, H, 1)
        user = (self.item(batch.history) * real).sum(1) / real.sum(1).clamp(min=1)  # (B, d)
        need = sum(one(batch.condition[:, k + 1]) for k, one in enumerate(self.condition))  # (B, d)
        item = self.item(items)  # (B, C, d)
        user, need = user[:, None].expand_as(item), need[:, None].expand_as(item)
        hidden = F.gelu(self.hidden(self.dropout(torch.cat([user, item, user * item, need], -1))))
        mean, log_variance = self.out(hidden).unbind(-1)
        return mean, log_variance.clamp(*LOG_VARIANCE).exp()


def gaussian_nll(mean: Tensor, variance: Tensor, gains: Tensor) -> Tensor:
    """NLL of gains under N(μ, s²), without the constant.

    Args:
        mean, variance, gains: of one shape; variances above 0.

    Returns:
        The same shape, in nats.

    Source: definition.

    >>> gaussian_nll(torch.tensor(0.5), torch.tensor(1.0), torch.tensor(1.0))
    tensor(0.1250)
    """
    return 0.5 * variance.log() + (gains - mean).square() / (2 * variance)


def loss(critic: Critic, lists: Lists) -> Tensor:
    """Mean NLL of the gains that were seen; what is missing is never read.

    Args:
        critic: to be judged.
        lists: B sets.

    Returns:
        A scalar, 0 where nothing was seen.
    """
    mean, variance = critic(lists.batch, lists.candidates)
    nll = gaussian_nll(mean, variance, lists.gains)
    return torch.where(lists.observed, nll, 0.0).sum() / lists.observed.sum().clamp(min=1)


def fit(critic: Critic, source: ListSource, seed: int, steps: int = 600) -> Critic:
    """Train a critic on the feedback that was seen, for the needs that are trained.

    A tenth of the sets, at most KEPT_OUT, is left out; the weights kept are those with the least NLL on it.
    Beyond that point the variance is too small for what the critic has not seen.

    Args:
        critic: a new one.
        source: the training lists.
        seed: of the order of sets and needs, and of the dropout.
        steps: of AdamW, on BATCH sets each.

    Returns:
        The critic, frozen.

    Source: FlexRec (2603.11901) for the loss; the rest is ours.
    """
    random = stream("critic", seed)
    order = torch.randperm(len(source), generator=random)
    out, own = order.tensor_split([min(len(order) // 10, KEPT_OUT)])
    judge = source.draw(out, needs_of_step(seed, 0, len(out)))
    optimiser = torch.optim.AdamW(critic.parameters(), RATE, weight_decay=DECAY, fused=True)
    least = float("inf")
    with torch.random.fork_rng(devices=[]):  # dropout draws from the global generator
        torch.manual_seed(seed)
        for step in tqdm(range(1, steps + 1), "critic", unit=" steps", delay=2, leave=False, disable=None):
            rows = own[torch.randint(len(own), (BATCH,), generator=random)]
            optimiser.zero_grad()
            loss(critic.train(), source.draw(rows, needs_of_step(seed, step, BATCH))).backward()
            optimiser.step()
            if step % JUDGED == 0 or step == steps:
                with torch.no_grad():
                    now = loss(critic.eval(), judge).item()
                if now <= least:
                    best, least = copy.deepcopy(critic.state_dict()), now
    critic.load_state_dict(best)
    return critic.requires_grad_(False).eval()


def fill(gains: Tensor, observed: Tensor, mean: Tensor) -> Tensor:
    """Put the critic's mean where feedback is missing.

    Args:
        gains: (B, C) float32.
        observed: (B, C) bool.
        mean: (B, C) float32, the critic's; cut to [0, 1], the range of a gain.

    Returns:
        (B, C) float32.

    Source: FlexRec (2603.11901); the cut is ours.

    >>> fill(torch.tensor([1.0, 1.0]), torch.tensor([True, False]), torch.tensor([0.3, -0.2]))
    tensor([1., 0.])
    """
    return torch.where(observed, gains, mean.clamp(0, 1))


@torch.no_grad()
def fill_lists(critic: Critic | None, lists: Lists) -> Lists:
    """What training sees of lists: gains that were observed, and for the rest the critic's mean and variance.

    Without a critic, what is missing counts 0.
    """
    if critic is None:
        return replace(lists, gains=lists.gains * lists.observed)
    mean, variance = critic(lists.batch, lists.candidates)
    return replace(lists, gains=fill(lists.gains, lists.observed, mean), variance=variance)
