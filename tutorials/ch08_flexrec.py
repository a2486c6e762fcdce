# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 8 · FlexRec: credit for every position
#
# **Which position of a list deserves the credit?**
#
# Until here the policy said one item. Now it fills a page: it puts a set of candidates in order, one
# position after another. The page gets one number. The policy made $K - 1$ choices.

# %%
# introduces: minirec.objectives.flexrec minirec.data.lists minirec.models.critic
# introduces: minirec.measure.rankings minirec.run.lists minirec.loop
# previews: minirec.ops.reference
import math
import re
from functools import partial

import book
import matplotlib.pyplot as plt
import torch

from minirec import loop, objectives, ops, rewards, rollout, tasks
from minirec.data import lists, vectors
from minirec.measure import exact, metrics, rankings
from minirec.models import critic
from minirec.objectives import flexrec, grpo
from minirec.ops import reference
from minirec.policy import score
from minirec.run.lists import imitate, next_item_scores, warm_start

run = book.trained()
cfg, trie, dataset = run.cfg, run.trie, run.dataset
fresh = lists.make_lists(cfg, dataset, "train")  # closed sets of users that are left to RL
start = warm_start(cfg, run.policy, trie, fresh)  # the trained policy, taught to say lists
known = lists.make_lists(cfg, dataset, "known")  # the same, of all training users
mine = (known.contexts.user == book.USER).nonzero()[6]  # one of the sets of user 17
six = known.first(len(known), 6)  # only the first six candidates of each set
asked = six.draw(mine, torch.tensor([0]))  # for need 0

# %% tags=["hide"] caption="One list of user 17, and who gets credit for it. Dots: the true advantage, from all 720 lists."
FORMS = {
    "list": "list-level",
    "independent": "independent",
    "noncausal": "non-causal swaps",
    "causal": "causal swaps",
}


def value_after(orders, p, value):
    """E[value | the first k items], k = 0..K, of every order: value (O,) gives (O, K + 1)."""
    size = orders.shape[1]
    means = []
    for k in range(size + 1):
        key = ((orders[:, :k] + 1) * (size + 1) ** torch.arange(k)).sum(1)
        same = torch.unique(key, return_inverse=True)[1]  # (O,) which prefix
        zero = torch.zeros(int(same.max()) + 1, dtype=p.dtype)
        means.append((zero.index_add(0, same, p * value) / zero.index_add(0, same, p))[same])
    return torch.stack(means, 1)


def enumerated(gains, logp, orders):
    """For every order: NDCG, the true advantage of each choice, and what each form pays for it."""
    p, gains = logp.detach().double().exp(), gains.double()
    ideal = rewards.ideal(gains, len(gains)).expand(len(orders))
    ndcg = rewards.ndcg(gains[orders], ideal)
    paid = {form: flexrec.credit(gains[orders][None], ideal[:1], form)[0] for form in FORMS}
    return p, ndcg, value_after(orders, p, ndcg).diff(dim=1), paid


with torch.no_grad():
    prompt = start.encode(asked.batch.condition, trie.encode(asked.batch.history))
    orders, logp = exact.list_logprobs(start, prompt, trie, asked.candidates)
    noise = torch.rand(1, 1, 6, trie.levels, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    said = rollout.rank(start, prompt, trie, asked.candidates, noise)
gains = asked.gains[0]
p, ndcg, truth, paid = enumerated(gains, logp[0], orders)
order = (asked.candidates == said.items[0, 0][:, None]).int().argmax(1)
this = int((orders == order).all(1).nonzero())

figure, panels = plt.subplots(1, 5, figsize=(7.5, 2.6), width_ratios=[1, 1.2, 1.2, 1.2, 1.2])
position = torch.arange(1, 7)
panels[0].bar(position, gains[order], color="0.6")
panels[0].set_title("the list", fontsize=9)
panels[0].set(ylabel="gain", ylim=(0, 1), xlabel="position")
for axes, (form, name) in zip(panels[1:], FORMS.items(), strict=True):
    axes.sharey(panels[1])
    credit = paid[form][this] - p @ paid[form]  # against what the policy gets at this position on average
    axes.bar(position, credit, color="C0" if form == "causal" else "C1")
    axes.plot(position, truth[this], "k.", ms=7)
    axes.axhline(0, color="0.3", lw=0.8)
    axes.set_title(name, fontsize=9)
    axes.set_xlabel("position")
    axes.tick_params(labelleft=form == "list")
panels[1].set_ylabel("credit, minus its mean")
for axes in panels:
    axes.set_xticks(position)
plt.show()

# %% tags=["hide"]
book.say(
    f"The gains of this list are {', '.join(f'{g:.2f}' for g in gains[order].tolist())}; its NDCG is "
    f"{ndcg[this]:.3f}, and the policy's mean over all orders {float(p @ ndcg):.3f}. The true advantages add "
    f"up to the difference, {float(truth[this].sum()):+.3f}. List-level credit pays that sum to every position. The other forms "
    "try to say who earned it."
)

# %% [markdown]
# ## A need is two flags
#
# What is a good list? It depends on what the user came for. FlexRec calls this a *need* and has three:
# *interest*, how much the user likes an item; *explore*, liked and of a topic that the recent history lacks;
# *trend*, liked and popular now [paper]. Here [ours] a need is two flags in the prompt, novel and trend. So
# there is a fourth, both at once, which training never sees: its parts can be read, their sum is new.

# %% tags=["exact"]
rows = mine.expand(len(lists.NEEDS))
drawn = six.draw(rows, torch.arange(len(lists.NEEDS)))
print("candidates   ", drawn.candidates[0].tolist())
for need, gain, condition in zip(lists.NEEDS, drawn.gains, drawn.batch.condition.tolist(), strict=True):
    print(f"{need:14}", [round(g, 2) for g in gain.tolist()], " flags", condition[1:3])

# %% [markdown]
# A **gain** is what an item is worth for the need, from 0 to 1. A flag is 1 where it is off and 2 where it is
# on. The six items are the same in each row, and what they are worth is not. One policy has to serve all needs.
#
# The set is **closed**: all candidates are placed, each once. The mask that chapter 3 makes of a trie is here
# made of the candidates that are still alive, so the last position has no choice left.

# %%
print("items   ", said.items[0, 0].tolist())
print("log prob", [round(x, 2) for x in said.logp[0, 0].sum(1).tolist()])

# %% [markdown]
# ## One number for a list
#
# $$R(y) = \frac{\mathrm{DCG}}{\mathrm{IDCG}}, \qquad \mathrm{DCG} = \sum_{k=1}^{K} g_k d_k, \qquad d_k = \frac{1}{\log_2(k+1)}$$
#
# $g_k$ is the gain of the item at position $k$, $d_k$ the discount of the position, IDCG the DCG of the best
# order [paper: FlexRec, 2603.11901; a definition].

# %% tags=["hide"]
book.show(rewards.ndcg)

# %% [markdown]
# Chapter 5 tells what to do with one number per rollout: compare it with the group, and give the advantage
# to all tokens. That is **list-level** GRPO, the baseline here (`--objective list`). Before it is divided by
# a std it points the right way in the mean. But the
# choice at position 2 is paid for what happened at position 5, and that is noise.
#
# ## What if this item had stood elsewhere?
#
# FlexRec asks for each position: what would the list lose if its item changed places with another? [paper;
# the sign is ours]
#
# $$r_k = \mathbb{E}_{j \sim U \lbrace k+1..K \rbrace} [ R(y) - R(y \text{ with } k \text{ and } j \text{ swapped}) ], \qquad r_K = 0$$
#
# It takes only later positions: at step $k$ those are the items that could have been said instead. What
# stands before is not to be blamed or praised again. The form is called *causal*. Step by step it is

# %% tags=["hide"]
book.show(reference.swap_literal)

# %% [markdown]
# No swap has to be carried out. Two terms of a sum change, so [ours: a line of algebra]
#
# $$R(y) - R(y \text{ swapped}) = \frac{(g_k - g_j)(d_k - d_j)}{\mathrm{IDCG}}$$
#
# and the mean over $j$ comes from running sums in $O(K)$; chapter 10 makes that fast. Here is our list, both
# ways:

# %%
placed, ideal = gains[order].double(), rewards.ideal(gains.double(), 6)
every_slot = torch.ones(1, 6, dtype=torch.bool)
literal = reference.swap_literal(placed[None], ideal[None], every_slot, cut=6, later=True)[0]
print("swap by swap", [round(r, 4) for r in literal.tolist()])
print("closed form ", [round(r, 4) for r in ops.swap_ndcg(placed, ideal).tolist()])

# %% [markdown]
# The ablations of the paper: *non-causal* takes $j$ from all other positions, and *independent* gives each
# item its own part of the sum, $g_k d_k / \mathrm{IDCG}$ [paper]. All four forms are one function:

# %% tags=["hide"]
book.show(flexrec.credit)

# %% [markdown]
# ## Which form is right?
#
# There is a true answer. The choice $a_k$ moved the expected NDCG from what it was before to what it was
# after [definition]:
#
# $$A(a_k) = \mathbb{E}[R \mid a_1..a_k] - \mathbb{E}[R \mid a_1..a_{k-1}]$$
#
# Six candidates have 720 orders, so all of this can be summed up: the dots of the first figure. First for a
# policy that places at random. Let $n = K - k$ items be left to place, and $\bar{d}_k$ be the mean discount
# of their positions. Then [ours]
#
# $$A(a_k) = \frac{(d_k - \bar{d}_k)(g_k - \bar{g}_k)}{\mathrm{IDCG}}$$
#
# with $\bar{g}_k$ the mean gain of all items that could have been taken, $a_k$ among them. A form of credit
# is judged by the same difference: its mean given $a_1..a_k$, minus its mean given $a_1..a_{k-1}$. At a
# uniform policy that is the true advantage times a factor, one for each position. For swaps with later items
# the factor is $(n+1)/n$, for independent credit $d_k / (d_k - \bar{d}_k)$ [ours]. Here they are, by
# enumeration (`enumerated` and `value_after` are sums over the 720 orders; they stand with the first figure in
# the source of this page):

# %% tags=["exact"]
uniform = torch.full((len(orders),), -math.log(len(orders)), dtype=torch.float64)
q, _, advantage, pays = enumerated(gains, uniform, orders)
factors = {}
for form, name in FORMS.items():
    factors[form] = []
    for k in range(5):
        means = value_after(orders, q, pays[form][:, k])  # given nothing, a_1, a_1..a_2, and so on
        moved = means[:, k + 1] - means[:, k]  # what the choice of a_k changed
        told = advantage[:, k].abs() > 1e-9
        ratio = moved[told] / advantage[told, k]
        assert ratio.max() - ratio.min() < 1e-9  # the same for every choice
        factors[form].append(ratio.mean().item())
    print(f"{name:17}", "  ".join(f"{f:7.4f}" for f in factors[form]))
print(f"{'(n+1)/n':17}", "  ".join(f"{(n + 1) / n:7.4f}" for n in range(5, 0, -1)))

# %% tags=["hide"] caption="Left: credit over true advantage, uniform policy. Right: the trained policy's lists for user 17; correlation of credit with the true advantage, over all 720."
STYLE = {"list": "C1s--", "independent": "C1^-", "noncausal": "k:v", "causal": "C0o-"}
figure, (left, right) = plt.subplots(1, 2, figsize=(7.5, 2.9))
agreement = {}
for form, name in FORMS.items():
    left.plot(range(1, 6), factors[form], STYLE[form], ms=4, lw=1.2, label=name)
    agreement[form] = []
    for k in range(5):
        one, other = paid[form][:, k] - p @ paid[form][:, k], truth[:, k]
        square = (p @ one.square()) * (p @ other.square())
        agreement[form].append(((p * one) @ other / square.sqrt()).item())
    right.plot(range(1, 6), agreement[form], STYLE[form], ms=4, lw=1.2)
for axes in (left, right):
    axes.axhline(0, color="0.3", lw=0.8)
    axes.set_xticks(range(1, 6))
    axes.set_xlabel("position")
left.set(ylabel="factor", title="what is paid for a choice")
left.legend(fontsize=8, loc="upper left")
right.set(ylabel="correlation", title="how well it tells choices apart", ylim=(-1, 1.05))
plt.show()

# %% tags=["hide"]
wrong = next(k for k, f in enumerate(factors["noncausal"], 1) if f < 0)


def along(form):
    return ", ".join(f"{x:.2f}" for x in agreement[form])


book.say(
    "**List-level** credit has a factor of 1 everywhere: it is unbiased. But the rest of the list speaks too, "
    f"and drowns the choice: its correlations along the list are {along('list')}. **Causal swaps** feel little "
    f"of the rest: {along('causal')}. **Independent** credit feels none of it, and overpays late positions: "
    f"{along('independent')}. **Non-causal** swaps have a negative factor from position {wrong} on: swaps "
    "with earlier positions change the discount by more, in sum, than those with later ones. The list gains by them "
    f"if the item is good, and the item is punished for it. Their correlations: {along('noncausal')}."
)

# %% [markdown]
# Off the uniform policy the factors are no longer constants: the swap reward is no exact policy gradient, but
# nearly one. And a positive factor per position does no harm if what comes next divides it out.
#
# ## An advantage per position
#
# A reward $(B, G, K)$ is compared over the group, position by position [ours, as Rank-GRPO does]. The function
# is the one of chapter 5; it normalises over dimension 1, whatever comes after it. The advantage of a
# position goes to the $L$ code tokens of its item [paper]. FlexRec and the baseline are one function: FlexRec
# calls it with the form of credit and the uncertainty of its settings, the baseline with "list" and "none".
# `certainty`, the weight by the critic's variance, comes further down.

# %% tags=["hide"]
book.show(flexrec.list_signal)

# %% [markdown]
# Eight lists of our user, and their advantages under two forms:

# %%
random = torch.Generator().manual_seed(1)
noise = torch.rand(1, 8, 6, trie.levels, generator=random, dtype=torch.float64)
eight = rollout.rank(start, prompt, trie, asked.candidates, noise)
placed = rewards.in_order(asked.candidates, asked.gains, eight.items)  # (1, 8, 6)
ideal = rewards.ideal(asked.gains, 6)
for form in ("list", "causal"):
    advantage = grpo.advantages(flexrec.credit(placed, ideal, form))  # (1, 8, 6)
    print(f"{form}, the first three lists")
    for row in advantage[0, :3]:
        print("   ", "  ".join(f"{a:+.2f}" for a in row.tolist()))

# %% [markdown]
# The last column is exactly 0 under the causal form: there was no choice. Dividing by the standard deviation
# of each position makes late choices as loud as early ones, although they matter less. What all that does to
# a gradient can be measured. With five candidates the gradient of the expected NDCG is a sum over 120 orders
# for each context. Each form gives a vector of its own: in expectation, and from one batch.

# %% tags=["hide"] caption="Which way each signal points: 32 contexts of 5 candidates, groups of 8. The last three rows are for the section on sorting."
parameters = list(start.requires_grad_(True).parameters())


def gradient(value, keep=True):
    """Of a scalar, as one vector."""
    parts = torch.autograd.grad(
        value, parameters, allow_unused=True, materialize_grads=True, retain_graph=keep
    )
    return torch.cat([part.flatten() for part in parts])


def cosine(one, other):
    return torch.cosine_similarity(one, other, dim=0).item()


SIZE, CONTEXTS, BATCHES = 5, 32, 6
small = fresh.first(len(fresh), SIZE)
some = small.draw(torch.arange(CONTEXTS) * 50, lists.needs_of_step(0, 0, CONTEXTS))
encoded = start.encode(some.batch.condition, trie.encode(some.batch.history))
every = exact.list_logprobs(start, encoded, trie, some.candidates)[0]
table = trie.codes[some.candidates]  # (B, C, L)


def token_logp(codes):
    """Log-probability of each item of lists, (B, G, K)."""
    return score(start, encoded, codes, rollout.closed_masks(table, codes, trie.size)).sum(3)


every_logp = token_logp(trie.codes[some.candidates[:, every]])  # (B, 120, 5)
weight = every_logp.detach().sum(2).double().exp()
best = rewards.ideal(some.gains, SIZE)
learned = best > 0
value = rewards.ndcg(some.gains[:, every], best[:, None])
exact_gradient = gradient((every_logp.sum(2).double().exp() * value)[learned].sum())

expected, single = {}, {form: [] for form in FORMS}
for form in FORMS:
    credit = flexrec.credit(some.gains[:, every], best, form)
    centred = credit - (weight[..., None] * credit).sum(1, keepdim=True)
    expected[form] = cosine(
        gradient((weight[..., None] * centred * every_logp)[learned].sum()), exact_gradient
    )
for seed in range(BATCHES):
    random = torch.Generator().manual_seed(seed)
    noise = torch.rand(CONTEXTS, 8, SIZE, trie.levels, generator=random, dtype=torch.float64)
    with torch.no_grad():
        group = rollout.rank(start, encoded, trie, some.candidates, noise)
    logp_of = token_logp(group.codes)
    placed = rewards.in_order(some.candidates, some.gains, group.items)
    for form in FORMS:
        credit = flexrec.credit(placed, best, form)
        both = [(grpo.advantages(credit, std=std) * logp_of)[learned].sum() for std in (False, True)]
        single[form].append([cosine(gradient(v), exact_gradient) for v in both])
ideal_orders = value == value.amax(1, keepdim=True)  # (B, 120)
log_p = every_logp.sum(2)
likeliest = log_p.masked_fill(~ideal_orders, -math.inf).argmax(1, keepdim=True)
sorted_logp = token_logp(trie.codes[rankings.by_score(some.gains, some.candidates)][:, None])
SUPERVISED = {
    "sorted, equals as they came": sorted_logp[learned].sum(),
    "sorted, equals in own order": log_p.gather(1, likeliest)[learned].sum(),
    "any of the best orders": log_p.masked_fill(~ideal_orders, -1e9).logsumexp(1)[learned].sum(),
}
sup = {name: cosine(gradient(v), exact_gradient) for name, v in SUPERVISED.items()}

figure, axes = plt.subplots(figsize=(7.5, 2.9))
for row, form in enumerate(FORMS):
    plain, scaled = torch.tensor(single[form]).T
    ring = axes.plot(expected[form], row, "ko", mfc="none", ms=7)
    dots = axes.plot(plain, [row - 0.13] * BATCHES, "C0.", ms=5)
    more = axes.plot(scaled, [row + 0.13] * BATCHES, "C1.", ms=5)
cross = axes.plot(list(sup.values()), range(4, 7), "kx", ms=6)
axes.axhline(3.5, color="0.85", lw=0.8)
axes.set_yticks(range(7), [*FORMS.values(), *sup], fontsize=8)
axes.invert_yaxis()
axes.set(xlabel="cosine with the exact gradient of expected NDCG", xlim=(0, 1.02))
names = ["expectation", "one batch", "one batch, divided by std", "supervised (below)"]
axes.legend([ring[0], dots[0], more[0], cross[0]], names, fontsize=8, loc="upper left")
plt.show()

# %% tags=["hide"]
mean = {form: torch.tensor(single[form]).mean(0).tolist() for form in FORMS}
book.say(
    f"List-level credit points in the right direction in the mean ({expected['list']:.3f}), but a batch of it "
    f"reaches {mean['list'][0]:.2f}. Causal swaps are slightly off in the mean ({expected['causal']:.3f}: off the "
    f"uniform policy they are no exact multiple of the advantage) and a batch reaches {mean['causal'][0]:.2f}. "
    f"Independent credit: {expected['independent']:.3f} and {mean['independent'][0]:.2f}. Dividing by the standard "
    f"deviation costs direction here: causal {mean['causal'][1]:.2f}, independent {mean['independent'][1]:.2f}."
)

# %% [markdown]
# ## Feedback that is missing
#
# So far all gains were known. In a log most are not: nobody has said what an item is worth to this user.
# FlexRec trains a **critic** that predicts the mean $\mu$ and the variance $s^2$ of a gain, and puts $\mu$
# where feedback is missing [paper]. It learns from the part that was seen, by the Gaussian NLL
#
# $$\frac{1}{2} \log s^2 + \frac{(g - \mu)^2}{2 s^2}$$

# %% tags=["hide"]
book.show(critic.loss, critic.fill)

# %%
vector = vectors.item_vectors(dataset, cfg.seed)
judge = critic.Critic(vector, dataset.periods, cfg.seed)
judge = critic.train_critic(judge, fresh, cfg.seed, steps=300)
print(f"{cfg.feedback:.0%} of the gains are observed")

# %% tags=["hide"] caption="Left: the candidates of user 17, whom the critic never saw either; bars are the critic's mean plus and minus one standard deviation. Right: users whom the critic never saw, sorted by its standard deviation and cut into ten parts."
whole = known.draw(mine, torch.tensor([0]))
mu, variance = judge(whole.batch, whole.candidates)
held = lists.make_lists(cfg, dataset, "valid")
other = held.draw(torch.arange(len(held)), torch.zeros(len(held), dtype=torch.int64))
its_mean, its_variance = judge(other.batch, other.candidates)
wrong_by = (other.gains - its_mean).square().flatten()[its_variance.flatten().argsort()]
parts = wrong_by.tensor_split(10)
sizes = its_variance.flatten().sort().values.tensor_split(10)
figure, (left, right) = plt.subplots(1, 2, figsize=(7.5, 2.7), width_ratios=[1.5, 1])
place = torch.arange(1, len(mu[0]) + 1)
left.errorbar(place, mu[0], variance[0].sqrt(), fmt="C0_", ms=9, lw=1.2, label="critic")
left.plot(place, whole.gains[0], "k.", ms=9, label="gain")
left.set(xlabel="candidate", ylabel="gain", ylim=(-0.15, 1.35))
left.set_xticks(place)
left.legend(fontsize=8, ncol=3, loc="upper center")
right.plot([0, 0.5], [0, 0.5], color="0.6", lw=1)
said_std, real_std = ([part.mean().sqrt().item() for part in x] for x in (sizes, parts))
right.plot(said_std, real_std, "C0o", ms=4)
right.set(
    xlabel="standard deviation that it says", ylabel="error that it makes (RMS)", xlim=(0, 0.5), ylim=(0, 0.5)
)
plt.show()

# %% tags=["hide"]
book.say(
    f"In the tenth where the critic is surest it says {said_std[0]:.2f} and errs by {real_std[0]:.2f}; in the "
    f"tenth where it is least sure it says {said_std[-1]:.2f} and errs by {real_std[-1]:.2f}. All these users "
    "are new to it."
)

# %% [markdown]
# ## How far to trust a list
#
# The reward of a list is then uncertain too. FlexRec divides by that [paper]:
#
# $$c_i = \frac{1}{u_i + \epsilon}, \qquad A_i \leftarrow c_i A_i$$
#
# with $u_i$ the variance of the reward, accumulated over the list. The weights are ours, for independent
# gains: $u = \sum_k d_k^2 s_k^2 / \mathrm{IDCG}^2$; so are $\epsilon$, a tenth of the mean $u$, and the
# rescaling of $c$ to mean 1.

# %% tags=["hide"]
book.show(flexrec.list_variance, flexrec.trust, flexrec.certainty)

# %% [markdown]
# One choice deserves a warning. The paper has a $c_i$ for each rollout. But a baseline may be subtracted
# because it does not depend on the rollout (chapter 5). Times $c_i$ it does, and no longer drops out: the policy is
# then paid for saying lists with another $c$, whatever they are worth. So by default a context has one $c$, made from
# the mean $u$ of its rollouts [ours]; `--uncertainty rollout` is the paper's. Here are the eight lists of user 17,
# with the weights of the paper. That their sum is no longer 0 is the sign of it:

# %%
ideal = rewards.ideal(asked.gains, 6)
doubt = judge(asked.batch, asked.candidates)[1]  # (1, 6) the critic's variance
u = flexrec.list_variance(rewards.in_order(asked.candidates, doubt, eight.items), ideal)
c = flexrec.trust(u)  # (1, 8)
placed = rewards.in_order(asked.candidates, asked.gains, eight.items)
a = grpo.advantages(rewards.ndcg(placed, ideal[:, None]))
print("c of each rollout", [round(x, 2) for x in c[0].tolist()])
print(f"sum of the advantages {a.sum():+.3f}, weighted {(c * a).sum():+.3f}")

# %% [markdown]
# ## What it brings
#
# The runs are too long for this page. `python -m bench.claims_lists --jobs 2` makes those on the world, and
# `python -m bench.real_lists runs/ml` those on MovieLens. The metric is NDCG@5 of greedy lists of ten, for
# test users and by true gains. On the world, the arms of a block start alike and differ in one setting, and in the
# learning rate, which is the better of two on another seed. On MovieLens floors and supervision stand beside them,
# and the rate is the best of three. There all gains are ratings, and all are observed.


# %% tags=["hide"] caption="Differences in NDCG@5 × 100, 95 % intervals. Left: the world, over seeds, minus the grey arm; orange is the need held out of training. Right: MovieLens latest-small, over test lists."
results, (films,) = book.tables("claims_flexrec"), book.tables("real_lists").values()
plain = results.pop("")  # those that were not trained by a reward
number = r"[+-][\d.]+"
ROWS = {"zero": "gaps are 0", "item mean": "item mean in gaps", "critic mean": "critic's mean in gaps"}
ROWS |= {f"critic mean, scaled per {one}": f"and a weight per {one}" for one in ("context", "rollout")}
claims, movie = {}, {}
figure, (left, right) = plt.subplots(1, 2, figsize=(7.5, 3.1), width_ratios=[1.15, 1])
y, names = 0, []
for table in results.values():
    left.axhline(y, color="0.85", lw=6, zorder=0)
    for name, cells in list(table.items())[1:]:  # below the names of the columns
        for cell, style, shift in zip(cells[6:], ("C0o", "C1s"), (-0.13, 0.13), strict=True):
            if cell:
                middle, half = map(float, cell.split(" ± "))
                left.errorbar(middle, y + shift, xerr=half, fmt=style, ms=4, lw=1.4)
                claims.setdefault(name, []).append((middle, half))
        names.append(ROWS.get(name, name))
        y += 1
left.axvline(0, color="0.3", lw=0.8)
left.set_yticks(range(len(names)), names, fontsize=8)
left.invert_yaxis()
left.set_xlabel("points")
for name, cells in films.items():
    found = [float(x) * 100 for x in re.findall(number, cells[-1])]
    if len(found) == 3:
        movie[name] = found
shown = [name for name in movie if name != "random"]
for y, name in enumerate(shown):
    middle, low, high = movie[name]
    right.errorbar(middle, y, xerr=[[middle - low], [high - middle]], fmt="C0o", ms=4, lw=1.4)
right.axvline(0, color="0.3", lw=0.8)
right.set_yticks(range(len(shown)), shown, fontsize=8)
right.invert_yaxis()
right.set_xlabel("points, minus list-level GRPO")
plt.show()


# %% tags=["hide"]
PAPER = {"independent": 0.461, "non-causal": 0.607, "causal": 0.621}  # NDCG@5


best = {
    i: max(float(row[i]) for table in results.values() for row in list(table.values())[1:]) for i in (3, 5)
}
assert all(float(plain["item mean"][i]) > best[i] for i in best)  # below the floor


def interval(name, held_out=False):
    return "{:+.2f} ± {:.2f}".format(*claims[name][held_out])


book.say(
    f"Credit: causal swaps against list-level GRPO {interval('causal (FlexRec)')} on the trained "
    f"needs and {interval('causal (FlexRec)', True)} on the held-out one; independent credit "
    f"{interval('independent')} and {interval('independent', True)}; non-causal swaps {interval('non-causal')}. "
    "Credit by position helps a little, and causal and independent credit cannot be told apart. In a closed set both "
    "pay a positive multiple of nearly the same thing, and normalising each position hides which multiple. The paper "
    f"has {PAPER['independent']} for independent, {PAPER['non-causal']} for non-causal and {PAPER['causal']} for "
    "causal [paper]. Neither its gap nor its closeness appears here. Part of that is ours: where each position is "
    "divided by its own std, the late ones, at which non-causal swaps have the wrong sign, speak as loudly as the "
    f"first. Undivided they point the right way in the mean ({expected['noncausal']:.2f}, figure of gradients)."
)
book.say(
    "Feedback, one gain in ten observed: the critic's mean in place of 0 brings "
    f"{interval('critic mean')} on the trained needs and {interval('critic mean', True)} on the held-out one. "
    "With its variance as a weight, the difference to the same arm is "
    f"{interval('critic mean, scaled per context')} per context and "
    f"{interval('critic mean, scaled per rollout')} per rollout, on the trained needs. (A gap filled with the mean of "
    f"the item's observed gains: {interval('item mean')}.)"
)
book.say(
    "MovieLens, against list-level GRPO: causal swaps {:+.2f} ({:+.2f} to {:+.2f}); ".format(
        *movie["FlexRec, not scaled"]
    )
    + "with one weight per context, {:+.2f} ({:+.2f} to {:+.2f}); the paper's form, per rollout, was not run. ".format(
        *movie["FlexRec"]
    )
    + "And the mean rating of each item, which knows nothing of the user: {:+.2f}. ".format(
        movie["item mean"][0]
    )
    + "A policy over lists has a floor too, and on MovieLens none reaches it. On the world the mean over the trained "
    f"needs is the other way: NDCG@5 × 100 is {plain['item mean'][1]} for the item mean and {plain['list start'][1]} at "
    f"the list start. But for explore the item mean has {plain['item mean'][3]} and the best arm {best[3]:.2f}; on the "
    f"held-out need {plain['item mean'][5]} and {best[5]:.2f}. What credit brings there is brought below a floor."
)

# %% [markdown]
# ## Why not simply sort?
#
# Swap rewards need a gain for every candidate, seen or filled in. But whoever has those can sort, and knows
# the best list. Then nobody has to sample: one takes the NLL of the best order, as for clicks.

# %% tags=["hide"]
book.show(imitate)

# %% [markdown]
# `by_score` puts the candidates in the order of falling scores. `minimise` calls `loss` for each step and updates
# by it, as chapter 0 does. Every position is given the answer instead of a grade. A step scores one list per
# context, where RL samples $G$ and then scores them. One expects it to win, and it is the control that each RL
# result on lists has to be held against. Two things stand in its way. Both can be seen in the last rows of the
# figure of gradients.

# %% tags=["hide"]
rows = [place for place, need in enumerate(lists.NEEDS) if need != lists.HELD_OUT]
every_gain = fresh.gains[rows].flatten(0, 1)  # of the trained needs, (3 S, C)
one, two = torch.triu_indices(cfg.candidates, cfg.candidates, 1)
tied = (every_gain[:, one] == every_gain[:, two]).double().mean().item()
came, own, any_best = sup.values()
book.say(
    f"**Equals.** Of all pairs of candidates in a set, {tied:.0%} have equal gains. NDCG does not care in which "
    "order they come; NLL must be told one. Sorting leaves them as they came, at random, and NLL learns that "
    f"order with the same zeal: its gradient has a cosine of {came:.2f} with that of NDCG. With equals in the "
    f"order that the policy itself finds likeliest it is {own:.2f}; with the likelihood of *any* best order, "
    f"which only enumeration can give, {any_best:.2f}."
)

# %% [markdown]
# **All that is nearly right.** NLL weighs the last position like the first, and knows one answer or none;
# NDCG grades every list by how near it comes. So even the last row is not at 1. Where a policy can learn the
# best order for everybody, both wishes end in the same place. Where it must choose, they do not.
#
# So before one compares supervision with RL, one should repair it. Three runs of the same length, on the same
# sets, with all gains known:

# %%
plain = {"feedback": 1.0, "uncertainty": "none"}
own = objectives.settings_of(cfg, "flexrec", rl_steps=24, rl_rate=1e-3, **plain)
whole = lists.make_lists(own, dataset, "train")  # the sets, with all gains
task = tasks.Rankings(own, trie, whole, partial(critic.fill_lists, judge))
learner = loop.Learner(own, start, trie)
for step in range(own.rl_steps):
    loop.reinforce(learner, task, objectives.OBJECTIVES["flexrec"], step)


def sort(scores):
    """List-wise supervision: the NLL of the order by some scores."""
    return imitate(own, start, trie, whole, scores)


def own_order(x):
    """Gains; among equal ones, the policy's own scores."""
    return x.gains + 1e-6 * next_item_scores(run.policy, trie, x)


models = {
    "list start": start,
    "sorted, equals as they came": sort(lambda x: x.gains),
    "sorted, equals in own order": sort(own_order),
    "causal swaps": learner.policy,
}
test = lists.make_lists(cfg, dataset, "test")
scores = {}
for name, model in models.items():
    found = rankings.trained_needs(rankings.rank_for_needs(model, trie, test))  # (needs, S) ndcg@5
    scores[name] = found.mean(0)  # (S,), NaN where a need has no gain
print("\n".join(f"{name:30} {value.nanmean():.4f}" for name, value in scores.items()))

# %% tags=["hide"]
as_came, in_own, swapped = (scores[name] for name in list(models)[1:])
both = ~(as_came - in_own).isnan()
gap = metrics.paired_bootstrap(in_own[both], as_came[both], 0)
lead = metrics.paired_bootstrap(swapped[both], in_own[both], 0)
supervised = movie["list-wise supervised"]
book.say(
    "One seed, one rate. The order of equals alone makes a difference of {:+.4f} ({:+.4f} to {:+.4f} over "
    "users). ".format(*gap)
    + "Causal swaps minus the repaired supervision: {:+.4f} ({:+.4f} to {:+.4f}).".format(*lead)
)
book.say(
    "And the results? On MovieLens list-wise supervision is at "
    "{:+.2f} ({:+.2f} to {:+.2f}) against list-level GRPO. ".format(*supervised)
    + "It is the plain one, with equals as they came, so this is not yet a victory of RL over the best that "
    "supervision can do. In the tables of `bench/results` no policy trained by supervision is above RL either; the "
    "item mean, a count, is."
)

# %% [markdown]
# ## Where RL earns its place
#
# - **Where the reward is indifferent.** It grades what the policy says, and has nothing to say about the
#   order of equals. Nothing must be invented.
# - **Where positions count differently.** The discount is in the reward. A policy that cannot please
#   everybody learns first what is worth most.
# - **Where there is nothing to sort.** A page may be worth more than the sum of its items: five films of one
#   series are not five times one. Then no gain per item exists, and no best order is at hand. A reward of the
#   whole list can still be computed, and swaps can be carried out, as in `swap_literal`; the first exercise
#   does that.
#
# The closed form asks for gains per item. Exactly there sorting is possible too. So where swap rewards are
# cheapest, RL is needed least.
#
# ## Exercises
#
# - Build: [`exercises/ch08_build.py`](exercises/ch08_build.py). Swap rewards for any reward of a list.
# - Find the bug: [`exercises/ch08_bug.py`](exercises/ch08_bug.py). Swap rewards of lists that a policy
#   said, with a mistake that no list of two items can show.
#
# `pytest tutorials/exercises -k ch08` says when you are done; ours are in `solutions/`.
#
# ## What you can do now
#
# Rank closed sets for a need (`rollout.rank`), split NDCG over positions and know what each way of splitting
# pays (`flexrec.credit`), fill in missing gains and weigh contexts (`critic`). A whole run:
# `python -m minirec.train --tiny --objective flexrec`.
#
# ## What we left out
#
# - Candidates in the prompt: the policy here sees the history and the need, and a mask keeps it to the set.
# - A cut-off in training: NDCG@5 is reported, all positions are trained. `ops.swap_ndcg(..., cutoff=5)` exists.
# - Sets of 30 as in the paper, and real logs: how windows of a log become sets is in `minirec/data/lists.py`.
# - Trusting observed gains fully (variance 0): it trusts exactly the entries that are noisy.
#
# ## Next
#
# [9 · Did it work?](ch09_did_it_work.md): how do you know that a method works?
