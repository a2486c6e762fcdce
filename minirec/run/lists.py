"""The arms that rank closed sets: their sets, critic and start, the supervised control, and the table."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from minirec import rollout
from minirec.data.lists import ListSource
from minirec.data.vectors import item_vectors
from minirec.measure.metrics import paired_bootstrap
from minirec.measure.probe import CANDIDATES, LISTS
from minirec.measure.rankings import METRIC, by_score, list_floors, rank_for_needs, trained_needs
from minirec.measure.report import Row
from minirec.models.critic import Critic, fill_lists, train_critic
from minirec.models.fit import minimise
from minirec.objectives import OBJECTIVES
from minirec.policy import Policy, score
from minirec.records import NEXT, Lists
from minirec.run.folder import Run, kept
from minirec.settings import Config
from minirec.tasks import Rankings, step_rows
from minirec.trie import Trie

WARM = 40  # steps of the list start
CRITIC_STEPS = 300  # of the critic
RATE = 5e-4  # of the list start
VALID = 512  # lists of a line's validation


def next_item_scores(policy: Policy, trie: Trie, lists: Lists) -> Tensor:
    """Log-probability (B, C) of each candidate as the next item, under the trie, without a need (ours)."""
    condition = lists.batch.condition.clone()
    condition[:, 0], condition[:, 1:3] = NEXT, 0
    with torch.no_grad():
        prompt = policy.encode(condition, trie.encode(lists.batch.history))
        codes = trie.encode(lists.candidates)[:, :, None]  # (B, C, 1, L)
        return score(policy, prompt, codes, trie.masks(codes)).sum((2, 3))


def imitate(
    cfg: Config,
    start: Policy,
    trie: Trie,
    source: ListSource,
    scores: Callable[[Lists], Tensor],
    steps: int,
    rate: float = RATE,
) -> Policy:
    """Supervised training on lists: NLL on rankings of the candidates by falling scores (B, C).

    Contexts and needs are drawn as in reinforcement learning. Returns a new policy in evaluation mode.
    """
    policy = copy.deepcopy(start).eval().requires_grad_(True)
    optimiser = torch.optim.Adam(policy.parameters(), rate, betas=(0.9, 0.98))

    def loss(step: int) -> Tensor:
        rows = step_rows(len(source), cfg.contexts, cfg.seed, step)
        lists = source.of_step(rows, torch.arange(len(rows)), cfg.seed, step).to(trie.codes.device)
        codes = trie.encode(by_score(scores(lists), lists.candidates))[:, None]  # (B, 1, C, L)
        allowed = rollout.closed_masks(codes[:, 0], codes, trie.size)
        prompt = policy.encode(lists.batch.condition, trie.encode(lists.batch.history))
        return -score(policy, prompt, codes, allowed).mean()

    minimise(optimiser, loss, steps, "lists", clip=cfg.clip)
    return policy


def warm_start(cfg: Config, supervised: Policy, trie: Trie, source: ListSource, steps: int = WARM) -> Policy:
    """Teach a policy to emit lists, and nothing about gains: the order is its own.

    The supervised policy has never seen list mode or a need. It imitates rankings by its own next-item
    probabilities, whatever the need. All arms start from what comes out. Source: ours.
    """
    frozen = copy.deepcopy(supervised).eval()
    return imitate(cfg, supervised, trie, source, partial(next_item_scores, frozen, trie), steps)


@dataclass(frozen=True)
class ListArms:
    """What the arms that rank closed sets share."""

    run: Run
    sources: dict[str, ListSource]  # by part
    critic: Critic
    start: Policy  # of all arms

    def task(self, cfg: Config) -> Rankings:
        """The task of one arm."""
        probe = self.sources["valid"].first(LISTS, CANDIDATES)
        feedback = partial(fill_lists, self.critic)
        run, train = self.run, self.sources["train"]
        return Rankings(cfg, run.trie, train, feedback, probe=probe, processes=run.processes)

    def validate(self, policy: Policy) -> dict[str, float]:
        """ndcg@5 of the greedy ranking on validation lists, the mean over the trained needs."""
        valid = self.sources["valid"]
        results = rank_for_needs(policy, self.run.trie, valid.first(VALID, valid.candidates.shape[1]))
        means = [values.nanmean().item() for values in trained_needs(results)]
        return {METRIC: sum(means) / len(means)}

    def control(self, arm: Config) -> Policy:
        """List-wise supervised: an arm's steps and rate, on rankings by the gains that training sees."""
        run = replace(self.run, cfg=replace(arm, out=self.run.cfg.out))

        def gains(lists: Lists) -> Tensor:
            return fill_lists(self.critic, lists).gains

        how = (self.sources["train"], gains, arm.rl_steps, arm.rl_rate)
        make = partial(imitate, arm, self.start, run.trie, *how)
        reads = ("seed", "candidates", "contexts", "clip", "feedback", "rl_steps", "rl_rate")
        return kept(run, "supervised_lists.pt", reads, make, copy.deepcopy(self.start))

    def compare(self, trained: dict[str, Policy], arm: Config) -> tuple[list[Row], list[str]]:
        """ndcg@5 on test lists by need, floors first, and lines about them; in the first process."""
        run, cfg, test = self.run, self.run.cfg, self.sources["test"]
        policies = {"list start": self.start, "list-wise supervised": self.control(arm)}
        policies |= {OBJECTIVES[name].title: policy for name, policy in trained.items()}
        if run.processes.rank:
            return [], []
        results = list_floors(self.sources["known"], test, len(run.trie), cfg.seed)
        results |= {name: rank_for_needs(policy, run.trie, test) for name, policy in policies.items()}
        rows = [
            {"method": name} | {need: values[METRIC].nanmean().item() for need, values in by_need.items()}
            for name, by_need in results.items()
        ]
        notes = [
            f"lists: {len(test):,} test sets of {cfg.candidates}; {cfg.feedback:.0%} of the gains are seen "
            "in training, the critic's mean stands for the rest"
        ]
        baseline = OBJECTIVES["list"].title
        for name in trained:
            title = OBJECTIVES[name].title
            if title != baseline and baseline in results:
                one, other = trained_needs(results[title]), trained_needs(results[baseline])  # (needs, S)
                whole = ~(one - other).isnan().any(0)
                by = paired_bootstrap(one[:, whole].mean(0), other[:, whole].mean(0), cfg.seed)
                notes.append(
                    f"{title} minus {baseline}, ndcg@5, mean of the trained needs: "
                    "{:+.4f} (95 % interval {:+.4f} to {:+.4f})".format(*by)
                )
        return rows, notes


def prepare_lists(run: Run, supervised: Policy, sources: dict[str, ListSource]) -> ListArms:
    """Make the critic and the list start from the closed sets of each part."""
    cfg, dataset = run.cfg, run.dataset
    critic = Critic(item_vectors(dataset, cfg.seed), dataset.periods, cfg.seed)
    make = partial(train_critic, critic, sources["train"], cfg.seed, CRITIC_STEPS)
    critic = kept(run, "critic.pt", ("seed", "candidates", "feedback"), make, critic)
    make = partial(warm_start, cfg, supervised, run.trie, sources["train"])
    reads = ("seed", "candidates", "contexts", "clip")
    start = kept(run, "lists.pt", reads, make, copy.deepcopy(supervised))
    return ListArms(run, sources, critic.requires_grad_(False).eval(), start)
