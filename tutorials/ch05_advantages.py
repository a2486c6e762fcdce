# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 5 · Advantages, and silent groups
#
# **How does a group of rollouts become a gradient, and how wrong is it?**
#
# Chapter 4 asked what a reward wants. Here we ask how a policy finds out. It draws a group of items, sees
# their rewards, and takes a step. The catalogue is small, so the step that it *should* take is known.

# %%
# introduces: minirec.objectives.grpo minirec.objectives.loss minirec.ops
# previews: minirec.ops.reference
import book
import fixed_points
import matplotlib.pyplot as plt
import torch

from minirec import records, rewards, rollout, tasks
from minirec.data.dataset import contexts
from minirec.measure import exact
from minirec.models import ranker
from minirec.objectives import grpo, loss
from minirec.ops import reference

run = book.trained()
trie, dataset, cfg = run.trie, run.dataset, run.cfg
policy = run.policy.requires_grad_(True)
row = (dataset.train.user == book.USER).nonzero()[0]
every = contexts(dataset.train.select(row))
batch = every.batch(torch.tensor([len(every) - 1]), cfg.history)  # the last click
codes, target = trie.encode(batch.history), int(batch.targets[0, 0])
catalogue = torch.arange(len(trie))[None]
REWARDS = {
    "hit": rewards.hit(catalogue, batch.targets),
    "ranker": ranker.designed(dataset.world, "right")(batch, catalogue),
    "prefix score": rewards.prefix_score(trie.codes[None], trie.codes[batch.targets]),
}  # (1, N) each: of every item

# %% tags=["hide"] caption="What groups say. A dot is the estimate of one group; the star is the exact gradient. Across is a length: parts that cancel in the mean do not look so here."
parameters = list(policy.parameters())
logp = exact.item_logprobs(policy, policy.encode(batch.condition, codes), trie)[0]  # (N,)
parts = [
    torch.autograd.grad(logp, parameters, some, retain_graph=True, is_grads_batched=True)
    for some in torch.eye(len(trie)).split(64)
]
arrows = torch.cat([torch.cat([part.flatten(1) for part in some], 1) for some in parts])  # (N, parameters)
p = logp.detach().double().exp()
p = p / p.sum()
products = arrows.double() @ arrows.double().T  # (N, N): all lengths and angles between arrows


def length(weights: torch.Tensor) -> torch.Tensor:
    """Of the weighted sum of arrows, weights (..., N)."""
    return ((weights @ products) * weights).sum(-1).clamp(min=0).sqrt()


def true_weights(reward: torch.Tensor) -> torch.Tensor:
    """Those that make the exact gradient, (N,)."""
    return p * (reward[0].double() - p @ reward[0].double())


def draw(reward: torch.Tensor, group: int, many: int, seed: int, **convention) -> torch.Tensor:
    """Weights (many, N) of the estimates of many groups; without a convention the reward is the weight."""
    said = torch.multinomial(p, many * group, True, generator=book.stream(seed, group)).view(many, group)
    seen = reward[0][said]
    weight = grpo.advantages(seen, **convention) if convention else seen
    return torch.zeros(many, len(p)).double().scatter_add_(1, said, weight.double() / group)


figure, panels = plt.subplots(1, 2, figsize=(7.5, 3.2))
for axes, name in zip(panels, ("hit", "ranker"), strict=True):
    weights = true_weights(REWARDS[name])
    for group, color in ((4, "0.6"), (16, "C1"), (64, "C0")):
        found = draw(REWARDS[name], group, 300, 0, std=False, leave_one_out=True)
        along = found @ products @ weights / length(weights) ** 2
        across = (length(found) ** 2 / length(weights) ** 2 - along**2).clamp(min=0).sqrt()
        axes.scatter(along, across, s=7, color=color, alpha=0.6, lw=0, label=f"groups of {group}")
    axes.plot(1, 0, "k*", ms=9, clip_on=False, zorder=5)
    axes.set(xlabel="part along the exact gradient", title=f"reward: {name}")
silent = {group: float((1 - p[target]) ** group) for group in (4, 16, 64)}
text = "silent groups, at (0, 0):\n" + "\n".join(f"{q:.0%} of the groups of {n}" for n, q in silent.items())
arrow = {"arrowstyle": "->", "color": "0.3"}
panels[0].annotate(text, (0, 0), (0.04, 0.5), textcoords="axes fraction", fontsize=8, arrowprops=arrow)
panels[0].set_ylabel("length of the part across it")
panels[1].legend(fontsize=8, markerscale=2)
plt.show()

# %% tags=["hide"]
book.say(
    "Both axes are in lengths of the exact gradient. With the ranker of chapter 4 as reward, larger groups lie "
    f"nearer. With hit, {silent[16]:.0%} of the groups of 16 lie on top of each other at zero: nobody hit. "
    f"Those with a hit go {1 / (1 - silent[16]):.0f} times too far, in the mean. Yet on average both clouds are "
    "right. This chapter says why, and what the usual conventions do to the average."
)

# %% [markdown]
# ## The gradient is a covariance
#
# The expected reward is $J = \sum_y \pi(y) r(y)$. Its gradient is a weighted sum of arrows, one per item
# [definition]:
#
# $$\nabla J = \sum_y \pi(y) r(y) \nabla \log \pi(y) = \mathbb{E}[r s], \qquad s(y) = \nabla \log \pi(y)$$
#
# `arrows` holds them all, made by one backward pass per item. Whatever a group says is a weighted sum of
# them.

# %%
logp = exact.item_logprobs(policy, policy.encode(batch.condition, codes), trie)  # (1, N)
true = exact.policy_gradient(policy, logp, REWARDS["ranker"])
true = torch.cat([part.flatten() for part in true.values()])
summed = (p * REWARDS["ranker"][0]).float() @ arrows
print("arrows                    ", tuple(arrows.shape))
print(f"length of the gradient     {true.norm():.3f}")
print(f"the weighted sum is off by {(summed - true).norm() / true.norm():.0e} of it")
print(f"length of the mean arrow   {(p.float() @ arrows).norm():.0e}")

# %% [markdown]
# The last line is what this chapter lives on: probabilities sum to 1, so
# $\mathbb{E}[s] = \nabla \sum_y \pi(y) = 0$. A constant added to all rewards changes nothing, and
#
# $$\nabla J = \mathbb{E}[r s] - \mathbb{E}[r] \mathbb{E}[s] = \mathrm{Cov}(r, s)$$
#
# The policy gradient is the covariance of reward and arrow [an old identity]. A group of rollouts is a
# sample, and the question is how to estimate a covariance from a sample.
#
# | weight of rollout $i$ | estimates | known as |
# |---|---|---|
# | $r_i$ | $\mathbb{E}[r s]$, no mean taken off | REINFORCE |
# | $r_i - \mathrm{mean}(r)$ | the covariance, divisor $G$ | Dr. GRPO [paper: 2503.20783] |
# | $r_i - \mathrm{mean}(r_{j \neq i})$ | the covariance, divisor $G - 1$ | RLOO [paper: 2402.14740] |
# | $(r_i - \mathrm{mean}(r)) / \mathrm{std}(r)$ | the covariance over the std of $r$ | GRPO [paper: 2402.03300] |
#
# The second is too short by the factor $(G-1)/G$: a rollout is compared with a mean that it is part of.
# The third repairs that, as Bessel's correction does for a variance. For $G = 2$ we can draw every group that
# there is, $N^2$ of them, and let the library answer each.

# %%
pairs = torch.cartesian_prod(catalogue[0], catalogue[0])  # (N², 2) every group of two
chance = p[pairs].prod(1)


def mean_estimate(reward: torch.Tensor, **convention) -> torch.Tensor:
    """The mean over all groups of two of 1/G Σ A_i s(y_i)."""
    weight = chance[:, None] * grpo.advantages(reward[0][pairs], **convention) / 2
    return torch.zeros_like(p).index_add_(0, pairs.flatten(), weight.flatten()).float() @ arrows


# %% tags=["exact"]
lines = []
for name, reward in REWARDS.items():
    true = (p * reward[0]).float() @ arrows
    for leave_one_out in (False, True):
        mean = mean_estimate(reward, std=False, leave_one_out=leave_one_out)
        factor, cosine = mean @ true / (true @ true), torch.cosine_similarity(mean, true, dim=0)
        who = "leave one out" if leave_one_out else "mean of the group"
        lines.append(f"{name:12}  {who:17}  length {factor:.4f}, cosine {cosine:.4f}")
print("\n".join(lines))

# %% [markdown]
# $(2-1)/2$ and 1, for every reward, and no error of direction. What of the last row of the table?
#
# ## What the standard deviation does
#
# The last three rows, in plain torch: the library's reference. `mask` and `offsets` serve groups of unequal size;
# the equations are in the last six lines.

# %% tags=["hide"]
book.show(reference.group_normalize)

# %% [markdown]
# Leave-one-out multiplies by $G/(G-1)$, and ddof 1 in place of 0 by $\sqrt{(G-1)/G}$ up to $\varepsilon$: the same
# for every group of one size, so a matter of the learning rate. `spread` is drawn with the group. A quotient of two random numbers does not have the
# quotient of their means for its mean.
#
# If the reward has two values, the arrow of the hits minus the arrow of the misses is all that a context can
# say, louder or softer. Only the length changes. With three values or more the mean may turn. How far, can be
# enumerated: $G$ rollouts can be shared out among the values in so many ways, and the library answers each.


# %%
def mean_advantages(values: torch.Tensor, q: torch.Tensor, group: int) -> torch.Tensor:
    """1/G Σ A_i over the rollouts of each value (probability q), in the mean over all groups."""
    grid = torch.meshgrid(*[torch.arange(group + 1)] * (len(values) - 1), indexing="ij")
    ways = torch.stack([count.flatten() for count in grid], 1)  # of all values but the last
    ways = torch.cat([ways, group - ways.sum(1, keepdim=True)], 1)
    ways = ways[ways[:, -1] >= 0]  # (ways, values): how many rollouts have which value
    seen = values.repeat(len(ways)).repeat_interleave(ways.flatten()).view(len(ways), group)
    weight = grpo.advantages(seen).double() / group
    chance = torch.distributions.Multinomial(group, q).log_prob(ways.double()).exp()
    return torch.stack([chance @ (weight * (seen == value)).sum(1) for value in values])


# %% tags=["hide"]
def turn(mean: torch.Tensor, reward: torch.Tensor) -> float:
    """Degrees between a weighted sum of arrows, weights (N,), and the exact gradient."""
    weights = true_weights(reward)
    cosine = mean @ products @ weights / (length(mean) * length(weights))
    return cosine.clamp(-1, 1).acos().rad2deg().item()


def enumerated(reward: torch.Tensor, group: int) -> torch.Tensor:
    """Weights (N,) of the mean estimate over all groups, with the std; for rewards of few values."""
    values, which = reward[0].unique(return_inverse=True)
    q = torch.zeros(len(values)).double().index_add_(0, which, p)
    return (p / q[which]) * mean_advantages(values, q, group)[which]


FEW = (2, 4, 8, 16, 32)
turns = {
    name: [turn(enumerated(REWARDS[name], n), REWARDS[name]) for n in FEW] for name in ("hit", "prefix score")
}
true = true_weights(REWARDS["ranker"]).float() @ arrows
turns["ranker"] = [
    torch.cosine_similarity(mean_estimate(REWARDS["ranker"]), true, dim=0).acos().rad2deg().item()
]
print("G             " + "".join(f"{n:7}" for n in FEW))
for name, degrees in turns.items():
    print(f"{name:14}" + "".join(f"{d:6.1f}°" for d in degrees))

# %% [markdown]
# So far is the mean estimate turned away from the exact gradient. (The ranker has a value per item; only its
# groups of two can be enumerated.) The prefix score has the values 0, 0.01, 0.1 and 1. Most groups that see a
# difference at all see 0 against 0.01, and over its std such a group speaks as loudly as one with a hit.
# Chapter 4 said so in words; here it is in degrees.
#
# Now the whole error of one group, turn and noise together. Without a std it can be summed up: the sample
# covariance is a mean over pairs of rollouts, and the variance of such a mean (a U-statistic) follows from one
# rollout and from two [definition].

# %%
squared = products.diagonal()  # |s|² of every item
apart = squared[:, None] + squared - 2 * products  # |s - s'|² of every pair


def error(reward: torch.Tensor, group: int, baseline: bool) -> float:
    """Root mean square error of a group's gradient, in lengths of the exact one."""
    r, true = reward[0].double(), length(true_weights(reward)) ** 2
    if not baseline:
        return (((p * r**2 * squared).sum() / true - 1) / group).sqrt().item()
    one = ((p * (r - p @ r) ** 2 * squared).sum() / true - 1) / 4
    two = (p[:, None] * p * (r[:, None] - r) ** 2 * apart).sum() / true / 4 - 1
    return (2 / (group * (group - 1)) * (2 * (group - 2) * one + two)).sqrt().item()


# %% tags=["hide"] caption="Error of one group's gradient, in lengths of the exact one. Grey and blue: exact. Orange: from 16,000 groups."
SIZES = (2, 4, 8, 16, 32, 64, 128)
figure, panels = plt.subplots(1, 3, figsize=(7.5, 3.1), sharey=True)
errors = {}
for axes, (name, reward) in zip(panels, REWARDS.items(), strict=True):
    weights, over_std = true_weights(reward), []
    for group in SIZES:
        found = draw(reward, group, 16_000, 1, std=True)
        seen = found @ products
        reach = (seen @ weights).mean() / length(weights)
        over_std.append(((seen * found).sum(1).mean() / reach**2 - 1).sqrt().item())
    for label, lines, style in (
        ("no baseline", [error(reward, group, False) for group in SIZES], {"color": "0.6"}),
        ("mean, or leave one out", [error(reward, group, True) for group in SIZES], {"color": "C0"}),
        ("over the std, ddof 0 or 1", over_std, {"color": "C1", "ls": "--"}),
    ):
        errors[name, label] = dict(zip(SIZES, lines, strict=True))
        axes.loglog(SIZES, lines, marker="o", ms=3, label=label, **style)
    axes.axhline(1, color="0.85", lw=0.8, zorder=0)
    axes.set(title=f"reward: {name}", xlabel="rollouts in the group, G")
panels[2].loglog(FEW, torch.tensor(turns["prefix score"]).deg2rad().tan(), "C1:", label="turn alone, exact")
for axes in panels:
    axes.set_xticks(SIZES, SIZES)
    axes.minorticks_off()
panels[0].set(ylabel="error of one group", yticks=[0.3, 1, 3, 10], yticklabels=["0.3", "1", "3", "10"])
handles = panels[2].get_legend_handles_labels()
figure.legend(*handles, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
plt.show()

# %% tags=["hide"]
mean, none, over = "mean, or leave one out", "no baseline", "over the std, ddof 0 or 1"
graded = "prefix score"
book.say(
    "A learning rate can multiply any estimate by a factor. So each convention stands here with the factor at "
    "which its mean reaches exactly as far along the exact gradient as it should."
)
book.say(
    f"- A group is mostly noise. At $G = {cfg.group}$ the error is {errors['hit', mean][16]:.1f} times the "
    f"gradient with hit and {errors['ranker', mean][16]:.1f} times with the ranker. It falls as "
    f"$1/\\sqrt{{G}}$; {cfg.contexts} contexts in a batch, and many small steps, do the rest.\n"
    "- A baseline helps where rewards have a level. Under the policy the ranker's mean is "
    f"{float(p @ REWARDS['ranker'][0].double()):.2f}, and without a baseline every item drawn is pushed up. "
    f"The mean of hit is {float(p[target]):.3f}. There is nothing to take off, and in a small group the "
    f"baseline is one more noise: {errors['hit', mean][2]:.1f} against {errors['hit', none][2]:.1f} at $G = 2$.\n"
    "- Mean and leave-one-out are one curve, and so are both ddof.\n"
    "- Noise is averaged away, a turn is not. For the prefix score the std helps small groups, where it tames "
    f"rare large rewards ({errors[graded, over][8]:.1f} against {errors[graded, mean][8]:.1f} at $G = 8$). But no "
    "number of groups can go below the dotted line."
)

# %% [markdown]
# ## What the standard deviation does to a batch
#
# Within a context a hit's gradient keeps its direction. Between contexts the std has another effect. The mean
# estimate is the exact gradient times a factor; the factor depends on the probability $p$ that the policy
# hits, and so does the chance of a silent group, in which all rewards are equal.

# %% tags=["hide"]
COUNT, HIT = 128, torch.tensor([0.0, 1.0])
fresh = contexts(dataset.fresh)  # users that the policy has not seen
many = fresh.batch(tasks.step_rows(len(fresh), COUNT, seed=0, step=0), cfg.history)
hits, histories = rewards.hit(catalogue.expand(COUNT, -1), many.targets), trie.encode(many.history)
with torch.no_grad():
    chances = exact.item_logprobs(policy, policy.encode(many.condition, histories), trie)
chances = exact.expected_reward(chances, hits)  # (B,) probability of a hit


def factors(hit: torch.Tensor, group: int) -> torch.Tensor:
    """Mean estimate over exact gradient, for contexts with hit probabilities (B,)."""
    both = torch.stack([1 - hit, hit], 1)
    return torch.stack([mean_advantages(HIT, q, group)[1] for q in both]) / both.prod(1)


# %% tags=["hide"] caption="By the probability of a hit: how loudly a context speaks, and how often it is silent. Exact."
figure, (left, middle) = plt.subplots(1, 2, figsize=(7.5, 3))
x = torch.logspace(-4, -0.02, 120).double()
for group, color in ((4, "0.6"), (16, "C1"), (64, "C0")):
    left.loglog(x, factors(x, group), color=color, label=f"G = {group}")
    left.axhline((group - 1) / group, color=color, ls=":")
    middle.semilogx(x, (1 - x) ** group + x**group, color=color, label=f"G = {group}")
left.loglog(x, (x * (1 - x)) ** -0.5, color="k", lw=0.8, label="$G = \\infty$")
left.set(ylim=(0.5, 30), ylabel="mean estimate / exact gradient", title="dotted: without the std")
left.set_yticks([1, 3, 10, 30], [1, 3, 10, 30])
middle.set(ylabel="probability of a silent group", title="silent groups")
for axes in (left, middle):
    axes.plot(chances, torch.zeros(COUNT), "|", color="0.3", transform=axes.get_xaxis_transform(), ms=8)
    axes.set(xlabel="probability of a hit under the policy", xlim=(1e-4, 1))
    axes.legend(fontsize=8)
plt.show()

# %% tags=["hide"]
slopes = []
for one in range(COUNT):
    here = slice(one, one + 1)
    logp = exact.item_logprobs(policy, policy.encode(many.condition[here], histories[here]), trie)
    slope = exact.policy_gradient(policy, logp, hits[here])
    slopes.append(torch.cat([part.flatten() for part in slope.values()]))
slopes = torch.stack(slopes).double()  # (B, parameters), exact
bent = {n: (factors(chances, n)[:, None] * slopes).mean(0) for n in (4, 16, 256)}
bent = {n: torch.cosine_similarity(m, slopes.mean(0), dim=0).acos().rad2deg() for n, m in bent.items()}
book.say(
    f"The ticks are {COUNT} contexts of users that the policy has not seen. For large groups the factor is "
    "$1/\\sqrt{p(1-p)}$: over the std, a context speaks the louder the surer its outcome, and mostly that is "
    "a miss. In place of $p$ "
    "the policy climbs $2\\arcsin\\sqrt{p}$, whose slope that is [a consequence; not in the paper]. Over these "
    "contexts together, the mean estimate is turned by "
    + ", ".join(f"{d:.0f}° at $G = {n}$" for n, d in bent.items())
    + ". Here larger groups do not help: it is no error of a sample, but another objective. Whether rare hits "
    "should count for more is a matter of taste. That they do should be known."
)

# %% [markdown]
# ## Which std, which ε
#
# | | ddof | ε | std |
# |---|---|---|---|
# | GRPO [paper: 2402.03300] | not said | not said | yes |
# | OpenOneRec-RL [its code: 2512.24762], and our default | 1 | 1e-6 | yes |
# | Dr. GRPO [paper: 2503.20783] | | | no |
# | RLOO [paper: 2402.14740] | | | no, leave one out |
#
# Whether ddof is 0 or 1 is a factor, and Adam hardly notices factors. The ε says which differences count as
# none. With it, the scale of the rewards matters after all:

# %% tags=["exact"]
one_hit = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
for scale in (1.0, 1e-3, 1e-6):
    fine, coarse = (grpo.advantages(scale * one_hit, eps=eps)[0, 0] for eps in (1e-6, 1e-4))
    print(f"reward {scale:5.0e}:  advantage {fine:.4f} with ε = 1e-6, {coarse:.4f} with ε = 1e-4")

# %% [markdown]
# ## Silent groups
#
# A group in which all rewards are equal is **silent**: its advantages are 0. It was drawn, scored and paid
# for, and moves nothing but the KL.

# %% tags=["hide"]
quiet = ((1 - chances) ** cfg.group + chances**cfg.group).mean()
book.say(
    f"With hit, {quiet:.0%} of the groups of {cfg.group} of these contexts are silent, and {silent[16]:.0%} of "
    f"those of user {book.USER}. That is no error: the zeros balance the groups that go too far, as in the first "
    "figure. To divide by the groups that speak would multiply the gradient by a number that changes from "
    "batch to batch, so the loss is divided by all of them [ours]. Chapter 7 is about making silent groups "
    "speak."
)

# %% [markdown]
# Silence must be exact. Eight times the reward 0.7, by the library and by the formula as one would type it:

# %%
same = torch.full((1, 8), 0.7)
typed = same - same.sum(1, keepdim=True) / 8
typed = typed / (same.std(1, keepdim=True) + 1e-6)
print("library", grpo.advantages(same)[0, :2].tolist())
print("typed  ", typed[0, :2].tolist())

# %% [markdown]
# A rounding error, divided by a small ε, has become an advantage. `group_normalize` takes off the first reward
# before anything is summed, so equal rewards are zeros, bit by bit.
#
# ## Why the loss is 0 while it trains
#
# One group of our user, with the ranker's rewards, goes through the library's loss. From the arrows we can
# predict its gradient [ours; the KL's is 0 as long as the policy is the reference]:
#
# $$\nabla \mathrm{loss} = -\frac{1}{G L} \sum_i A_i \nabla \log \pi(y_i)$$

# %%
random = book.stream(book.USER, 0)
noise = torch.rand(1, cfg.group, trie.levels, generator=random, dtype=torch.float64)
with torch.no_grad():
    group = rollout.sample(policy, policy.encode(batch.condition, codes), trie, noise)
said = group.items[0, :, 0]
advantage = grpo.advantages(REWARDS["ranker"][:, said])
signal = records.Signal(torch.arange(1), group.codes, advantage[..., None], width=cfg.group)
loss_of = loss.Loss(policy, trie, cfg)
value, _ = loss_of(batch, signal, trie.masks(group.codes), None, group.logp, 1)
gradient = torch.cat([part.flatten() for part in torch.autograd.grad(value, parameters)])
predicted = -(advantage[0] @ arrows[said]) / (cfg.group * trie.levels)
print(f"sum of the advantages  {advantage.sum():+.0e}")
print(f"loss                   {value:+.0e}")
print(f"length of its gradient {gradient.norm():.3f}")
print(f"the prediction is off by {(gradient - predicted).norm() / gradient.norm():.0e} of it")

# %% [markdown]
# Every ratio $\rho = \pi / \pi_{old}$ is 1, so the value is $-\frac{1}{G} \sum_i A_i = 0$, whatever the
# rewards were. The gradient of a ratio at 1 is $\nabla \log \pi$, so the gradient is minus the
# estimate from above, over the std and over $L$. The loss is built to have the right slope; its height means
# nothing. Later on, all that a log shows is the small KL. The ratio and its clipped twin are the first two lines:

# %% tags=["hide"]
book.show(loss.token_loss)

# %% [markdown]
# ## Why the length debate vanishes
#
# The gradient above is divided by $L$. Where answers differ in length, how to divide is disputed: per
# sequence [paper: GRPO, 2402.03300], by all tokens together [paper: DAPO, 2503.14476], or by a constant
# [paper: Dr. GRPO, 2503.20783]. What a token weighs under each, in percent:


# %% tags=["exact"]
def token_weights(lengths: list[int]) -> None:
    """Print what a token of each sequence weighs under three divisors."""
    size = torch.tensor(lengths).double()
    for name, weight in (
        ("per sequence", 1 / (len(size) * size)),
        ("all tokens", torch.ones_like(size) / size.sum()),
        ("a constant", torch.ones_like(size) / (len(size) * size.max())),
    ):
        print(f"{name:13}", "  ".join(f"{100 * w:6.4f}" for w in weight.tolist()))


print("sentences of 3, 6, 12 and 24 tokens")
token_weights([3, 6, 12, 24])
print("items of 3 codes")
token_weights([3, 3, 3, 3])

# %% [markdown]
# Every item has $L$ codes, so the three are one number. What is left is a factor $1/L$, the same for the KL
# beside it and for the NLL that joins in chapter 6.
#
# ## The clipped ratio
#
# One may update more than once on the same rollouts. From the second update on, the policy that learns is not
# the one that drew them, and $\rho$ is not 1. The minimum in `token_loss` takes the slope away where a token
# has gone far enough *in the direction that its advantage asks for*:
#
# $$-\min(\rho A, \mathrm{clip}(\rho, 1 - \varepsilon_{lo}, 1 + \varepsilon_{hi}) A)$$
#
# [PPO's, 1707.06347, as in GRPO; unequal bounds are DAPO's, 2503.14476, and the values OpenOneRec-RL's,
# 2512.24762].

# %% tags=["hide"] caption="Left: the loss of a token by its ratio. Right: share of clipped tokens, updates on one batch."
figure, (left, right_axes) = plt.subplots(1, 2, figsize=(7.5, 3))
ratio = torch.linspace(0.4, 1.8, 281)
for a, color in ((1.0, "C0"), (-1.0, "C1")):
    shape = ratio.log()[:, None, None, None]  # (R, 1, 1, 1)
    drawn = torch.zeros_like(shape)
    height, clipped = loss.token_loss(
        shape, drawn, shape, torch.full((281, 1, 1), a), cfg.clip_low, cfg.clip_high, 0.0
    )
    height, clipped = height.flatten(), clipped.flatten()
    left.plot(ratio, height, color=color, lw=1)
    left.plot(ratio[~clipped], height[~clipped], color=color, lw=3, label=f"A = {a:+.0f}")
left.axvline(1, color="0.85", lw=0.8, zorder=0)
left.set(xlabel="ratio π / π_old", ylabel="loss of the token", title="thick: it has a slope")
left.legend(fontsize=8)
noise = torch.rand(COUNT, cfg.group, trie.levels, generator=book.stream(0, 1), dtype=torch.float64)
with torch.no_grad():
    group = rollout.sample(policy, policy.encode(many.condition, histories), trie, noise)
advantage = grpo.advantages(rewards.hit(group.items[..., 0], many.targets))
signal = records.Signal(torch.arange(COUNT), group.codes, advantage[..., None], width=cfg.group)
masks = trie.masks(group.codes)
shares = {}
for rate, color in ((1e-4, "C0"), (1e-3, "C1")):
    loss_of = loss.Loss(book.trained().policy.requires_grad_(True), trie, cfg)
    adam = torch.optim.Adam(loss_of.policy.parameters(), rate, betas=(0.9, 0.98))
    shares[rate] = []
    for _ in range(10):
        value, facts = loss_of(many, signal, masks, group.logp, group.logp, COUNT)
        value.backward()
        adam.step()
        adam.zero_grad()
        shares[rate].append(100 * facts["clipped"][0] / facts["clipped"][1])
    right_axes.plot(range(1, 11), shares[rate], marker="o", ms=3, color=color, label=f"rate {rate:g}")
right_axes.set(xlabel="update on the same batch", ylabel="clipped tokens (%)", xticks=range(1, 11))
right_axes.legend(fontsize=8)
plt.show()

# %% [markdown]
# At the first update the ratio is exactly 1 and nothing is clipped. With one update per batch, the default
# here, the clip never acts.
#
# ## What k3 in the loss really optimises
#
# The last term of the loss is the distance to the policy of the start, estimated from the tokens drawn
# [paper: GRPO, 2402.03300]:
#
# $$k_3 = e^d - d - 1, \qquad d = \log \pi_{ref} - \log \pi$$

# %% tags=["hide"]
book.show(loss.k3)

# %% [markdown]
# (Beyond a difference of `LARGEST` the code goes on as a straight line, before exp overflows [ours].)
#
# Its mean over rollouts is $\mathrm{KL}(\pi \Vert \pi_{ref})$: right as a number to log. In a loss only the
# slope counts, and nothing differentiates the draw [ours, checked by enumeration]:
#
# $$
# \mathbb{E}_\pi[\nabla k_3] = \mathbb{E}_\pi[(1 - \tfrac{\pi_{ref}}{\pi}) s]
# = -\sum_y \pi_{ref}(y) \nabla \log \pi(y) = \nabla \mathrm{KL}(\pi_{ref} \Vert \pi)
# $$
#
# That is the divergence the other way round. With it, the policy settles elsewhere:
#
# $$
# \pi \propto \pi_{ref} e^{r / \beta} \text{ (KL in the reward)}, \qquad
# \pi = \frac{\beta \pi_{ref}}{\lambda - r} \text{ (k3 in the loss)}
# $$
#
# The first is the Gibbs form [definition], the second follows from the gradient above [ours], with the
# $\lambda$ at which it sums to 1. They are `kl_optimum` and `k3_fixed_point` of `tutorials/fixed_points.py`. To see which one the
# library's own loss obeys, we let it settle: a policy with one free number per item, updated with the mean
# over everything that it could draw.

# %%
start = p.log()[None].float()  # the policy, as it stands, is the reference
reward = REWARDS["ranker"]
beta = 0.1
free = start[0].clone().requires_grad_(True)
adam = torch.optim.Adam([free], lr=0.1)
fall = torch.optim.lr_scheduler.CosineAnnealingLR(adam, 1500)
for _ in range(1500):
    now = free.log_softmax(0)
    drawn = now.detach()
    advantage = reward[0] - drawn.exp() @ reward[0]
    now, drawn, ref = (x.view(-1, 1, 1, 1) for x in (now, drawn, start))  # (R, S, P, L)
    tokens, _ = loss.token_loss(now, drawn, ref, advantage[:, None, None], 0.2, 0.28, beta)
    (drawn.exp() * tokens).sum().backward()  # every item, as often as it would be drawn
    adam.step()
    adam.zero_grad()
    fall.step()
settled = free.detach().log_softmax(0)

# %% tags=["hide"] caption="Where a policy settles, item by item: lines and dots by enumeration, crosses by the loss."
figure, axes = plt.subplots(figsize=(7.5, 3.2))
whole = fixed_points.k3_fixed_point(start, reward, beta)
by_code = fixed_points.k3_fixed_point_by_code(start, reward, beta, trie)
gibbs = fixed_points.kl_optimum(start, reward, beta)
order = reward[0].argsort()
often = order[p[order] > 1e-4]
axes.plot(reward[0], (by_code - start)[0], ".", color="0.7", ms=3, label="k3 in the loss, an item is 3 codes")
axes.plot(reward[0][order], (gibbs - start)[0, order], color="C0", label="KL in the reward")
axes.plot(
    reward[0][order], (whole - start)[0, order], color="C1", label="k3 in the loss, an item is one token"
)
axes.plot(reward[0][often[::8]], (settled - start[0])[often[::8]], "kx", ms=4, label="the loss, settled")
axes.set(xlabel="reward of the item", ylabel="change of log-probability (nats)", title=f"β = {beta}")
axes.legend(fontsize=8)
plt.show()

# %% tags=["hide"]
off, far = ((settled - other[0])[often].abs().max() for other in (whole, gibbs))
book.say(
    f"The loss settles on the curve of k3, to {off:.0e} nats; from the line of Gibbs it is up to {far:.1f} nats "
    "away. Gibbs gives $1/\\beta$ nats for each unit of reward. k3 tells bad items from worse ones hardly at all, "
    "and the very best from the good ones sharply. Where an item is several codes each code has a k3 of its own "
    "and every node of the trie settles on a curve of its own, with the mean reward below each branch for $r$: "
    "the grey cloud."
)

# %% [markdown]
# All this is for advantages that are $r$ minus a baseline. A std divides the reward and not $\beta$: a context
# whose rewards hardly differ has them blown up, and its KL stays as it was. A $\beta$ from one convention means
# nothing in another.
#
# ## Exercises
#
# - Build: [`exercises/ch05_build.py`](exercises/ch05_build.py). Advantages with one scale for the whole batch, so that no context is
#   louder than another.
# - Find the bug: [`exercises/ch05_bug.py`](exercises/ch05_bug.py). A policy that learns; it could learn more, and its loss is 0.
#
# `pytest tutorials/exercises -k ch05` says when you are done; ours are in `solutions/`.
#
# ## What you can do now
#
# Say of any "GRPO" what it estimates: which baseline, which divisor, which KL. Hold your own estimate against
# `exact.policy_gradient`. Expect a loss of 0, and look at the rewards instead.
#
# ## What we left out
#
# - Beams as a group are no sample (chapter 3): none of the averages above holds for them.
# - Positions of a list get advantages of their own: chapter 8.
# - What Adam and the clipping of the gradient's norm make of noise: both bound the step of a group that goes
#   too far.
#
# ## Next
#
# [6 · AdaGRPO: whom to trust](ch06_adagrpo.md): when may a reward teach?
