"""FlexRec's critic: the mean and the variance of what an item is worth to a user for a need (2603.11901).

It learns from the part of the feedback that was seen, by the Gaussian NLL ½ log s² + (y − μ)² / (2 s²). Its
mean stands in for what is missing, and its variance says how far a list's reward can be trusted [paper].

Ours: the network. An item is a vector of its own plus a map of the vector that its codes are made from. A
user is the mean item of the history, known or not. The two, their product and the condition go through an MLP
to μ and log s², kept in LOG_VARIANCE: at a gain that can be predicted exactly, the NLL has no lower bound.
"""

import copy
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from minirec.data.lists import ListSource, needs_of_step
from minirec.loop import update
from minirec.noise import stream
from minirec.records import PAD, Batch, Lists

WIDTH, HIDDEN, DROPOUT = 32, 64, 0.2
BATCH, RATE, DECAY = 64, 3e-3, 0.1
KEPT_OUT = 1000  # at most so many sets judge the critic
JUDGED = 25  # steps from one judgement to the next
LOG_VARIANCE = (-8.0, 2.0)  # of gains between 0 and 1


class Critic(nn.Module):
    """μ and s² of gains by history, condition and item [paper]; the network, on vectors (N, F), is ours."""

    def __init__(self, vectors: Tensor, periods: int, seed: int = 0) -> None:
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
        """Predict gains of items (B, C): mean and variance, (B, C); the mean may leave [0, 1]."""
        real = (batch.history != PAD)[..., None]  # (B, H, 1)
        user = (self.item(batch.history) * real).sum(1) / real.sum(1).clamp(min=1)  # (B, d)
        need = sum(table(batch.condition[:, k + 1]) for k, table in enumerate(self.condition))  # (B, d)
        item = self.item(items)  # (B, C, d)
        user, need = user[:, None].expand_as(item), need[:, None].expand_as(item)
        hidden = F.gelu(self.hidden(self.dropout(torch.cat([user, item, user * item, need], -1))))
        mean, log_variance = self.out(hidden).unbind(-1)
        return mean, log_variance.clamp(*LOG_VARIANCE).exp()


def loss(critic: Critic, lists: Lists) -> Tensor:
    """Mean NLL of the gains that were seen, 0 where nothing was; what is missing is never read."""
    mean, variance = critic(lists.batch, lists.candidates)
    nll = F.gaussian_nll_loss(mean, lists.gains, variance, reduction="none")  # without the constant
    return torch.where(lists.observed, nll, 0.0).sum() / lists.observed.sum().clamp(min=1)


def train_critic(critic: Critic, source: ListSource, seed: int, steps: int = 600) -> Critic:
    """Train a new critic on the feedback that was seen, for the needs that are trained, and freeze it.

    Ours: a tenth of the sets, at most KEPT_OUT, is left out, and judges every JUDGED steps and the last. The
    latest weights with the least NLL on it are kept: later ones have too small a variance on what is new.
    """
    random = stream("critic", seed)
    order = torch.randperm(len(source), generator=random)
    kept_out, trained = order.tensor_split([min(len(order) // 10, KEPT_OUT)])
    judge_sets = source.draw(kept_out, needs_of_step(seed, 0, len(kept_out)))
    optimiser = torch.optim.AdamW(critic.parameters(), RATE, weight_decay=DECAY, fused=True)
    best, least = critic.state_dict(), torch.inf
    with torch.random.fork_rng(devices=[]):  # dropout draws from the global generator
        torch.manual_seed(seed)
        for step in tqdm(range(1, steps + 1), "critic", unit=" steps", delay=2, leave=False, disable=None):
            rows = trained[torch.randint(len(trained), (BATCH,), generator=random)]
            lists = source.draw(rows, needs_of_step(seed, step, BATCH))
            update(loss(critic.train(), lists), optimiser, step)
            if step % JUDGED == 0 or step == steps:
                with torch.no_grad():
                    now = loss(critic.eval(), judge_sets).item()
                if now <= least:
                    best, least = copy.deepcopy(critic.state_dict()), now
    critic.load_state_dict(best)
    return critic.requires_grad_(False).eval()


def fill(gains: Tensor, observed: Tensor, mean: Tensor) -> Tensor:
    """Put the critic's mean where feedback is missing, all (B, C) [paper]; the cut to [0, 1] is ours."""
    return torch.where(observed, gains, mean.clamp(0, 1))


@torch.no_grad()
def fill_lists(critic: Critic, lists: Lists) -> Lists:
    """Put the critic's mean where gains were not observed, and add its variance."""
    mean, variance = critic(lists.batch, lists.candidates)
    return replace(lists, gains=fill(lists.gains, lists.observed, mean), variance=variance)
