# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 7 · ReCast: repair, then contrast
#
# **What can be learned from a group without a hit?**
#
# A group without a hit is silent: all its rewards are 0, so no rollout is better than another (chapter 5).
# ReCast [paper: 2604.22169] makes such groups speak in two steps. **Repair** puts the clicked item into the
# group. **Contrast** then learns from two sequences of it and drops the rest.

# %%
# introduces: minirec.objectives.recast
import re
from dataclasses import replace

import book
import matplotlib.pyplot as plt
import torch

from minirec import objectives, rewards, rollout, tasks
from minirec.data.dataset import contexts
from minirec.measure import exact
from minirec.objectives import grpo, recast
from minirec.policy import score

run = book.trained()
policy, trie, dataset = run.policy, run.trie, run.dataset
cfg = objectives.settings_of(run.cfg, "recast")  # rollouts under the trie, reward 1 for a hit
G = cfg.group

row = (dataset.train.user == book.USER).nonzero()[0]
clicks = contexts(dataset.train.select(row))
batch = clicks.batch(torch.tensor([len(clicks) - 1]), cfg.history)  # the last click is the target
target = int(batch.targets[0, 0])

with torch.no_grad():
    prompt = policy.encode(batch.condition, trie.encode(batch.history))
    noise = torch.rand(1, G, trie.levels, generator=book.stream(book.USER, 0), dtype=torch.float64)
    group = rollout.sample(policy, prompt, trie, noise)
    believed = exact.item_logprobs(policy, prompt, trie)[0].double().exp()  # (N,)

# %% tags=["hide"] caption="One silent group of our user: the codes of its rollouts, and their advantages A. Blue: codes shared with the target. Orange: the target, put in."
said, target_codes = group.codes[0, :, 0], trie.codes[target]  # (G, L), (L,)
likelihood = group.logp.sum((2, 3))  # (1, G)


def worth(said: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Hits and u of the group, (1, G) each."""
    u = rewards.prefix_score(said[None], target_codes[None, None])
    return (u == 1).float(), u


_, place = recast.repair(*worth(said), likelihood)
mended = said.index_copy(0, place, target_codes[None])
_, pair = recast.contrast(*worth(mended), likelihood)
only_two = torch.zeros(G).scatter(0, pair[0], torch.tensor([1.0, -1.0]))
VIEWS = [
    ("as rolled out, GRPO", said, grpo.advantages(worth(said)[0])[0], range(G)),
    ("repaired, GRPO", mended, grpo.advantages(worth(mended)[0])[0], range(G)),
    ("repaired, contrast: ReCast", mended, only_two, pair[0].tolist()),
]
figure, panels = plt.subplots(1, 3, figsize=(7.5, 3.9))
for axes, (title, shown, advantage, kept) in zip(panels, VIEWS, strict=True):
    for y, i in enumerate(likelihood[0].argsort(descending=True).tolist()):
        own = (shown[i] == target_codes).long().cumprod(0)
        faint = 1.0 if i in kept else 0.15
        for level, code in enumerate(shown[i].tolist()):
            fill = "C1" if own.all() else "C0" if own[level] else "0.9"
            axes.add_patch(plt.Rectangle((level, y - 0.42), 0.92, 0.84, color=fill, alpha=faint, lw=0))
            ink = "k" if fill == "0.9" or i not in kept else "w"
            axes.text(level + 0.46, y, code, ha="center", va="center", fontsize=7.5, color=ink, alpha=faint)
        number = f"{advantage[i]:+.2f}" if advantage[i] else "0"
        if i in kept:
            axes.text(3.75, y, number, ha="right", va="center", fontsize=8)
    axes.text(3.75, -1, "A", ha="right", va="center", fontsize=8, style="italic")
    axes.set(xlim=(-0.1, 4.1), ylim=(G - 0.4, -1.4), xticks=[], yticks=[])
    axes.set_title(title)
    axes.spines[:].set_visible(False)
panels[0].set_ylabel("rollouts of the group, likeliest first")
plt.show()

# %% tags=["hide"]
book.say(
    f"The target is item {target}, codes {tuple(trie.codes[target].tolist())}; the policy gives it a "
    f"probability of {believed[target]:.4f}. None of the {G} rollouts is it, so GRPO has {G} zeros."
)

# %% [markdown]
# ## How many groups are silent
#
# With probability $p$ for the target, $G$ samples all miss with probability $(1-p)^G$, and all hit with
# $p^G$. We ask a thousand fresh contexts for groups of growing size. `recast.outcomes` counts them; dots are the
# exact shares, from each context's $p$.

# %%
SIZES = (2, 4, 8, 16, 32, 64)
counts, shares = [], []
for size in SIZES:
    wide = replace(cfg, group=size, contexts=1000)
    task = tasks.NextItem(wide, trie, contexts(dataset.fresh), tasks.hit)
    seen = task.act(policy, 0)
    counts.append(recast.signal(seen).facts)  # groups by outcome, before and after repair
    p = seen.logp(seen.batch.targets)[:, 0].double().exp()
    shares.append((1 - p).pow(size).mean().item())  # of groups without a hit, exact
    if size == G:
        x = seen

# %% tags=["hide"] caption="Outcomes of groups by their size, before and after repair. Dots: exact share of silent groups."
figure, panels = plt.subplots(1, 2, figsize=(7.5, 3.1), sharey=True)
places = torch.arange(len(SIZES))
for axes, prefix, title in zip(panels, ("", "repaired_"), ("before repair", "after repair"), strict=True):
    mixed = torch.tensor([c[f"{prefix}mixed"] for c in counts]) / 10
    full = torch.tensor([c[f"{prefix}all_hit"] for c in counts]) / 10
    empty = torch.tensor([c[f"{prefix}all_zero"] for c in counts]) / 10
    put = torch.tensor([c["all_zero"] for c in counts]) / 10 if prefix else torch.zeros(len(SIZES))
    axes.bar(places, empty, color="0.8", label="no hit: silent")
    axes.bar(places, mixed - put, bottom=empty, color="C0", label="hits and misses, all rolled out")
    axes.bar(places, put, bottom=empty + mixed - put, color="C1", label="one hit, put in")
    axes.bar(places, full, bottom=empty + mixed, color="k", label="hits only: silent")
    axes.set(xlabel="rollouts per group G", title=title, ylim=(0, 100))
    axes.set_xticks(places, SIZES)
panels[0].plot(places, [100 * share for share in shares], "ko", ms=4, mfc="w")
panels[0].set_ylabel("groups (%)")
figure.legend(*panels[1].get_legend_handles_labels(), fontsize=8, ncols=4, loc="outside lower center")
plt.show()

# %% tags=["hide"]
low, middle, high = p.quantile(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)).tolist()
silent = dict(zip(SIZES, (c["all_zero"] / 1000 for c in counts), strict=True))
book.say(
    f"With $G = {G}$, {silent[G]:.0%} of groups are silent; four times as many rollouts still leave "
    f"{silent[4 * G]:.0%}. More rollouts help slowly because contexts differ: the target's probability is "
    f"{low:.4f} at the lowest tenth, {middle:.3f} in the middle, {high:.2f} at the highest tenth. On ReCast's "
    "data about 85 % of groups have no hit, 13 % one, 2 % more [paper]."
)

# %% [markdown]
# ## How near is a miss
#
# Which rollout should make room, and which miss is worth learning from? ReCast ranks misses by the prefix
# score of chapter 4, the codes shared with the target from the first one on [paper]:
#
# $$u_i = \max_g \varphi(y_i, g), \qquad \varphi = 1, 0.1, 0.01, 0 \quad \text{for 3, 2, 1, 0 codes}$$
#
# `rewards.prefix_score` computes it. The paper's $u$ is a mean over a list of items; our rollouts are one
# item. $u$ chooses inside a group and never becomes a reward [paper].
#
# ## Repair
#
# Only where $\sum_i r_i = 0$: the target takes the place of the worst rollout, $\mathrm{argmin}_i u_i$
# [paper].

# %% tags=["hide"]
book.show(recast.repair, recast.choose)

# %% tags=["exact"]
none = torch.zeros(1, 4)
u, logp = torch.tensor([[0.1, 0.0, 0.0, 0.01]]), torch.tensor([[-9.0, -2.0, -3.0, -1.0]])
print("gives way:", recast.repair(none, u, logp)[1].tolist())
print("all equal:", recast.repair(none, u, none)[1].tolist())

# %% tags=["hide"]
found = rewards.prefix_score(x.rollout.codes[:, :, 0], trie.encode(x.batch.targets))  # (1000, G)
missed = rewards.hit(x.rollout.items[..., 0], x.batch.targets).sum(1) == 0
missing = x.rollout.items[missed, :, 0]


def tied(best: torch.Tensor) -> float:
    """Share of the silent groups in which different items have the chosen u."""
    lowest = torch.where(best, missing, len(trie)).amin(1)
    highest = torch.where(best, missing, -1).amax(1)
    return (lowest != highest).float().mean().item()


worst = tied(found[missed] == found[missed].amin(1, keepdim=True))
best = tied(found[missed] == found[missed].amax(1, keepdim=True))
book.say(
    f"$u$ has few values, so it rarely decides alone: in {worst:.0%} of the silent groups several items have "
    f"the lowest $u$, in {best:.0%} several have the highest. The rule for ties is [ours]: the least likely "
    "of the worst gives way; below, the likeliest of the best is chosen; then the lowest index. It is no "
    "detail, as we shall see."
)

# %% [markdown]
# One more thing needs a decision. The target that was put in was not sampled, so it has no $\pi_{old}$. We
# take the current policy's, and its ratio starts at 1 [ours]. What the replaced rollout leaves behind must
# not be used; the second exercise is about that.
#
# ## Repair alone is almost supervised learning
#
# Take the repaired group to GRPO (`--no-contrast`). It has one hit, so with the unbiased std its advantages
# are known before anything is sampled [ours]:
#
# $$A_{+} = \frac{G - 1}{\sqrt G}, \qquad A_{-} = -\frac{1}{\sqrt G}$$
#
# The mean of $\nabla \log \pi(y)$ over what the policy samples is 0. So the misses cancel but for noise
# (and for the one that gave way); what is left of their mean points along $\nabla \log \pi(g)$ too, as none of
# them is $g$. And $\nabla \log \pi(g)$ is the gradient of the NLL, under the mask.


# %%
def taught(batch, codes: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
    """Per code, the gradient of A log π, in the mean over contexts: (L, all parameters)."""
    here = policy.encode(batch.condition, trie.encode(batch.history))
    logp = score(policy, here, codes, trie.masks(codes))  # (R, S, 1, L)
    gradients = []
    for part in (advantages[..., None] * logp).mean(0).sum((0, 1)):
        grads = torch.autograd.grad(part, parameters, retain_graph=True, materialize_grads=True)
        gradients.append(torch.cat([g.flatten() for g in grads]))
    return torch.stack(gradients)


parameters = list(policy.parameters())
many = batch.select(torch.zeros(100, dtype=torch.int64))  # our user, again and again
noise = torch.rand(100, G, trie.levels, generator=book.stream(book.USER), dtype=torch.float64)
with torch.no_grad():
    prompts = policy.encode(many.condition, trie.encode(many.history))
    groups = rollout.sample(policy, prompts, trie, noise)
silent = (groups.items[:, :, 0] != target).all(1).nonzero()[:, 0]  # those that are repaired
alone = recast.signal(replace(x, cfg=replace(cfg, contrast=False), batch=many, rollout=groups))
nll = taught(batch, trie.encode(batch.targets)[:, :, None], torch.ones(1, 1, 1)).sum(0)
drawn = [taught(batch, alone.codes[[i]], alone.advantages[[i]]).sum(0) for i in silent.tolist()]
alike = torch.cosine_similarity(torch.stack(drawn), nll[None])

# %% tags=["hide"]
book.say(
    f"The cosine between a repaired group's gradient and the one that lifts the target alone is "
    f"{alike.mean():.3f}, in the mean of {len(drawn)} groups; for the mean of the {len(drawn)} gradients it "
    f"is {torch.cosine_similarity(sum(drawn), nll, 0):.3f}. What repair brings is the ground truth. So a "
    "table of results says something about repair only if *supervised continued*, the NLL on the same "
    "targets, stands in it."
)

# %% [markdown]
# ## Contrast
#
# From each group with a hit and a miss, repaired or not, two sequences are kept [paper]:
#
# $$i^{+} = \mathrm{argmax}_i r_i, \qquad i^{-} = \mathrm{argmax}_{i: r_i = 0} u_i$$
#
# with $A = +1$ for $i^{+}$ and $A = -1$ for $i^{-}$.
#
# $i^-$ is the near miss: the longest prefix match. All other advantages are 0, and the other rollouts are
# not in the signal at all. A group of hits only has no legal miss and is skipped.

# %% tags=["hide"]
book.show(recast.contrast, recast.signal)

# %% [markdown]
# Read `signal` as a diff to `grpo.signal`: other codes, other rows, width 2. The loss is the same. Its
# divisor is $2B$, however many groups are learnable [ours].
#
# ## What the pair teaches
#
# Where two sequences begin with the same codes, these codes have the same probabilities, and the
# advantages +1 and -1 cancel [ours; exact while the ratio is 1]. Only from the code on where they part does
# the pair teach anything. The length of the mean gradient of each code's part, by how many codes a pair
# shares:

# %%
signal = recast.signal(x)
some = x.batch.select(signal.rows)
same = signal.codes[:, 0, 0] == signal.codes[:, 1, 0]  # (R, L) hit and near miss
shared = same.long().cumprod(-1).sum(-1)  # (R,)
lines = ["codes shared   pairs   first  second   third"]
for count in range(trie.levels):
    chosen = (shared == count).nonzero()[:, 0]
    parts = taught(some.select(chosen), signal.codes[chosen], signal.advantages[chosen])
    numbers = "".join(f"{length:8.3f}" for length in parts.norm(dim=1).tolist())
    lines.append(f"{count:12}{len(chosen):8}{numbers}")
print("\n".join(lines))

# %% [markdown]
# So a pair finds the code at which the policy goes wrong, and works there and below: the *boundary*. When
# near misses share more codes with targets, the boundary moves down the trie. GRPO on the repaired group
# has no such place; it lifts all codes of the target alike.
#
# ## Who pays
#
# Probabilities sum to 1: what lifts the target pushes something else down. NLL takes from every item $y$ in
# proportion to $\pi(y)$, repair alone from what was rolled out, which in the mean is the same. ReCast takes
# from the nearest miss. How often is that item $y$? Order the misses by $u$, then by likelihood. $y$ is
# $i^-$ if it was rolled out and nothing before it was. With $S_y$ the probability of all that come before
# [ours; exact for $G$ of 2 and more]:
#
# $$q(y \mid g) = (1 - S_y)^G - (1 - S_y - \pi(y))^G$$
#
# Of misses with equal $u$, the library takes the likeliest. We shall compare that with taking the first:
# samples come in random order, so each of the tied rollouts is first equally often, if repair breaks its own
# ties in the same way.

# %%
every = trie.codes[None].expand(len(trie), -1, -1)
nearness = rewards.prefix_score(every, trie.codes[:, None]).double()  # (N, N): u by target and item
itself = torch.eye(len(trie), dtype=torch.bool)


def likeliest(pi: torch.Tensor) -> torch.Tensor:
    """Probability (N, N) that an item (column) is the near miss of a target (row), from pi."""
    order = pi.argsort(descending=True).expand(len(pi), -1)
    order = order.gather(1, nearness.gather(1, order).argsort(dim=1, descending=True, stable=True))
    mass = pi.expand(len(pi), -1).masked_fill(itself, 0).gather(1, order)
    before = mass.cumsum(1) - mass  # S
    q = (1 - before).clamp(min=0) ** G - (1 - before - mass).clamp(min=0) ** G
    return torch.zeros_like(q).scatter(1, order, q)


def first(pi: torch.Tensor) -> torch.Tensor:
    """The same where of equal u the first is taken: all misses of one u share its probability."""
    q, before = torch.zeros_like(nearness), torch.zeros(len(pi), 1, dtype=pi.dtype)
    for u in nearness.unique().flip(0):
        tied = (pi * (nearness == u)).masked_fill(itself, 0)
        mass = tied.sum(1, keepdim=True)
        some = (1 - before).clamp(min=0) ** G - (1 - before - mass).clamp(min=0) ** G
        q, before = q + some * tied / mass.clamp(min=1e-300), before + mass
    return q


# %% tags=["hide"]
law = dataset.law(batch)[0]  # (N,) the truth
near, logp = nearness[target].float(), believed.log().float()
found = []
for rule, tie in ((likeliest, logp), (first, torch.zeros_like(logp))):
    draws = torch.multinomial(believed, 20_000 * G, True, generator=book.stream(0)).view(-1, G)
    rows, place = recast.repair((draws == target).float(), near[draws], tie[draws])
    draws[rows, place] = target
    rows, chosen = recast.contrast((draws == target).float(), near[draws], tie[draws])
    counted = torch.bincount(draws[rows, chosen[:, 1]], minlength=len(trie)) / len(draws)
    q = rule(believed)[target]
    off, error = (counted - q).abs().max(), (q * (1 - q) / len(draws)).sqrt().max()
    found.append(f"{off:.4f} (standard error {error:.4f})")
book.say(
    f"Held against `repair` and `contrast` on {len(draws):,} sampled groups, $q$ is off by {found[0]} and "
    f"{found[1]} at most."
)


def near_worth(rule) -> float:
    """The law's probability of the near miss, over targets drawn from the law."""
    q = law @ rule(believed)
    return (q @ law / q.sum()).item()


ours = int(trie.lookup(said[pair[0, 1]]))
book.say(
    "What is a near miss worth, that is, with which probability would the user click it? In the group above "
    f"it was item {ours}: {law[ours]:.4f} under the true law, and the target {law[target]:.4f}. That is one "
    f"click. Over targets drawn from the law, a true click is worth {law @ law:.3f} in the mean, a rollout "
    f"{believed @ law:.3f}, the first of the nearest misses {near_worth(first):.3f}, and the likeliest of "
    f"them {near_worth(likeliest):.3f}. Near the target is where the user's taste is, and among those the "
    "tie rule takes the one that the policy likes best."
)

# %% [markdown]
# Where one click is possible, a miss is a mistake. Where many are, a miss is often just the other thing. So
# put the policy at the truth, $\pi = p^{\ast}$, and ask which way each signal moves it. An item is lifted with
# probability $p^{\ast}(y)(1 - \pi(y)^G)$ and pushed down with $\sum_g p^{\ast}(g) q(y \mid g)$. Under NLL both are
# $p^{\ast}(y)$, and nothing moves.


# %%
def direction(truth: torch.Tensor, pi: torch.Tensor, rule) -> torch.Tensor:
    """How much more often ReCast lifts an item than it pushes it down, (N,); targets from truth."""
    return truth * (1 - pi**G) - truth @ rule(pi)


def agreement(truth: torch.Tensor, known: float, rule) -> float:
    """Cosine of ReCast's direction with the NLL's, truth - pi, where pi knows part of the truth."""
    pi = (known * truth.log()).softmax(0)  # known = 0: uniform, 1: the truth
    return torch.cosine_similarity(direction(truth, pi, rule), truth - pi, 0).item()


# %% tags=["hide"] caption="Left: at the truth, how often an item is lifted and pushed down. Others: does a signal move towards the truth? For our user's law, and for one sharpened until one item has most of it. All exact."
figure, (left, *others) = plt.subplots(1, 3, figsize=(7.5, 3.1), width_ratios=[1.3, 1, 1])
top = law.argsort(descending=True)[:12]
bars = {
    "lifted": ("C0", law * (1 - law**G)),
    "pushed: likeliest": ("C1", law @ likeliest(law)),
    "pushed: first": ("0.6", law @ first(law)),
}
for place, (name, (color, values)) in enumerate(bars.items()):
    left.bar(torch.arange(1, 13) + 0.27 * (place - 1), values[top], width=0.27, color=color, label=name)
left.set(xlabel="item, by rank under the law", ylabel="probability, per group", xticks=[1, 4, 7, 10])
left.legend(fontsize=8)
knows = [0.02, *(n / 20 for n in range(1, 20)), 0.98]
for axes, power in zip(others, (1, 32), strict=True):
    truth = (power * law.log()).softmax(0)
    axes.axhline(0, color="0.8", lw=0.8)
    axes.axhline(1, color="C0", label="NLL")
    for rule, style, color in ((likeliest, "-", "C1"), (first, "--", "0.5")):
        curve = [agreement(truth, known, rule) for known in knows]
        axes.plot(knows, curve, style, color=color, label=f"ReCast, {rule.__name__}")
    axes.set(xlim=(0, 1), ylim=(-1, 1.05), xlabel="what the policy knows")
    axes.set_title(f"likeliest click {truth.max():.2f}", fontsize=9)
others[0].set_ylabel("cosine with the way to the truth")
others[1].legend(fontsize=8, loc="lower right")
plt.show()

# %% tags=["hide"]
best = top[0]
moved = (law.log() + direction(law, law, likeliest)).softmax(0)  # a step of the logits, at rate 1
spread = [torch.special.entr(p).sum().item() for p in (law, moved)]
book.say(
    f"At the truth, our user's likeliest item is lifted in {bars['lifted'][1][best]:.0%} of the groups. It is "
    f"pushed down in {bars['pushed: likeliest'][1][best]:.0%} of them where the likeliest near miss pays, "
    f"and in {bars['pushed: first'][1][best]:.0%} where the first one does. With the library's rule, one step "
    f"takes the entropy from {spread[0]:.3f} to {spread[1]:.3f} nats and the hits per rollout from "
    f"{law @ law:.4f} to {moved @ law:.4f}, although every click learned from was a true one. (GRPO would "
    "leave the truth as well, but uphill: for more hits.)"
)

# %% [markdown]
# To the right: 0 is a policy that knows nothing, 1 is the truth. A policy that knows little is moved towards
# the truth: its near misses are mistakes. Where many clicks are possible, one that knows a lot is moved
# away, much earlier by our tie rule than by the other. Where one click has most of the probability, both go
# the right way. The paper's formula leaves ties open; this is how much may hang on such a gap.
#
# In a run, the KL to the start and small steps hold it back. And the pair has a brake of its own: only what was
# rolled out can be $i^-$, so $q(y \mid g) \le G \pi(y)$, and an item that has become unlikely is no longer
# pushed [ours]. With several updates on one batch only the clip and the KL stop the push, for $-\log \pi(i^-)$
# has no bound.
#
# ## Where the factor 16 comes from
#
# The paper reports an actor update 16.60 times faster at $G = 32$ [paper]. The search is as wide as before.
# What shrinks is the update: 2 sequences of 32, so a sixteenth of the rows, if each row is a prompt with an
# item behind it. Here a group shares its prompt; rollouts are branches (chapter 3). Then the prompt is most
# of the work, and it is the same for 32 rollouts as for 2.
#
# Measured by `python -m bench.update`, all groups learnable, one thread (`bench/results/update.md`):

# %%
table = (book.ROOT / "bench" / "results" / "update.md").read_text()
measured = []  # (prompt, tokens of the prompt, GRPO in ms, ReCast in ms, ratio)
for line in table.splitlines():
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    if len(cells) == 7 and cells[1] == "actor":
        kind, tokens = cells[0].removesuffix(" tokens").split(", ")
        measured.append((kind, int(tokens), *(float(c.split()[0]) for c in cells[2:5])))
measured.sort()


def tokens_ratio(kind: str, prompt: int, group: int = 32, levels: int = 3) -> float:
    """Tokens through the transformer, GRPO's over ReCast's."""
    own = levels - 1  # the last code is predicted, not read
    if kind == "repeated":
        return group * (prompt + own) / (2 * (prompt + own))
    return (prompt + group * own) / (prompt + 2 * own)


# %% tags=["hide"] caption="The actor update at G = 32. Left: GRPO's time over ReCast's. Right: the two times, on a logarithmic scale."
figure, (left, right) = plt.subplots(1, 2, figsize=(7.5, 2.8), width_ratios=[1, 1.2])
places = torch.arange(len(measured))
left.bar(places, [m[4] for m in measured], color=["0.6" if m[0] == "repeated" else "C1" for m in measured])
left.plot(places, [tokens_ratio(*m[:2]) for m in measured], "k_", ms=22, mew=2, label="by tokens")
left.axhline(16.6, color="C0", ls="--", lw=1, label="the paper")
names = [f"{kind}\n{tokens}" for kind, tokens, *_ in measured]
for axes in (left, right):
    axes.set_xticks(places, names, fontsize=8)
    axes.set_xlabel("prompt, and its tokens")
left.set_ylabel("times faster")
left.legend(fontsize=8)
right.bar(places - 0.2, [m[2] for m in measured], width=0.4, color="C0", label="GRPO, 32 of 32")
right.bar(places + 0.2, [m[3] for m in measured], width=0.4, color="C1", label="ReCast, 2 of 32")
right.set(yscale="log", ylabel="actor update (ms)", ylim=(20, 5000))
right.legend(fontsize=8)
plt.show()

# %% tags=["hide"]
times = {(kind, tokens): cells for kind, tokens, *cells in measured}
short = min(tokens for _, tokens in times)
grpo_ms, recast_ms, ratio = times["repeated", short]
book.say(
    f"With the prompt repeated, the update is {ratio:.1f} times faster ({short} tokens). With the prompt "
    f"shared, {times['shared', short][2]:.1f} times: GRPO's own update went from {grpo_ms:.0f} to "
    f"{times['shared', short][0]:.0f} ms, and ReCast's from {recast_ms:.0f} to "
    f"{times['shared', short][1]:.0f}. Sharing the prompt gave GRPO "
    f"{grpo_ms / times['shared', short][0]:.0f} times, so little is left for ReCast to save. (A bit more than "
    "the count of tokens says: the last block of a prompt is computed for its last position alone.) Either "
    "way it is *less computation*, and of the update alone: the rollouts cost what they cost. Whether the "
    "signal is better is another question."
)

# %% [markdown]
# ## Does it learn better
#
# The paper reports a Pass@1 of 9.1 to 36.6 % above OpenOneRec-RL, which is GRPO on beams [paper]. Here are
# two regimes of the built-in world, by `python -m bench.claims recast-sparse` and `recast-weak`. All arms
# have the same start, contexts and noise. Each has the best of three learning rates by HR@10 on two other seeds;
# Pass@1 had no choice of its own.

# %% tags=["hide"]
REGIMES = {"recast-sparse": "many possible clicks", "recast-weak": "one likely click, weak policy"}
COLUMNS = {"HR@10": 2, "Pass@1": 5}  # the value; then minus continued; then ReCast minus it
FLOORS = ("start", "item-kNN", "true law")
results, made, floors, groups_of = {}, {}, {}, []
for name in REGIMES:
    page = (book.ROOT / "bench" / "results" / f"claims_{name}.md").read_text()
    made[name] = dict(re.findall(r"'(\w+)': (\d+)", page))
    plain, found = book.tables(f"claims_{name}").values()
    results[name] = {arm: [arm, *cells] for arm, cells in found.items() if arm != "arm"}
    floors[name] = {floor: float(plain[floor][0]) for floor in FLOORS}
    groups_of.append(int(re.search(r"'group': (\d+)", page)[1]))
sparse, weak = made.values()
book.say(
    f"In the first, users might click many things of {int(sparse['world_items']):,}. In the second, targets "
    f"are nearly deterministic, but the policy is weak: {weak['epochs']} epoch on "
    f"{int(weak['world_users']):,} users. {sparse['seeds']} seeds each, {sparse['batches']} steps, groups of "
    f"{' and '.join(map(str, sorted(set(groups_of))))}. ReCast's rate is {results['recast-sparse']['ReCast'][1]} in "
    f"the first and {results['recast-weak']['ReCast'][1]} in the second, of 0.0001, 0.0003 and 0.001: an end of "
    "the range each time, so a wider range might change its place."
)
lines = ["| HR@10 | " + " | ".join(FLOORS) + " | best arm |", "|---|---|---|---|---|"]
for name, title in REGIMES.items():
    best = max(results[name], key=lambda arm: float(results[name][arm][2]))
    cells = [f"{floors[name][floor]:.1f}" for floor in FLOORS] + [f"{results[name][best][2]} ({best})"]
    lines.append(f"| {title} | " + " | ".join(cells) + " |")
book.say("\n".join(lines))
beaten = [floors[name]["item-kNN"] > max(float(c[2]) for c in results[name].values()) for name in REGIMES]
if all(beaten):
    book.say(
        "No arm reaches item-kNN in either regime. What follows compares signals; good recommenders they are not."
    )

# %% tags=["hide"] caption="Against supervised continued. Bars: 95 % intervals over worlds. The two scales differ."
others = [arm for arm in results["recast-sparse"] if arm != "supervised continued"][::-1]
figure, panels = plt.subplots(1, 2, figsize=(7.5, 2.6), sharey=True)
for axes, (name, title) in zip(panels, REGIMES.items(), strict=True):
    axes.axvline(0, color="0.6", lw=0.8)
    for (metric, column), shift, style in zip(COLUMNS.items(), (0.12, -0.12), ("C0o", "C1s"), strict=True):
        pairs = [map(float, results[name][arm][column + 1].split(" ± ")) for arm in others]
        value, half = zip(*pairs, strict=True)
        y = torch.arange(len(others)) + shift
        axes.errorbar(value, y, xerr=half, fmt=style, ms=4, capsize=2, label=metric)
    axes.set_yticks(range(len(others)), others)
    axes.set(title=title, xlabel="difference (points)")
panels[0].legend(fontsize=8, loc="upper left")
plt.show()


# %% tags=["hide"]
def held(name: str, metric: str) -> str:
    """ReCast against each arm, in words and with intervals."""
    found = {"above": [], "not told from": [], "below": []}
    for arm, cells in results[name].items():
        if arm != "ReCast":
            value, half = map(float, cells[COLUMNS[metric] + 2].split(" ± "))
            word = "not told from" if abs(value) <= half else "above" if value > 0 else "below"
            found[word].append(f"{arm.replace(',', ' on')} ({value:+.1f} ± {half:.1f})")
    return "; ".join(f"{word} {', '.join(names)}" for word, names in found.items() if names)


for name, title in REGIMES.items():
    book.say(f"**{title.capitalize()}.** ReCast on HR@10 is {held(name, 'HR@10')}.")
book.say(f"On Pass@1 in the second, ReCast is {held('recast-weak', 'Pass@1')}.")
still = [float(results[name]["GRPO, samples"][9]) for name in REGIMES]
few = float(results["recast-sparse"]["contrast alone"][10])
book.say(
    f"The share of silent groups is about the same ({still[0]:.0%} and {still[1]:.0%} of sampled GRPO's), and "
    "ReCast's place among the GRPO arms is not: the share alone does not decide. Sharp targets are one "
    "difference, the one that the exact picture points to. The regimes also differ in catalogue, users and "
    "training, so these runs do not isolate it. Contrast alone is left with the groups that have a hit of "
    f"their own, {few:.0%} in the first regime: few pairs, little effect."
)

# %% [markdown]
# So what can be learned from a group without a hit? From repair, what the NLL would have taught. From
# contrast, where the policy's best miss parts from the click; that is worth learning as long as misses are
# mistakes.
#
# ## Exercises
#
# - Build: [`exercises/ch07_build.py`](exercises/ch07_build.py). A contrast whose miss is drawn at random instead of being
#   the nearest. Who pays then?
# - Find the bug: [`exercises/ch07_bug.py`](exercises/ch07_bug.py). It repairs groups and learns from them; the targets
#   become likelier, and still something is wrong.
#
# `pytest tutorials/exercises -k ch07` says when you are done; ours are in `solutions/`.
#
# ## What you can do now
#
# Say for a log how many groups will be silent, and why. Run the two halves apart: `python -m minirec.train
# --tiny --objective recast --no-contrast` (repair alone), `--no-repair` (contrast alone). Read a speed-up
# of an update and ask what it was held against.
#
# ## What we left out
#
# - $u$ over lists of several items, as in the paper; our rollouts are one item.
# - Several targets: the first one repairs, and any of them is a hit.
# - Beam groups. They hold $G$ different items, so fewer groups are silent; they are no samples, so $q$ is
#   not theirs.
# - Runs with another tie rule: those above are by the library's alone. Three seeds with others are in
#   `bench/LOG.md`; in the first regime ReCast comes nearer to supervised continued, in the second it does not.
# - The KL to the start, which bounds how far a wrong direction can lead.
#
# ## Next
#
# [8 · FlexRec: credit for every position](ch08_flexrec.md): which position of a list deserves the credit?
