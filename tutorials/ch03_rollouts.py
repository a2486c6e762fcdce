# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 3 · Rollouts: score what you sample
#
# **What is a sample worth if it is scored under another distribution?**
#
# To learn from its own items, a policy first has to say some. Chapter 2 gave it a probability for each code.
# Here it draws, code by code, and we watch where the probability goes.

# %%
# introduces: minirec.rollout minirec.noise minirec.measure.exact
# previews: minirec.data.dataset
import copy

import book
import matplotlib.pyplot as plt
import torch

from minirec import rollout
from minirec.data.dataset import contexts
from minirec.measure import exact
from minirec.noise import draw
from minirec.policy import Policy, score, token_logprobs

run = book.trained()
trie, dataset, cfg, policy = run.trie, run.dataset, run.cfg, run.policy
row = (dataset.train.user == book.USER).nonzero()[0]
every = contexts(dataset.train.select(row))
batch = every.batch(torch.tensor([len(every) - 1]), cfg.history)  # the user's last click is the target
history, target = trie.encode(batch.history), int(batch.targets[0, 0])
torch.manual_seed(0)
untrained = Policy(cfg, trie.levels, trie.size, dataset.periods).eval()

# %%
everything = exact.every_tuple(trie.levels, trie.size)  # the catalogue in which no tuple is a hole


@torch.no_grad()
def flow(policy: Policy, constrained: bool) -> torch.Tensor:
    """Probability of every code tuple, (V, V, V)."""
    prompt = policy.encode(batch.condition, history)
    if not constrained:
        return exact.item_logprobs(policy, prompt, everything)[0].exp().view(3 * [trie.size])
    flow = torch.zeros(3 * [trie.size])
    flow[tuple(trie.codes.T)] = exact.item_logprobs(policy, prompt, trie)[0].exp()
    return flow


FLOWS = {
    "before training, no mask": flow(untrained, constrained=False),
    "trained, no mask": flow(policy, constrained=False),
    "trained, mask": flow(policy, constrained=True),
}

# %% tags=["hide"] caption="Probability flows down the trie, from top to bottom. A width is a probability; orange leaves the tree. Exact."
is_item = torch.zeros(3 * [trie.size], dtype=torch.bool)
is_item[tuple(trie.codes.T)] = True
COLOURS = ("#1f77b4", "#8fbbd9", "#4f93c7", "#b5d1e5", "C1")  # four shades for neighbours; off the tree


def draw_level(axes, depth: int, flow: torch.Tensor) -> None:
    """The prefixes of one depth side by side, each below its parent."""
    shape = trie.size**depth
    lives, width = is_item.view(shape, -1).any(1), flow.view(shape, -1).double().sum(1)
    left, shade = width.cumsum(0) - width, torch.where(lives, lives.cumsum(0) % 4, 4)
    for number, colour in enumerate(COLOURS):
        spans = torch.stack([left, width], 1)[shade == number].tolist()
        axes.broken_barh(spans, (-depth - 0.46, 0.92), color=colour, lw=0)


figure, panels = plt.subplots(1, 3, figsize=(7.5, 2.6), sharey=True)
for axes, (name, chances) in zip(panels, FLOWS.items(), strict=True):
    axes.barh(0, 1, height=0.92, color="0.8")
    for depth in (1, 2, 3):
        draw_level(axes, depth, chances)
    axes.set(title=name, xlim=(0, 1), xlabel="probability", xticks=(0, 0.5, 1))
    axes.set_yticks((0, -1, -2, -3), ("prompt", "code 1", "code 2", "code 3"))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
plt.show()

# %% tags=["hide"]
lost = {name: 1 - chances[is_item].sum().item() for name, chances in FLOWS.items()}
book.say(
    f"These are all {is_item.numel():,} tuples that the policy could say to user {book.USER}, in the order of their "
    f"codes. Only {len(trie)} of them are items. A policy that has learned nothing leaves the tree with probability"
    f" {lost['before training, no mask']:.2f}. A trained one knows the tree nearly by heart: it says a hole with"
    f" probability {lost['trained, no mask']:.3f}. Under the mask of chapter 1 that is exactly 0, and what"
    " would have been lost goes to the siblings."
)

# %% [markdown]
# ## One number per code
#
# To draw from $V$ probabilities takes one uniform number: lay the probabilities side by side on the line from 0
# to 1, as in the picture, and see where the number falls [definition]. The same number and the same
# probabilities give the same code. Objectives that are compared get the same numbers (chapter 9).

# %% tags=["hide"]
book.show(draw)

# %% tags=["exact"]
line = torch.tensor([0.0, 0.2, 0.5, 0.3]).double()  # 0 to 0.2 is code 1, 0.2 to 0.7 is code 2
print(draw(line, torch.tensor([0.0, 0.3, 0.9]).double()).tolist())

# %% [markdown]
# `total` holds the right ends of the pieces. Code 0 has probability 0 and is never drawn, not even by the number
# 0: with `right=True`, a number that lies exactly on an end belongs to the piece behind it. A sampler in which a
# masked code comes out once in a million draws is wrong once in a million draws. The weights need not sum to 1,
# as the number is multiplied by their sum.
#
# A rollout is $L$ such draws, each given the codes before. A **group** is $G$ rollouts for one context:

# %% tags=["hide"]
book.show(rollout.sample)

# %%
G = cfg.group
noise = torch.rand(1, G, trie.levels, generator=book.stream(book.USER, 3), dtype=torch.float64)
with torch.no_grad():
    prompt = policy.encode(batch.condition, history)  # T tokens, once
group = rollout.sample(policy, prompt, trie, noise)
print("items", group.items[0, :, 0].tolist())
print("codes", tuple(group.codes.shape), " log-probabilities", tuple(group.logp.shape))

# %% tags=["hide"]
T = 1 + int((batch.history >= 0).sum()) * trie.levels
apart, together = G * (T + trie.levels - 1), T + G * (trie.levels - 1)
book.say(
    f"The prompt is the same for all {G}, so it is encoded once, and the group are branches on it. For user "
    f"{book.USER} that is {together} tokens through the transformer in place of {apart}; with a longer history the "
    f"ratio comes nearer to $G$. The first softmax is shared too: `hidden` has one row until the first code is drawn."
)

# %% [markdown]
# ## What a mask does to probabilities
#
# `sample` masks *before* the softmax. At each node the codes that lead nowhere get nothing, and the others
# are scaled up until they sum to 1. Write $\pi$ for the policy without a mask, $q$ for the one under it, and
# $Z$ for the probability that the next code stays in the tree. Then
#
# [definition]
#
# $$q(y) = \prod_{l=1}^{L} \frac{\pi(y_l | y_{\lt l})}{Z(y_{\lt l})}$$

# %%
with torch.no_grad():
    free = exact.item_logprobs(policy, prompt, trie, constrained=False)[0].double()  # log π(y)
    masked = exact.item_logprobs(policy, prompt, trie)[0].double()  # log q(y)
gain = masked - free  # -Σ log Z along the path of each item
print(f"sum of π over the items {free.exp().sum():.4f}, of q {masked.exp().sum():.4f}")
print(f"gained least: {gain.min().exp():.3f} times, gained most: {gain.max().exp():.3f} times")

# %% [markdown]
# Is $q$ simply what $\pi$ says if one draws again until an item comes out? No. That would be
# $\pi(y) / \sum_{y'} \pi(y')$, one factor for all items. A mask does not draw again, it goes on: an item gains by the holes *beside
# its own path*. An item that has no sibling is certain as soon as its prefix is said.

# %% tags=["hide"] caption="What each item of user 17 gains by the mask, by how many codes may stand in its last place. Exact."
siblings = trie.masks(trie.codes)[:, -1].sum(-1)  # (N,) codes allowed in the last place
figure, axes = plt.subplots(figsize=(7.5, 2.6))
spread = (torch.rand(len(trie), generator=book.stream(book.USER, 4)) - 0.5) * 0.5
axes.scatter(siblings + spread, gain.exp(), s=5, color="C0", alpha=0.6, label="an item, under the mask")
again = -free.exp().sum().log()
axes.axhline(again.exp(), color="C1", label="every item, if one drew again until an item came")
axes.set(xlabel="codes that may stand in the last place", ylabel="q / π", ylim=(0.9, None))
axes.legend()
plt.show()

# %% [markdown]
# So there are two policies, with the same weights: $\pi$ and $q$. Neither is wrong. A method must know which
# one it means. Here AdaGRPO draws from $\pi$, as validity is part of what is measured there, and GRPO and ReCast
# draw from $q$ [all ours].
#
# ## Score what you sample
#
# The loss needs the probability of what was drawn, with gradients. That is another pass over the same codes,
# by teacher forcing. Both passes take their probabilities from one function, in one place:

# %% tags=["hide"]
book.show(token_logprobs, score)

# %%
masks = trie.masks(group.codes)  # (1, G, 1, L, V), the masks that were on the way
with torch.no_grad():
    same = score(policy, prompt, group.codes, masks)
    other = score(policy, prompt, group.codes, None)  # the mask is forgotten
print("with the mask, off by more than 1e-5:", bool((same - group.logp).abs().max() > 1e-5))
print(f"without it, off by up to {(other - group.logp).abs().max():.3f} nats a code")

# %% [markdown]
# Nothing fails if one forgets it. The numbers are log-probabilities, of a distribution, of the right shape.
# They are just not those of what was drawn.
#
# ## What that is worth
#
# Say items are drawn from $q$ and scored under $p$, and an item is worth $r$. The mean step is then
# $\mathbb{E}_q[r \nabla \log p]$. Take the dullest of all rewards, the same number for every item. There is
# nothing to learn from it, and if $p = q$ nothing is learned:
# $\mathbb{E}_q[\nabla \log q] = \nabla \sum_y q(y) = 0$. But if $p$ is another,
#
# $$\mathbb{E}_q[\nabla \log p] = \sum_y q(y) \nabla \log p(y) = -\nabla_p \mathrm{KL}(q \Vert p)$$
#
# [definition; ours to say it so]. The policy is told to imitate its own sampler. What a wrong score adds to
# a step is supervised learning on one's own output.
#
# We need the log-probability of every item under a mask and a temperature. The scorer gives it: every item
# is a rollout. And what is an item worth? Here: its probability under the law. Chapter 4 is about rewards.

# %%
codes = trie.codes[None, :, None]  # (1, N, 1, L): the catalogue as one group
law = dataset.law(batch)[0]  # (N,)


def says(policy: Policy, temperature: float, mask: bool) -> torch.Tensor:
    """Log-probability of every item, (N,)."""
    prompt = policy.encode(batch.condition, history)
    allowed = trie.masks(codes) if mask else None
    return score(policy, prompt, codes, allowed, temperature).sum((2, 3))[0].double()


# (temperature, mask) of the draw; scored at temperature 1 under the mask, or not
CASES = {
    "the same": ((1.0, True), (1.0, True)),
    "mask forgotten": ((1.0, True), (1.0, False)),
    "drawn at 0.7": ((0.7, True), (1.0, True)),
    "drawn at 1.5": ((1.5, True), (1.0, True)),
}


def step(policy: Policy, case: tuple, reward: torch.Tensor, baseline: bool = False) -> torch.Tensor:
    """The mean step E_q[r ∇log p], over all items, flat."""
    drawn, scored = case
    q = says(policy, *drawn).exp().detach()
    weight = q * (reward - (q @ reward if baseline else 0))
    slopes = torch.autograd.grad((weight * says(policy, *scored)).sum(), list(policy.parameters()))
    return torch.cat([slope.flatten() for slope in slopes])


policy.requires_grad_(True)
ones = torch.ones_like(law)


def angle(one: torch.Tensor, other: torch.Tensor) -> float:
    """Degrees between two steps."""
    return torch.cosine_similarity(one, other, dim=0).clamp(max=1).acos().rad2deg().item()


untrained.requires_grad_(True)
rows = {name: (policy, case) for name, case in CASES.items()}
rows["mask forgotten, before training"] = untrained, CASES["mask forgotten"]
print(f"{'':32}constant  true step   turned   with a baseline")
for name, (who, (drawn, scored)) in rows.items():
    wrong, right = (drawn, scored), (drawn, drawn)  # right: the gradient of what the sampler is paid
    level = says(who, *drawn).exp().detach() @ law  # the mean reward
    dull, real = (level * step(who, wrong, ones)).norm(), step(who, right, law).norm()
    plain = angle(step(who, wrong, law), step(who, right, law))
    against = angle(step(who, wrong, law, True), step(who, right, law, True))
    print(f"{name:32}{dull:8.4f} {real:10.4f} {plain:7.1f}° {against:16.1f}°")

# %% [markdown]
# The first column is the length of the step that the mean reward alone causes, as if every item were worth just
# that; it should be 0. The second is the length of the true step, for a reward that says everything there is to
# say about this user. The third is by how many degrees the step is turned. A wrong temperature adds a large
# part to it. The forgotten mask adds little, for this policy hardly says holes. Before training it says
# little else, and there the same slip turns the step much further.
#
# In the last column the mean reward is taken off first, as objectives do from chapter 5 on. That takes the
# constant away and some of the turn. What is left is harder to see: such an error may sit in code for long.
#
# Now let a constant reward act for a while, without a baseline, with exact mean steps. Nothing at all should
# happen.

# %%
STEPS, RATE = 40, 0.03


def drift(case: tuple) -> list[tuple[float, float]]:
    """Entropy of the policy and its expected hit under the law, step by step; each item is worth 1."""
    learner, seen = copy.deepcopy(policy), []
    for _ in range(STEPS):
        now = says(learner, 1.0, mask=True).detach()
        hit = exact.expected_reward(now[None], law[None])
        seen.append((exact.entropy(now[None]).item(), hit.item()))
        slope, start = step(learner, case, ones), 0
        with torch.no_grad():
            for parameter in learner.parameters():
                parameter += RATE * slope[start : start + parameter.numel()].view_as(parameter)
                start += parameter.numel()
    return seen


drifts = {name: torch.tensor(drift(case)) for name, case in CASES.items()}

# %% tags=["hide"] caption="A reward of 1 for every item. Exact mean steps; the black line is where all should stay."
figure, panels = plt.subplots(1, 2, figsize=(7.5, 2.8))
STYLES = ("k-", "C0--", "C1-", "C0-")
for axes, column, label in zip(
    panels, (0, 1), ("entropy of the policy (nats)", "expected hit under the law"), strict=True
):
    for style, (name, seen) in zip(STYLES, drifts.items(), strict=True):
        axes.plot(seen[:, column], style, label=name)
    axes.set(xlabel="steps", ylabel=label, ylim=(0, None))
panels[0].legend(fontsize=8)
plt.show()

# %% tags=["hide"]
ends = {name: seen[-1].tolist() for name, seen in drifts.items()}
entropy, hit = drifts["the same"][0].tolist()
book.say(
    f"The entropy starts at {entropy:.2f} nats. Drawn at temperature 0.7 and scored at 1, it ends at"
    f" {ends['drawn at 0.7'][0]:.2f}: the policy imitates a sharper self, and what is sharper then is sharpened"
    f" again. Drawn at 1.5, it ends at {ends['drawn at 1.5'][0]:.2f}. Where the mask was forgotten, it ends at"
    f" {ends['mask forgotten'][0]:.2f}: what it imitates is itself without the holes, and once there are none it"
    " has arrived. A temperature never arrives. Meanwhile the expected hit, how often the next click is what the policy"
    f" says, goes from {hit:.3f} to {ends['drawn at 0.7'][1]:.3f} at temperature 0.7, and to"
    f" {ends['drawn at 1.5'][1]:.3f} at 1.5. It is easy to take such curves for learning. Every item was worth"
    " the same."
)

# %% [markdown]
# So there are two honest ways: draw and score under one distribution, or weigh each sample by $p / q$, which
# puts the mean right where $q$ is above 0 wherever $p$ is, and costs variance. The library does the first
# wherever it samples. The second comes back in chapter 5, code by code and clipped, as the ratio
# $\pi / \pi_{old}$ between the policy now and the policy that drew.
#
# ## Beams are not samples
#
# There is a third way to get $G$ items: search for the likeliest ones. Beam search keeps at each level the best
# $W$ prefixes. For a list to be shown that is right. OpenOneRec-RL also takes the beams as a group [its
# official code; 2512.24762]; `--rollouts beam` does so here.

# %% tags=["hide"]
book.show(rollout.beam_group)

# %%
beams = rollout.beam_group(policy, prompt, trie, G, constrained=True).items[0, :, 0]
truth = exact.expected_reward(masked[None], law[None]).item()
noise = torch.rand(1, 400 * G, trie.levels, generator=book.stream(book.USER, 5), dtype=torch.float64)
drawn = rollout.sample(policy, prompt, trie, noise).items[0, :, 0].view(400, G)
found = law[drawn].mean(1)  # (400,) what each group says the policy is worth
error = found.std() / 400**0.5
print(f"exact expected hit      {truth:.4f}")
print(f"mean of 400 groups      {found.mean():.4f} ± {1.96 * error:.4f}")
print(f"mean of the beams       {law[beams].mean():.4f}")
print(f"beams hold probability  {masked.exp()[beams].sum():.3f}, different items {len(beams.unique())}")
distinct = [one.unique() for one in drawn]
print(f"groups: different items {sum(map(len, distinct)) / len(drawn):.1f} on average")
hit_chance = sum(law[one].sum().item() for one in distinct) / len(drawn)
print(f"the next click is among them: groups {hit_chance:.3f}, beams {law[beams].sum():.3f}")

# %% tags=["hide"] caption="Left: 6,400 samples against the exact probability of their item. Right: what groups of 16 say the policy is worth."
figure, (left, right) = plt.subplots(1, 2, figsize=(7.5, 2.9))
share = torch.bincount(drawn.flatten(), minlength=len(trie)) / drawn.numel()
p = masked.exp()
grid = torch.logspace(-5, -1, 50)
margin = 1.96 * (grid * (1 - grid) / drawn.numel()).sqrt()
left.fill_between(grid, (grid - margin).clamp(min=1e-5), grid + margin, color="0.85", label="95 % interval")
left.plot(p[share > 0], share[share > 0], ".", ms=3, color="C0", label="an item")
left.plot(p[beams], share[beams], "o", ms=5, mfc="none", color="C1", label="among the beams")
left.set(
    xscale="log",
    yscale="log",
    xlabel="exact probability",
    ylabel="share of samples",
    xlim=(1e-5, 0.2),
    ylim=(1e-4, 0.2),
)
left.legend(fontsize=8)
right.hist(found, 30, color="C0", label="groups of samples")
right.axvline(truth, color="k", label="exact")
right.axvline(law[beams].mean(), color="C1", label="the beams")
right.set(xlabel="mean worth of the group", ylabel="groups")
right.set_ylim(0, 1.35 * right.get_ylim()[1])
right.legend(fontsize=8)
plt.show()

# %% [markdown]
# Groups of samples scatter around the exact value, and their mean is the exact value. The beams say one number,
# every time, and it is another one: that of the policy's favourites. Their mean estimates no expectation under
# the policy, as nothing was drawn. What a group of beams does have is $G$ different items,
# so it holds a hit more often. Whether that is worth it is a question for a comparison, and ours is in
# `bench/results/claims_recast-sparse.md`: "GRPO, beams" beside "GRPO, samples".
#
# ## The oracle
#
# In the left picture we knew the probability of every item. `exact.item_logprobs` walks all nodes of the trie,
# one forward pass a level, and everything that a policy would do in the mean is a sum over what it returns:

# %% tags=["hide"]
book.show(exact.item_logprobs)

# %%
with torch.no_grad():
    oracle = exact.item_logprobs(policy, prompt, trie)[0]
    scored = says(policy, 1.0, mask=True)
print("enumerated and scored, off by more than 1e-4:", bool((oracle - scored).abs().max() > 1e-4))
print(f"probabilities sum to {oracle.exp().sum():.4f}, the target's is {oracle[target].exp():.5f}")

# %% [markdown]
# It works up to some thousands of items, and the book leans on it: whatever a method estimates, we look at
# the true value beside it.
#
# ## Exercises
#
# - Build: [`exercises/ch03_build.py`](exercises/ch03_build.py). At which code does a policy without a mask leave the tree? Exactly, for
#   every context.
# - Find the bug: [`exercises/ch03_bug.py`](exercises/ch03_bug.py). A sampler that draws the right codes, and says the wrong
#   probabilities of them.
#
# `pytest tutorials/exercises -k ch03` says when you are done; ours are in `solutions/`.
#
# ## What you can do now
#
# Draw a group for a context under the mask that you mean, score it under the same one, and check both
# against enumeration. Ask of any implementation: is there a second place in which probabilities are made?
#
# ## What we left out
#
# - `top-k` and nucleus sampling: they change the distribution like a temperature, and are forgotten in the
#   score just as easily. The library has neither.
# - Beam search over a large catalogue, and its width: `rollout.beam`, and chapter 9 for what it is used for.
# - Drawing without replacement, which would give different items *and* known probabilities.
# - Rankings of a closed set, where the mask changes as items are placed: `rollout.rank`, in chapter 8.
#
# ## Next
#
# [4 · Rewards, and how they mislead](ch04_rewards.md): what does each reward want?
