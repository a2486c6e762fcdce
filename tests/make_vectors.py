"""Write tests/vectors/*.json: small cases and minirec's answers, to hold other implementations against.

python -m tests.make_vectors
"""

import json
from pathlib import Path

import torch

from minirec import rewards
from minirec.measure.exact import expected_reward
from minirec.objectives.adagrpo import diagnose, rank
from minirec.objectives.flexrec import credit, list_variance, trust
from minirec.objectives.grpo import advantages
from minirec.objectives.recast import contrast, repair
from minirec.ops import swap_ndcg

FOLDER = Path(__file__).parent / "vectors"

CONVENTIONS = {
    "openonerec": {"ddof": 1, "eps": 1e-6, "std": True, "leave_one_out": False},
    "biased_std": {"ddof": 0, "eps": 1e-6, "std": True, "leave_one_out": False},
    "large_eps": {"ddof": 1, "eps": 1e-4, "std": True, "leave_one_out": False},
    "dr_grpo": {"ddof": 1, "eps": 1e-6, "std": False, "leave_one_out": False},
    "rloo": {"ddof": 1, "eps": 1e-6, "std": False, "leave_one_out": True},
}
REWARDS = {  # exact in float32
    "one_hit": [0, 0, 1, 0, 0, 0, 0, 0],
    "three_values": [1, 0.5, 0, 0],
    "ranks": [0.125, 0.875, 0.5, 0.25, 0.375],
    "silent_0.7": [0.699999988079071] * 8,
    "small_spread": [1, 1.00001001358032226562],
    "far_from_zero": [262144, 262144.125, 262144.25],
    "alone": [0.5],
}
LISTS = {  # gains in the order of the list, and of all candidates
    "descending": [1, 0.75, 0.5, 0.25, 0],
    "ascending": [0, 0.25, 0.5, 0.75, 1],
    "binary": [0, 1, 0, 0, 1, 0],
    "graded": [0.5, 3, 0, 1, 2],
    "negative_counts_0": [1, -2, 0.5],
    "equal": [0.7, 0.7, 0.7],
    "nothing": [0, 0, 0],
    "two": [0, 1],
}
CODES = {
    "no_hit": ([[1, 2, 3], [0, 0, 0], [1, 2, 0], [3, 3, 3], [1, 0, 3]], [[1, 2, 1]]),
    "no_hit_ties": ([[2, 2, 2], [3, 3, 3], [2, 2, 0], [3, 3, 3]], [[1, 2, 1]]),
    "hits_and_misses": ([[1, 2, 1], [1, 2, 0], [0, 1, 1], [1, 2, 1], [1, 2, 3]], [[1, 2, 1]]),
    "hits_only": ([[1, 2, 1], [1, 2, 1]], [[1, 2, 1]]),
    "two_targets": ([[4, 2, 2], [4, 4, 2], [0, 0, 1], [0, 1, 0]], [[0, 0, 0], [4, 4, 4]]),
    "one_level": ([[3], [1], [2]], [[4]]),
    "four_levels": ([[1, 1, 1, 0], [1, 1, 0, 1], [1, 1, 1, 1], [1, 1, 1, 2]], [[1, 1, 1, 1]]),
}
LIKELIHOOD = [-3.0, -2.0, -1.5, -2.0, -1.0]  # the second and the fourth tie


def double(values):
    """A float64 tensor."""
    return torch.tensor(values, dtype=torch.float64)


def make_advantages():
    """Rewards of a group, and its advantages under each convention."""
    answers = {
        name: {group: advantages(double([values]), **kind)[0].tolist() for group, values in REWARDS.items()}
        for name, kind in CONVENTIONS.items()
    }
    return {"conventions": CONVENTIONS, "rewards": REWARDS, "advantages": answers}


def make_swap():
    """Gains of a list, and the rewards of its positions by every form."""
    cases = []
    for name, values in LISTS.items():
        for cut in (None, 2):
            gains = double(values)
            best = rewards.ideal(gains, len(values), cut)
            cases.append(
                {
                    "name": name,
                    "gains": values,
                    "cut": cut,
                    "ideal": best.item(),
                    "ndcg": rewards.ndcg(gains, best, cut).item(),
                    "causal": swap_ndcg(gains.clamp(min=0), best, cutoff=cut).tolist(),
                    "noncausal": swap_ndcg(gains.clamp(min=0), best, cutoff=cut, pool="all").tolist(),
                    "independent": rewards.independent(gains, best, cut).tolist(),
                }
            )
    group = double([[[1, 0, 0.5], [0, 0.5, 1], [0.5, 1, 0], [1, 0.5, 0]]])  # (1, G, K)
    ideal = rewards.ideal(group[:, 0], 3)
    variance = double([[[0.04, 0.25, 0.01], [0.25, 0.01, 0.04], [0.01, 0.04, 0.25], [0.04, 0.01, 0.25]]])
    u = list_variance(variance, ideal)
    positions = {
        "gains": group[0].tolist(),
        "variance": variance[0].tolist(),
        "advantages": {
            form: advantages(credit(group, ideal, form))[0].tolist()
            for form in ("causal", "noncausal", "independent", "list")
        },
        "list_variance": u[0].tolist(),
        "trust": trust(u)[0].tolist(),
    }
    return {"lists": cases, "group": positions}


def make_gate():
    """Scores of a group by policy and ranker, and whether the reward may teach."""
    random = torch.Generator().manual_seed(0)
    cases = []
    for number in range(12):
        group = 8
        items = torch.randint(0, 9, (1, group), generator=random)
        table = -torch.randint(1, 12, (1, 20), generator=random).double() / 4  # log π by item
        worth = torch.randint(0, 9, (1, 20), generator=random).double() / 8  # ranker's score by item
        target = items[:, :1] if number % 4 == 3 else torch.tensor([[9 + number % 3]])
        if number % 2:  # a ranker that knows the target
            worth[0, target[0, 0]] = 1.0
        negatives = torch.tensor([[12, 13, 14]])
        said, reward = table.gather(1, items), worth.gather(1, items)
        own, own_reward = table.gather(1, target) - 1e-6, worth.gather(1, target)
        ranks = (
            rank(said, items, own, target)[:, 0],
            rank(reward, items, own_reward, target)[:, 0],
            rank(reward, items, worth.gather(1, negatives), negatives),
        )
        decisions = []
        for tau, rho in [(0.125, 0.0), (0.125, 0.25), (0.25, 0.25), (0.5, 0.25), (0.5, 0.5)]:
            d, q = (value.item() for value in diagnose(*ranks, group, tau, rho))
            decisions.append({"tau": tau, "rho": rho, "D": d, "Q": q, "alpha": d and q})
        cases.append(
            {
                "items": items[0].tolist(),
                "policy_scores": said[0].tolist(),
                "ranker_scores": reward[0].tolist(),
                "target": target.item(),
                "target_policy_score": own.item(),
                "target_ranker_score": own_reward.item(),
                "negatives": negatives[0].tolist(),
                "negatives_ranker_scores": worth.gather(1, negatives)[0].tolist(),
                "rank_policy": ranks[0].item(),
                "rank_target": ranks[1].item(),
                "rank_negatives": ranks[2][0].tolist(),
                "decisions": decisions,
            }
        )
    return {"cases": cases}


def choices(codes, targets, likelihood):
    """Hits, u, and the pair of contrast, or None."""
    hits = torch.tensor([[float(code in targets) for code in codes]])
    score = rewards.prefix_score(torch.tensor([codes]), torch.tensor([targets]))
    rows, pair = contrast(hits, score, torch.tensor([likelihood]))
    gives_way = repair(hits, score, torch.tensor([likelihood]))[1].tolist()
    return hits[0].int().tolist(), score[0].tolist(), gives_way, pair[0].tolist() if len(rows) else None


def make_recast():
    """Codes of a group and of its targets, and which rollouts repair and contrast choose."""
    cases = []
    for name, (codes, targets) in CODES.items():
        likelihood = LIKELIHOOD[: len(codes)]
        hits, score, gives_way, pair = choices(codes, targets, likelihood)
        mended = [targets[0] if i in gives_way else code for i, code in enumerate(codes)]
        cases.append(
            {
                "name": name,
                "codes": codes,
                "targets": targets,
                "log_likelihood": likelihood,
                "hits": hits,
                "prefix_score": score,
                "repair": gives_way[0] if gives_way else None,
                "contrast_without_repair": pair,
                "contrast": choices(mended, targets, likelihood)[3],
            }
        )
    return {"cases": cases}


def make_gradient():
    """A softmax over six items: its exact policy gradient, and what groups of three give on average."""
    logits, reward = [0.5, -1.0, 0.25, 1.5, 0.0, -0.5], [0, 1, 0.5, 0, 0.5, 0]
    table = double(logits).requires_grad_()
    value = expected_reward(table.log_softmax(0)[None], double([reward])).sum()
    value.backward()
    p, group = table.detach().softmax(0), 3
    drawn = torch.cartesian_prod(*[torch.arange(6)] * group)  # (6^G, G)
    slopes = torch.eye(6, dtype=torch.float64) - p  # row y is ∇ log π(y)
    expected = {}
    for name, kind in CONVENTIONS.items():
        a = advantages(double(reward)[drawn], **kind).double()
        estimate = (a[..., None] * slopes[drawn]).mean(1)  # (6^G, 6)
        expected[name] = (p[drawn].prod(1) @ estimate).tolist()
    return {
        "logits": logits,
        "rewards": reward,
        "probabilities": p.tolist(),
        "expected_reward": value.item(),
        "policy_gradient": table.grad.tolist(),
        "group": group,
        "conventions": CONVENTIONS,
        "expected_group_gradient": expected,
    }


MAKERS = {
    "advantages": make_advantages,
    "swap": make_swap,
    "gate": make_gate,
    "recast": make_recast,
    "gradient": make_gradient,
}


def write(folder):
    """Write every file."""
    for name, maker in MAKERS.items():
        (folder / f"{name}.json").write_text(json.dumps(maker(), indent=1) + "\n")


if __name__ == "__main__":
    write(FOLDER)
