# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 6 · AdaGRPO: whom to trust
#
# **When may a reward teach?**
#
# A ranker has a reward for every item and every user. For some users it is right, for others it is wrong,
# and the reward itself does not say for whom (chapter 4). But there was a click. AdaGRPO asks, context by
# context, two questions that the click can answer, and lets the reward teach only where both say yes
# [paper: 2606.08480]. The answers come from the group that was rolled out anyway.

# %%
# introduces: minirec.objectives.adagrpo
import math
from dataclasses import replace
from functools import partial

import book
import matplotlib.pyplot as plt
import strata
import torch

from minirec import objectives, tasks
from minirec.data.dataset import contexts
from minirec.measure import exact
from minirec.models import ranker
from minirec.objectives import adagrpo, grpo
from minirec.records import HOLE

run = book.trained()
trie, dataset = run.trie, run.dataset
cfg = objectives.settings_of(run.cfg, "adagrpo")  # rollouts without a mask, a ranker's reward
truth = dataset.world
fresh = contexts(dataset.fresh)  # of users that supervised training never saw
task = tasks.NextItem(cfg, trie, fresh, ranker.designed(truth, "harmful"))
batches = [task.act(run.policy, step) for step in range(25)]  # rolled out; nothing is learned here
parts = zip(*map(adagrpo.ranks, batches), strict=True)
by_policy, by_ranker, negatives, short = map(torch.cat, parts)  # ranks, of all contexts
D, Q = adagrpo.diagnose(by_policy, by_ranker, negatives, cfg.group, cfg.tau, cfg.rho)
admitted = D & Q & ~short

# %% tags=["hide"] caption="The gate's plane, under a ranker that is right for half of the users and harmful for the others. A dot is a context."
in_b = truth.tail_user[torch.cat([x.batch.user for x in batches])]
G = cfg.group


def plane(axes, values: torch.Tensor) -> None:
    """Contexts by difficulty and something else, coloured by whether the ranker is right there."""
    moved = torch.rand(2, len(values), generator=book.stream(0, 0)) * 0.8 - 0.4
    x, y = by_policy + moved[0], values + moved[1]
    for wrong, color in ((False, "C0"), (True, "C1")):
        for inside in (False, True):
            some = (in_b == wrong) & (admitted == inside)
            style = {"fc": color, "s": 11} if inside else {"fc": "none", "alpha": 0.55, "s": 7}
            axes.scatter(x[some], y[some], ec=color, lw=0.5, **style)
    axes.set(xlim=(0.4, G + 1.6), ylim=(0.4, G + 1.6), xlabel="rank of the click by the policy")
    axes.set(xticks=range(1, G + 2, 4), yticks=range(1, G + 2, 4))
    axes.axvline(cfg.tau * G + 0.5, color="k", lw=0.8)
    axes.spines[:].set_visible(False)


figure, (first, second) = plt.subplots(1, 2, figsize=(7.5, 3.7))
plane(first, by_ranker)
plane(second, negatives.amin(1))
first.axhline(cfg.tau * G + 0.5, color="k", lw=0.8)
second.axhline(cfg.rho * G + 0.5, color="k", lw=0.8)
first.invert_yaxis()
first.set(ylabel="rank of the click by the ranker", title="does the ranker put the click on top?")
second.set(ylabel="best rank among five negatives", title="does it put others' items below?")
for style, name in (
    ({"fc": "none", "ec": "C0", "lw": 0.5}, "the ranker is right"),
    ({"fc": "none", "ec": "C1", "lw": 0.5}, "it is wrong"),
    ({"c": "C0"}, "right, admitted"),
    ({"c": "C1"}, "wrong, admitted"),
):
    first.scatter([], [], s=14, label=name, **style)
figure.legend(
    *first.get_legend_handles_labels(), loc="outside lower center", ncol=4, fontsize=8, frameon=False
)
plt.show()

# %% tags=["hide"]
book.say(
    f"A context is admitted if it lies right of the vertical line and above the horizontal one in *both* panels: "
    f"{admitted.double().mean():.0%} of them do. The ranker is right in {(~in_b).double().mean():.0%} of all "
    f"contexts, and in {(~in_b)[admitted].double().mean():.0%} of the admitted ones. The gate was never told "
    "which. (Ranks are whole numbers; dots are moved a little, so that they do not hide each other.)"
)

# %% [markdown]
# ## The gate
#
# $$L(x) = \mathrm{NLL}(g | x) + \lambda \alpha(x) \mathrm{GRPO}(x), \qquad \alpha(x) = D(x) Q(x)$$
#
# Supervised learning always goes on; the reward joins where the gate $\alpha$, 0 or 1, is open [paper]. $D$,
# **difficulty**: does the policy need help? $Q$, **discriminability**: can the ranker give it?
#
# $$
# D(x) = \mathbf{1}[\mathrm{rank}_\pi(g) > \tau G], \qquad
# Q(x) = \mathbf{1}[\mathrm{rank}_R(g) \le \tau G] \prod_{m=1}^{M} \mathbf{1}[\mathrm{rank}_R(n_m) > \rho G]
# $$
#
# $n_1 \dots n_M$ are items that the policy said to *other* users: negatives. $M = 5$ and the form are the
# paper's, and so is it that every negative must pass. That to pass means to lie beyond the first $\rho$ of the
# group is our reading of an ambiguous
# source; $\tau = 1/8$, $\rho = 1/4$ and $\lambda = 1$ are ours, for the paper's are not known.

# %% tags=["hide"]
book.show(adagrpo.diagnose)

# %% tags=["exact"]
click = torch.tensor([2, 3, 3, 3]), torch.tensor([1, 2, 3, 1])  # by the policy, by the ranker
others = torch.tensor([[9, 9], [5, 9], [9, 9], [4, 9]])  # M = 2
for half in adagrpo.diagnose(*click, others, 16, tau=1 / 8, rho=1 / 4):  # D, then Q
    print(half.int().tolist())
try:
    adagrpo.diagnose(*click, others, 4, tau=1 / 8, rho=1 / 4)
except ValueError as error:
    print(error)

# %% [markdown]
# Four contexts. The first is too easy; the second is admitted; the ranker puts the third's click too low, and
# a negative of the fourth too high.
#
# ## Ranks, not scores
#
# A log-probability and a ranker's score have no common unit, and a score of .8 may be high for one user and
# low for another. So thresholds are on ranks within the group [paper]. The click stands among the rollouts as
# if it had been one of them: the policy scores it by teacher forcing, the ranker as any item [ours].
#
# $$\mathrm{rank}_\pi(g) = 1 + \sum_{i=1}^{G} \mathbf{1}[\log \pi(y_i | x) > \log \pi(g | x)]$$

# %% tags=["hide"]
book.show(adagrpo.rank)

# %% [markdown]
# and so $\mathrm{rank}_R$ with rewards, and for each negative [ours]. The second half of `above` is there for rounding. If $g$ itself was rolled out, its log-probability was
# computed twice, in two passes that may differ in the last bit. An item is not above itself, so ids decide
# [ours]. Now our user, in a batch with seven others, and the *right* ranker:

# %%
row = int((dataset.train.user == book.USER).nonzero()[0])
eight = dataset.train.select(torch.arange(row, row + 8))  # as if they had been left to RL
right = tasks.NextItem(cfg, trie, contexts(eight), ranker.designed(truth, "right"))
last = dataset.train.events[dataset.train.stop[row] - 1]  # the click that the book asks for
for step in range(99):  # until it comes up
    x = right.act(run.policy, step)
    found = (x.batch.user == book.USER) & (x.batch.targets[:, 0] == last)
    if found.any():
        break
mine = int(found.nonzero()[0])
place, known, others, _ = adagrpo.ranks(x)

click = x.batch.targets[:, :1]
likely = torch.cat([x.rollout.logp[mine].sum((1, 2)), x.logp(click)[mine]]).exp()
worth = torch.cat([x.rewards[mine], x.reward(click)[mine]])
names = ["hole" if item == HOLE else str(item) for item in x.rollout.items[mine, :, 0].tolist()]
names.append(f"{int(last)}, the click")
print("probability  score  item")
for at in likely.argsort(descending=True, stable=True).tolist():
    print(f"{likely[at]:11.5f} {worth[at]:6.3f}  {names[at]}")

# %% tags=["hide"]
difficult, separated = adagrpo.diagnose(place, known, others, G, cfg.tau, cfg.rho)
d, q = bool(difficult[mine]), bool(separated[mine])
book.say(
    f"By the policy the click has rank {place[mine]} of {G + 1} places: {'difficult' if d else 'not difficult'}. By the "
    f"ranker it has rank {known[mine]}, and the negatives have {', '.join(map(str, others[mine].tolist()))}: "
    f"{'discriminable' if q else 'not discriminable'}. So the gate is {'open' if d and q else 'shut'}. "
    f"The click has a probability of {dataset.law(x.batch)[mine, last]:.4f} under the law. The gate asks whether "
    "the ranker agrees with *this click*, and a click is one draw: where it was an unlikely one, a ranker that "
    "is right has nothing to show."
)

# %% [markdown]
# ## Negatives
#
# A ranker that gives high scores to everything also puts the click high. The negatives catch it: items that
# fit *somebody else* in the batch should not be near the top for this user. They need no
# rollouts and no other model [paper], only $M$ more scores of the ranker for each context. Which ones are drawn is ours: distinct, no holes, never the target, none of this
# context's own rollouts. Where fewer than $M$ are left, the gate stays shut.
# [`cross_sample_negatives`](../minirec/objectives/adagrpo.py) on three contexts:

# %% tags=["exact"]
groups = torch.tensor([[4, 4, HOLE], [5, 6, 4], [7, 5, 8]])  # (B, G)
clicks = torch.tensor([[6], [1], [2]])
noise = torch.linspace(0.9, 0.1, 9).double().expand(3, -1)  # of items 4 to 8: the lowest are drawn
print(adagrpo.cross_sample_negatives(groups, torch.arange(3), clicks, noise, size=3))

# %% [markdown]
# Two of the three have only two items to draw from; -1 fills up.

# %% [markdown]
# ## Which half does the work?
#
# Rollouts are samples of the policy. Suppose that the policy knew the law. Then the click is one more sample:
# $G + 1$ draws from one distribution, and any of them is as likely to have a given rank as any other, if no item
# comes twice. With $\tau = 1/8$ and $G = 16$, $D$ would be open in 15 of 17 contexts. Items do come twice, and an
# item is not above itself: where one item has most of the probability, the click is that item, its rank is 1, and
# $D$ is shut. So with sampled groups $D$ asks how spread the policy is, and where it is spread, $D$ is open almost
# everywhere [ours].
#
# On a catalogue that can be enumerated one need not suppose. A rollout scores above the click with a
# probability that is a sum over all tuples; so the number of those above is binomial, and its mean over clicks
# drawn from the law is a sum as well.

# %%
every = exact.every_tuple(trie.levels, trie.size)  # all V^L tuples: rollouts have no mask
tuples = trie.lookup(every.codes)
catalogue = torch.arange(len(trie)).expand(cfg.contexts, -1)
with torch.no_grad():
    prompts = [run.policy.encode(x.batch.condition, trie.encode(x.batch.history)) for x in batches]
    said = torch.cat([exact.item_logprobs(run.policy, prompt, every) for prompt in prompts])
said = said.double().exp()  # (contexts, V^L), the policy's probabilities
law = torch.cat([dataset.law(x.batch) for x in batches])[:, tuples] * (tuples != HOLE)


def score(rank) -> torch.Tensor:
    """What a ranker gives to every tuple, (contexts, V^L); a hole scores 0."""
    given = torch.cat([rank(x.batch, catalogue) for x in batches])
    return given[:, tuples].double() * (tuples != HOLE)


# %% tags=["hide"] caption="Where the click stands in its group. Bars: as counted. Lines: exact, over all groups and all clicks. Dotted: all ranks equally likely."


def above(value: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """The policy's probability of a tuple valued above ``own`` (B, n), by the values (B, V^L) of all."""
    order = value.argsort(1, descending=True)
    total = torch.nn.functional.pad(said.gather(1, order).cumsum(1), (1, 0))
    return total.gather(1, torch.searchsorted(-value.gather(1, order), -own)).clamp(0, 1)


def exact_ranks(value: torch.Tensor) -> torch.Tensor:
    """Per context, the distribution of the rank over groups and over clicks drawn from the law, (B, G+1)."""
    item = tuples != HOLE
    p = above(value, value[:, item].contiguous())
    ways = [math.comb(G, k) * p**k * (1 - p) ** (G - k) for k in range(G + 1)]
    return torch.stack([(way * law[:, item]).sum(1) for way in ways], 1)


of_policy, of_ranker = exact_ranks(said), exact_ranks(score(ranker.designed(truth, "harmful")))
figure, panels = plt.subplots(1, 3, figsize=(7.5, 2.7), sharey=True)
SIDES = (
    ("by the policy", by_policy, of_policy, in_b | True, "0.6"),
    ("by the ranker where it is right", by_ranker, of_ranker, ~in_b, "C0"),
    ("by the ranker where it is wrong", by_ranker, of_ranker, in_b, "C1"),
)
for axes, (name, values, line, who, color) in zip(panels, SIDES, strict=True):
    axes.bar(
        range(1, G + 2), torch.bincount(values[who], minlength=G + 2)[1:] / who.sum(), color=color, alpha=0.6
    )
    axes.plot(range(1, G + 2), line[who].mean(0), "k.-", lw=0.8, ms=4)
    axes.axhline(1 / (G + 1), color="0.4", lw=0.8, ls=":")
    axes.axvline(cfg.tau * G + 0.5, color="k", lw=0.8)
    axes.set(xlabel="rank of the click", xticks=range(1, G + 2, 4))
    axes.set_title(name, fontsize=9)
panels[0].set_ylabel("share of contexts")
plt.show()

# %% tags=["hide"]
inside = int(cfg.tau * G)
book.say(
    f"$D$ is open right of the line in the first panel: in {D.double().mean():.0%} of the contexts, exactly "
    f"{1 - of_policy[:, :inside].sum(1).mean():.0%}. The policy is nearly right, so ranks are "
    "nearly even but for a peak at 1: clicks that are themselves among the rollouts, and an item is not above itself. "
    "So $D$ hardly asks anything. The first clause of $Q$ is open left of the line in the two others: in "
    f"{of_ranker[~in_b, :inside].sum(1).mean():.0%} of the contexts where the ranker is right, and in "
    f"{of_ranker[in_b, :inside].sum(1).mean():.0%} where it is wrong. $Q$ does the work. (Beams are another "
    "matter: they are the policy's top list, and a rank among them says what the policy knows.)"
)

# %% [markdown]
# ## Is the ranker right here?
#
# *Right* can be made exact, without asking how a ranker was made. Follow the reward for a small step: the
# policy becomes $\pi_\eta \propto \pi e^{\eta A}$, where $A = (r - \bar r) / \sigma_r$ is GRPO's advantage in
# a large group. Its expected hit is $J^{\ast} = \sum_y \pi_\eta(y) p^{\ast}(y)$, and at the start of the step
# [definition]
#
# $$\frac{dJ^{\ast}}{d\eta} = \mathrm{Cov}_\pi(A, p^{\ast})$$
#
# Where that is positive, what is paid more is clicked more, and the reward may teach. This is one number per
# context, for any ranker.

# %%
RANKERS = {kind: ranker.designed(truth, kind) for kind in ("right", "noise", "harmful")}
RANKERS["trained"] = ranker.trained_on_exposures(truth, n=200 * cfg.world_users, seed=0)


def effect(rank) -> torch.Tensor:
    """Cov(A, p*) of every context: what a small step along a reward does to the expected hit."""
    reward = score(rank)
    centred = reward - (said * reward).sum(1, keepdim=True)
    return (said * centred * law).sum(1) / (said * centred.square()).sum(1).sqrt()


def ranks(rank) -> tuple[torch.Tensor, ...]:
    """What the gate reads of the same rollouts, where another ranker gives the rewards."""
    parts = []
    for x in batches:
        reward = partial(rank, x.batch)
        parts.append(adagrpo.ranks(replace(x, rewards=reward(x.rollout.items[..., 0]), reward=reward)))
    return tuple(map(torch.cat, zip(*parts, strict=True)))


print("ranker   gate     admitted  right there  effect, points")
kept, placed = {}, {}
for kind, rank in RANKERS.items():
    effects = effect(rank)
    *placed[kind], few = ranks(rank)
    d, q = adagrpo.diagnose(*placed[kind], cfg.group, cfg.tau, cfg.rho)
    q &= ~few  # fewer than M negatives
    for name, inside in {"all": d | True, "D": d, "Q": q, "D and Q": d & q}.items():
        kept[kind, name] = 100 * effects[inside].mean()
        share, right = inside.double().mean(), (effects[inside] > 0).double().mean()
        print(f"{kind:8} {name:8} {share:8.2f} {right:12.2f} {kept[kind, name]:15.2f}")
    kept[kind, "share"] = share  # of the last

# %% tags=["hide"]
book.say(
    "The effect is in points of expected hit per unit of $\\eta$. For the harmful ranker the mean over all "
    f"contexts is {kept['harmful', 'all']:+.2f}: what it teaches one half it unteaches the other. Behind the gate it "
    f"is {kept['harmful', 'D and Q']:+.2f}. For the right ranker the gate takes it from {kept['right', 'all']:+.2f} to "
    f"{kept['right', 'D and Q']:+.2f}: there is nothing to keep out."
)
easy = 100 * effect(RANKERS["right"])[by_policy <= cfg.tau * G].mean()
more = [kept[kind, "Q"] - kept[kind, "D and Q"] for kind in RANKERS]
book.say(
    f"$Q$ alone does better than both, by {min(more):.1f} to {max(more):.1f} points. The reason is in the first "
    f"block. The contexts that $D$ turns away are those in which the right ranker's effect is largest, {easy:.1f}: "
    "the policy is near the click there, and a step along a good reward moves much probability. That the reward "
    "helps most where the policy is unsure [paper] is not so here, for this measure and with sampled groups."
)

# %% [markdown]
# The trained ranker is the hardest case. It is not made right or wrong; for most users it is something in
# between (chapter 4). A gate by context can refuse a user. It cannot refuse half of a ranking.
#
# ## What runs do
#
# That was a step that nobody took. Runs have been made, from the same start: five gates, three
# rankers, several seeds, each with a world of its own. Each arm has the best of three learning rates by HR@10 on two
# other seeds (for all it was the lowest); Pass@1 had no choice of its own. All arms have NLL on, and about the
# same total weight of the reward: $\lambda$ is divided by the share that a gate admitted on another seed. Otherwise
# a gate of a tenth trains a tenth as much, and looks robust. The *random gate* admits as many contexts as $D$ and $Q$ together, but any; with
# equal weight its expected effect is that of *all*.

# %% tags=["hide"] caption="Fifteen arms: what enumeration says of the first step, and what runs came to, against supervised continued. Bars are 95 % intervals over seeds."
results = book.tables("claims_adagrpo")


def claimed(kind: str, arm: str, column: str, nth: int = 0) -> tuple[float, float]:
    """A difference of the committed table of a ranker and its half-width, in points."""
    place = [at for at, name in enumerate(results[kind]["arm"]) if name == column][nth]
    middle, half = map(float, results[kind][arm][place].split(" ± "))
    return middle, half


ARMS = {
    "mixture": "all",
    "random gate": "all",
    "difficulty": "D",
    "discriminability": "Q",
    "AdaGRPO": "D and Q",
}
MARKS = {"mixture": "o", "random gate": "x", "difficulty": "v", "discriminability": "^", "AdaGRPO": "s"}
COLOURS = {"right": "C0", "noise": "0.55", "harmful": "C1"}
figure, panels = plt.subplots(1, 2, figsize=(7.5, 3.6), sharex=True)
pairs = []
for nth, (axes, name) in enumerate(zip(panels, ("Pass@1 (expected hit)", "hr@10"), strict=True)):
    for kind, color in COLOURS.items():
        for arm, gate in ARMS.items():
            y, half = claimed(kind, arm, "minus continued", 1 - nth)
            x = kept[kind, gate].item() + {"mixture": -0.06, "random gate": 0.06}.get(arm, 0)
            axes.errorbar(x, y, half, fmt=MARKS[arm], color=color, ms=5, lw=0.7, mew=1)
            pairs += [(kept[kind, gate].item(), y)] if nth == 0 else []
    axes.axhline(0, color="k", lw=0.8)
    axes.set(xlabel="exact effect of the admitted (points per unit η)", title=name)
panels[0].set_ylabel("minus supervised continued (points)")
for arm, mark in MARKS.items():
    panels[0].plot([], [], mark, color="k", ms=5, label=arm)
for kind, color in COLOURS.items():
    panels[0].plot([], [], "-", color=color, lw=3, label=f"ranker: {kind}")
figure.legend(
    *panels[0].get_legend_handles_labels(), loc="outside lower center", ncol=4, fontsize=8, frameon=False
)
plt.show()

# %% tags=["hide"]
order = torch.tensor(pairs).argsort(0).argsort(0).double()  # (15, 2) ranks of both; ties as they come
alike = torch.corrcoef(order.T)[0, 1]
harmful = {
    arm: claimed("harmful", arm, "ours minus it", 1)
    for arm in (*ARMS, "supervised continued")
    if arm != "AdaGRPO"
}
say = {arm: f"{middle:+.2f} ± {half:.2f}" for arm, (middle, half) in harmful.items()}
book.say(
    f"On the left, the order that enumeration gives to one step is much the order of the runs: over the fifteen arms "
    f"the rank correlation is {alike:.2f}. With the harmful ranker, Pass@1 of AdaGRPO minus that of supervised continued is "
    f"{say['supervised continued']} points, minus the fixed mixture {say['mixture']}, minus the random gate "
    f"{say['random gate']}, minus difficulty alone {say['difficulty']}, minus discriminability alone "
    f"{say['discriminability']}."
)
nothing = {kind: claimed(kind, "AdaGRPO", "minus continued", 0) for kind in COLOURS}
every_arm = [claimed(kind, arm, "minus continued", 0) for kind in COLOURS for arm in ARMS]
top, worse = max(middle for middle, _ in every_arm), sum(middle + half < 0 for middle, half in every_arm)
told = [kind for kind in COLOURS if (v := claimed(kind, "random gate", "ours minus it", 0))[1] < abs(v[0])]
start, kNN, law_itself = (results["adagrpo"][name][0] for name in ("start", "item-kNN", "true law"))
book.say(
    f"On the right, on hr@10, {worse} of the fifteen arms are below supervised continued by more than their "
    f"interval, and the best of them is at {top:+.2f} points. AdaGRPO: "
    + ", ".join(f"{middle:+.2f} ± {half:.2f} ({kind})" for kind, (middle, half) in nothing.items())
    + f". From the random gate it is told apart with {' and '.join(told) or 'none'} of the rankers. (The start has an "
    f"hr@10 of {start}, item-kNN {kNN}, the true law {law_itself}.) A reward asks for one "
    "good item (chapter 4), and hr@10 for a list of them. The paper reports the opposite sign on HR@10, a gain from "
    "11.01 % to 12.18 % at its best checkpoint, with its own ranker and data [paper]. The runs are in `bench/results/claims_adagrpo.md`, by `python -m bench.claims adagrpo`; the first step is "
    "of the world of this book, which is none of theirs."
)

# %% [markdown]
# ## The price
#
# A gate that admits a tenth makes its step from a tenth of the groups, each ten times as heavy. If contexts are
# about equally noisy, the noise of the step grows as $1 / \sqrt{\mathrm{share}}$ [ours]. So a gate must first
# pay for what it throws away.

# %% tags=["hide"]
line = "; ".join(
    f"{kind}: effect {kept[kind, 'D and Q']:.1f}, admitted {kept[kind, 'share']:.0%}, Pass@1 "
    f"{claimed(kind, 'AdaGRPO', 'minus continued', 1)[0]:+.2f}"
    for kind in COLOURS
)
book.say(
    f"The three squares of the last figure: {line}. There is more to that than noise: what is kept of the "
    "harmful ranker teaches users of one half alone, about twice as hard. So few seeds cannot tell these two causes apart."
)

# %% [markdown]
# Thresholds are a knob on this trade. A looser gate admits more; a gate that is loose enough also admits contexts
# where the ranker is wrong, as with ρ = 0, which asks no negative at all. Ranks are computed once, a threshold is
# only a comparison. With the harmful ranker:

# %%
KNOBS = (1 / 16, 0.25, 5), (1 / 8, 0.25, 5), (1 / 2, 0.25, 5), (1 / 8, 0, 5), (1 / 8, 0.25, 1)
for tau, rho, count in KNOBS:
    d, q = adagrpo.diagnose(by_policy, by_ranker, negatives[:, :count], G, tau, rho)
    inside = d & q & ~short
    share, right = inside.double().mean(), (~in_b)[inside].double().mean()
    print(f"τ = {tau:<7g} ρ = {rho:<5g} M = {count}:  admitted {share:.3f}, right {right:.3f}")

# %% [markdown]
# ## A trap in the analysis
#
# The paper sorts contexts into cells of difficulty and discriminability, and finds that the ranker's mean
# effect is about zero over all of them and strong in the hard cells of high discriminability [paper]. The
# measure here: by how many places the ranker puts the click higher than the policy [ours]. The harmful ranker,
# over all users; beside it the noise ranker over half B alone, where it knows nothing (chapter 4). Columns are low,
# middle and high discriminability:

# %%
for kind, who in (("harmful", in_b | True), ("noise", in_b)):
    policy, click, others = (value[who] for value in placed[kind])
    gain = (policy - click).double()
    mean, _ = strata.stratify(policy / G, others.amin(1) / G, gain, bins=3)
    rise = (mean[:, -1] - mean[:, 0]).mean()
    print(f"{kind}, {int(who.sum())} contexts: {gain.mean():+.1f} places; along a row {rise:+.1f}")
    for name, cells in zip(("easy", "middle", "hard"), mean, strict=True):
        print(f"  {name:7}", "".join(f"{cell:+8.1f}" for cell in cells))

# %% [markdown]
# From left to right, discriminability grows. A context is hard because the click has a bad rank by the policy.
# Any other opinion puts it higher, and so does a coin: a gain in the hard row is no sign of a good ranker. What
# a good one adds shows along a row, from left to right, and there the two tables differ.
#
# ## Without a mask
#
# AdaGRPO's rollouts here have no mask, and a hole has reward 0, below every item [ours]. The paper measures
# hallucination beside HR@10 [paper], so holes must be able to happen. And a hole that cannot be drawn cannot
# be punished: under the trie a rewarded item lifts its codes, and with them the holes that share them.

# %%
hole = torch.cat([x.rollout.items[..., 0] for x in batches]) == HOLE  # (contexts, G)
advantage = grpo.advantages(torch.cat([x.rewards for x in batches]))
print(f"holes among the rollouts  {hole.double().mean():.4f}")
print(f"exactly                   {said[:, tuples == HOLE].sum(1).mean():.4f}")
print(f"mean advantage of a hole  {advantage[hole].mean():+.2f}")
print(f"of an item                {advantage[~hole].mean():+.2f}")

# %% [markdown]
# ## In the loop
#
# All of it is one function. What the gate shuts out is not in the `Signal`, so no forward pass sees it; the NLL
# of its target stays. The loss is divided by all contexts of the batch, whatever is admitted [ours]. The first
# number of `x.noise` is the control's: it deals out the same admissions at random. `convention(cfg)` is how the
# settings answer the questions of chapter 5: which std, which ε, which baseline.

# %% tags=["hide"]
book.show(adagrpo.signal)

# %% [markdown]
# ## When a gate helps, and when it cannot
#
# | the ranker | the gate |
# |---|---|
# | is wrong with confidence, for some users | helps the expected hit, against a mixture and a random gate; not shown on hr@10 |
# | is noise, for some users | keeps the noise out; but noise averages out over contexts, and so does its harm |
# | is right for everybody | can only turn away: it pays with groups and gets nothing |
# | is wrong for some items of every user | cannot help: it decides by context |
# | is right, and the click was an unlikely one | is shut, as for user 17 |
# | wants something else than the table measures | cannot help: admitted is not the same as wanted |
#
# In one line: a gate protects from *bias that a click can see*. It does not make a reward better. And of its two
# halves, $Q$ is the one that looks at the ranker.
#
# ## Exercises
#
# - Build: [`exercises/ch06_build.py`](exercises/ch06_build.py). The probability that the gate of a context opens, over all groups that
#   might have been rolled out, exactly.
# - Find the bug: [`exercises/ch06_bug.py`](exercises/ch06_bug.py). A program that says which contexts are difficult. It is most wrong
#   about the easiest.
#
# `pytest tutorials/exercises -k ch06` says when you are done; ours are in `solutions/`.
#
# ## What you can do now
#
# Ask of a reward, context by context, whether it may teach (`adagrpo.ranks`, `adagrpo.diagnose`). Hold a gate
# against the truth and against a random gate of the same rate, before any training. Run it:
# `python -m minirec.train --tiny --objective adagrpo --gate random --ranker trained`.
#
# ## What we left out
#
# - On real data nobody knows where a ranker is right. `bench/results/real.md` has the gate on Amazon Beauty,
#   where no arm is above supervised continued.
# - Several processes: negatives come from the contexts of all of them, by `x.gather`.
# - Soft gates, and thresholds that are learned. The paper's gate is binary.
#
# ## Next
#
# [7 · ReCast: repair, then contrast](ch07_recast.md): what can be learned from a group without a hit?
