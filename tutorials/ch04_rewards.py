# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 4 · Rewards, and how they mislead
#
# **What does each reward want?**
#
# A reward is a number for each item. Reinforcement learning moves probability to where the number is high,
# and asks nothing else. So before any learning one can ask what a reward would make of a policy, if it had
# its way. On a catalogue that can be enumerated the answer is exact.

# %%
# introduces: minirec.rewards minirec.models.ranker minirec.data.dataset
# introduces: minirec.tasks minirec.objectives minirec.measure.rankings
import book
import fixed_points
import matplotlib.pyplot as plt
import torch

from minirec import objectives, rewards, tasks
from minirec.data import world
from minirec.data.dataset import contexts
from minirec.measure import exact, rankings
from minirec.models import ranker
from minirec.records import HOLE, PAD

run = book.trained()
trie, dataset, cfg = run.trie, run.dataset, run.cfg
truth = dataset.world
row = (dataset.train.user == book.USER).nonzero()[0]
one = contexts(dataset.train.select(row))  # each click but the first is a target
batch = one.batch(torch.tensor([len(one) - 1]), cfg.history)  # the last of them
catalogue = torch.arange(len(trie))[None]  # (1, N): every item is asked about

law = dataset.law(batch)[0]  # the truth
clicked = rewards.hit(catalogue, batch.targets)[0]
near = rewards.prefix_score(trie.codes[catalogue], trie.codes[batch.targets])[0]
right = ranker.designed(truth, "right")(batch, catalogue)[0]
harmful = ranker.designed(truth, "harmful")(batch, catalogue)[0]
trained = ranker.trained_on_exposures(truth, n=200 * cfg.world_users, seed=0)
learned = trained(batch, catalogue)[0]

# %% tags=["hide"] caption="What user 17 wants, and what five rewards say about it. The triangle is the click that came."
order = truth.place[:, 0].argsort(stable=True)  # by topic
topics = torch.bincount(truth.place[:, 0])
ends = topics.cumsum(0)
target = int(batch.targets[0, 0])
ROWS = {
    "the law: probability of the next click": law,
    "hit": clicked,
    "prefix score (log scale)": near,
    "designed rankers": right,
    "ranker trained on an exposure log": learned,
}
figure, panels = plt.subplots(len(ROWS), 1, figsize=(7.5, 6), sharex=True)
for axes, (name, value) in zip(panels, ROWS.items(), strict=True):
    if value is right:
        axes.plot(right[order], "C0.", ms=2.5, label="right")
        axes.plot(harmful[order], "C1.", ms=2.5, label="harmful")
        axes.legend(fontsize=8, ncol=2, loc=(0.75, 1), frameon=False, markerscale=3)
    else:
        axes.bar(range(len(order)), value[order], width=1.5, color="C0" if value is law else "C1")
    for end in ends[:-1]:
        axes.axvline(end - 0.5, color="0.88", lw=0.6, zorder=0)
    axes.axvline(ends[len(ends) // 2 - 1] - 0.5, color="0.3", lw=0.8)
    axes.plot(order.argsort()[target], 0, "k^", transform=axes.get_xaxis_transform(), clip_on=False)
    axes.set_title(name, loc="left", fontsize=9)
panels[2].set(yscale="log", ylim=(0.004, 2), yticks=[0.01, 0.1, 1], yticklabels=["0.01", "0.1", "1"])
panels[-1].set_xticks(ends - topics / 2 - 0.5, range(len(topics)))
panels[-1].set(xlim=(-0.5, len(order) - 0.5), xlabel="item, by topic; left of the line A, right of it B")
plt.show()

# %% [markdown]
# The first row is the truth: the law of chapter 1, one click earlier, as the last click is now what is asked
# for. Each of the others is something that a policy could be paid
# for. We go through them from the top. What user 17 wants lies in one place, and what came is elsewhere: the
# click was an unlikely one.
#
# ## Hit
#
# The plainest reward: 1 for the click that came, 0 for all else [paper: OpenOneRec-RL, 2512.24762].
#
# $$r(x, y) = \mathbf{1}[y \in g]$$
#
# Here $g$ is the set of targets of the context $x$, and $y$ an item that the policy said. Below there is one
# target, and $g$ is that item.

# %% tags=["hide"]
book.show(rewards.hit)

# %% tags=["exact"]
said = torch.tensor([[3, 5, HOLE, 3]])  # one context, four rollouts; the third is no item
print(rewards.hit(said, torch.tensor([[5, PAD]])))  # one target; a hole and padding are both -1

# %% [markdown]
# A click is one draw from the law. Take the mean of hit over the clicks that might
# have come, and the reward of an item is the item's probability under the law [definition]:
#
# $$\mathbb{E}_{g \sim p^{\ast}} \mathbf{1}[y = g] = p^{\ast}(y)$$
#
# So in this world, where users click by the law and nothing is hidden from them, hit is right in the mean, for
# every user. (A click of a real log was also decided by what was shown.) Its price is noise, and silence: for
# almost all items the reward is 0, whatever they are worth.

# %% [markdown]
# ## What a reward would make of a policy
#
# The expected reward of a policy is a sum over the catalogue [definition]:
#
# $$J(\pi) = \sum_y \pi(y | x) r(x, y)$$

# %% tags=["hide"]
book.show(exact.expected_reward)

# %% [markdown]
# It is linear in $\pi$. So it is largest where all probability is on one item, the one of the highest
# reward. Nothing in $J$ asks for a second best. What each reward would have the policy say to user 17:

# %%
REWARDS = {
    "hit, this click": clicked,
    "hit, mean of clicks": law,
    "prefix score": near,
    "ranker, right": right,
    "ranker, trained": learned,
    "ranker, harmful": harmful,
}
for name, reward in REWARDS.items():
    wish = int(reward.argmax())
    print(f"{name:20} says {wish:3}, {dataset.catalogue.titles[wish]:21} p* = {law[wish]:.6f}")

# %% tags=["hide"]
prompt = run.policy.encode(batch.condition, trie.encode(batch.history))
with torch.no_grad():
    own = exact.item_logprobs(run.policy, prompt, trie)
draws = exact.expected_reward(law[None].log(), law[None]).item()
book.say(
    "How often would the click be what the policy says? With all probability on the likeliest item "
    f"{law.max():.4f}; if the policy *is* the law, and draws from it as users do, $\\sum_y p^{{\\ast}}(y)^2$ = "
    f"{draws:.4f}; for the supervised policy {exact.expected_reward(own, law[None]).item():.4f}. "
    "Supervised learning wants the law: its loss is least there. Hit wants the law's highest point. These "
    "are two wishes, and a step from the first to the second is what RL has to offer even where everything "
    "is right."
)

# %% [markdown]
# ## Prefix score
#
# Most rollouts are no hit. Are some misses better than others? ReCast counts the codes that an item shares
# with the target from the first one on:
#
# $$
# \varphi(y, g) = 1 \text{ if all agree}, \quad 0.1 \text{ if the first two}, \quad 0.01 \text{ if the first only},
# \quad 0 \text{ else}
# $$
#
# That is for $L = 3$ [paper: 2604.22169]; $10^{-(L-m)}$ for $m \ge 1$ common codes is ours.

# %% tags=["hide"]
book.show(rewards.prefix_score)

# %% [markdown]
# In the paper it is never a reward. It chooses: which rollout is replaced, which is the near miss to learn
# from (chapter 7) [paper]. Why not pay it out? We take users whom the policy has not seen, and enumerate the
# best that a group of $G$ rollouts has to show.

# %%
users = dataset.valid.batch(torch.arange(256), cfg.history)
every = catalogue.expand(len(users), -1)  # (B, N)
with torch.no_grad():
    prompt = run.policy.encode(users.condition, trie.encode(users.history))
    reference = exact.item_logprobs(run.policy, prompt, trie).double()  # (B, N)
laws = dataset.law(users)  # (B, N)
score = rewards.prefix_score(trie.codes[every], trie.codes[users.targets])
below = 0.0
for step, name in ((0, "nothing"), (0.01, "the first code"), (0.1, "two codes"), (1, "a hit")):
    at_most = (score < step + 1e-3).double()
    whole_group = exact.expected_reward(reference, at_most) ** cfg.group
    likely = laws[(score - step).abs() < 1e-3].mean()
    share = (whole_group - below).mean()
    print(f"best of a group: {name:15} {share:.3f}   p* of such an item {likely:.4f}")
    below = whole_group

# %% [markdown]
# The right column says that codes know something: items are made to share codes when they are alike. The
# left one says how a group would be paid. In the two middle lines nobody hit, and somebody shares a code.
# GRPO divides by the standard deviation of the group (chapter 5), and then a best of 0.01 teaches as loudly
# as a best of 1. In the groups of the second line the lesson would be the first code alone, at full volume. Items
# with that code are likelier than others, so it is a hint, but a weak one.
#
# The danger is not in the optimum. The mean of $\varphi$ over the law is $p^{\ast}$ with a little of the siblings'
# probability added, and its highest point is mostly the same item:

# %%
same = (trie.codes[:, None] == trie.codes).long().cumprod(-1).sum(-1)  # (N, N) common codes
phi = torch.tensor([0, 0.01, 0.1, 1.0]).double()[same]
moved = (laws @ phi).argmax(1) != laws.argmax(1)
print(f"another item is best for {int(moved.sum())} of {len(users)} users")

# %% [markdown]
# So its optimum does not say all about a reward. A policy learns from what one group shows.
#
# ## A reward for every item: the ranker
#
# A ranker gives every item a number and needs no click; hardly a group is silent. But it was trained on a
# log of what was *shown*, and that is no random choice. It is right for some contexts and wrong for others: the
# premise of AdaGRPO [paper: 2606.08480]. What stands in for the paper's ranker is ours. The truth first, the
# probability of a click on an item that is shown:

# %% tags=["hide"]
book.show(world.true_score, world.squash)

# %% [markdown]
# This is taste $\langle w, e \rangle$ alone, without the last click and without popularity. So even where it is
# right, it wants something else than the next click. `squash` only brings it between 0 and 1 and keeps the order.
# It is a sigmoid made of a quotient; one made of exp could give equal items scores that differ in the last bit
# [ours].
#
# The log shows the half A of the topics and hides the half B.

# %%
log = world.exposures(truth, n=200 * cfg.world_users, seed=0)  # the ranker above had this one
of_b, clicked_by = truth.tail[log.item], log.clicked.double()
print(f"impressions           {len(of_b):,}")
print(f"share of items of B   {of_b.double().mean():.4f}")
print(f"clicked, of A and B   {clicked_by[~of_b].mean():.3f}  {clicked_by[of_b].mean():.3f}")

# %% [markdown]
# B is hidden, not disliked. The ranker reads an item's features, and those mean the same in both halves. Who
# *likes* them does not (chapter 1). So what it learns in A it applies to B. Below it is beside the true
# score: for one user of A, for our user, who is of B, and then for everybody asked, as the share of pairs of
# items that it puts into the true order.

# %%
pairs = rankings.ordered(trained, truth, users)  # (B,), of items of the user's half; 0.5 is chance
in_b = truth.tail_user[users.user]

# %% tags=["hide"] caption="A ranker trained on clicks, user by user. The line is chance."
somebody = users.select((pairs + 9 * in_b).argsort()[int((~in_b).sum()) // 2][None])  # of A, the middle one
NAMES = ("a user of A", f"user {book.USER}, of B")
figure, panels = plt.subplots(1, 3, figsize=(7.5, 3), width_ratios=[1, 1, 1.3])
for axes, who, name in zip(panels, (somebody, batch), NAMES, strict=False):
    real, given = world.true_score(truth, who.user, catalogue)[0], trained(who, catalogue)[0]
    mine = truth.tail == truth.tail_user[who.user]
    axes.plot(real[~mine], given[~mine], ".", ms=2.5, color="0.75", label="item of the other half")
    axes.plot(real[mine], given[mine], ".", ms=3.5, color="C0", label="item of the user's half")
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="true score", title=name)
panels[0].set_ylabel("score of the trained ranker")
labels = panels[0].get_legend_handles_labels()
figure.legend(*labels, loc="outside lower left", ncol=2, fontsize=8, frameon=False, markerscale=2)
bins = torch.linspace(0.2, 1, 33).tolist()
panels[2].hist(pairs[~in_b], bins, color="C0", label="users of A")
panels[2].hist(pairs[in_b], bins, color="C1", alpha=0.8, label="users of B")
panels[2].axvline(0.5, color="k", lw=0.8)
itself = rankings.ordered(trained, truth, batch).item()
panels[2].plot(itself, 0, "^", color="k", clip_on=False, label=f"user {book.USER}")
panels[2].set(xlabel="share of pairs in true order", ylabel="users", title=f"all {len(users)}")
labels = panels[2].get_legend_handles_labels()
figure.legend(*labels, loc="outside lower right", ncol=3, fontsize=8, frameon=False, handlelength=1)
plt.show()

# %% tags=["hide"]
book.say(
    f"For users of A the share is {pairs[~in_b].mean():.2f} in the mean, for those of B {pairs[in_b].mean():.2f}, "
    f"for user {book.USER} {itself:.2f}. One number for everybody, {pairs.mean():.2f}, hides who is "
    "served and who is not."
)

# %% [markdown]
# A trained ranker is wrong in its own ways. To make the premise a knob, the world also has *designed*
# rankers [ours]: right for everybody; right for users of A and noise for those of B; right for users of A
# and reversed for those of B, which is called harmful.

# %% tags=["hide"]
book.show(ranker.designed)

# %% [markdown]
# Scores lie in (0, 1), and a hole scores 0, below every item [ours]: a policy without a mask must not be
# paid for what does not exist.
#
# ## On a leash
#
# Nobody lets a reward have all its way. The policy is held near the one that it came from, the reference:
# maximise $J(\pi) - \beta \mathrm{KL}(\pi \Vert \pi_{ref})$. Its optimum has a closed form [definition]:
#
# $$\pi_\beta(y) \propto \pi_{ref}(y) e^{r(y) / \beta}$$

# %% tags=["hide"]
book.show(fixed_points.kl_optimum)

# %% [markdown]
# A small $\beta$ is a long leash. So each reward draws a path, from the reference at a KL of 0 to its own
# point mass. On the way we measure two things, both under the law: how often what the policy says is the next
# click, $\sum_y \pi(y) p^{\ast}(y)$, which is the *expected hit*, in tables Pass@1; and how often the next click is
# among the ten items that the policy finds likeliest, hr@10.

# %%
asked = {"hit, mean of clicks": laws, "hit, this click": rewards.hit(every, users.targets)}
for kind in ("right", "harmful"):
    asked[f"ranker, {kind}"] = ranker.designed(truth, kind)(users, every)
asked["ranker, trained"] = trained(users, every)
paths = {}
for name, reward in asked.items():
    path = []
    for beta in [1e9, *torch.logspace(1, -3, 40).tolist()]:
        policy = fixed_points.kl_optimum(reference, reward, beta)  # (B, N)
        spent, paid = exact.kl(policy, reference), exact.expected_reward(policy, reward)
        clicks = exact.expected_reward(policy, laws)
        ten = laws.gather(1, policy.topk(10).indices).sum(1)
        path.append(torch.stack([spent, paid, clicks, ten]))  # (4, B)
    paths[name] = torch.stack(path)  # (leashes, 4, B)

# %% tags=["hide"] caption="What a policy would become that follows each reward, by enumeration over unseen users."
STYLES = {
    "hit, mean of clicks": ("C0", "-"),
    "hit, this click": ("C0", "--"),
    "ranker, right": ("0.4", "-"),
    "ranker, harmful": ("C1", "--"),
    "ranker, trained": ("C1", "-"),
}
figure, panels = plt.subplots(2, 2, figsize=(7.5, 5.4), sharex=True, sharey="row")
for column, (who, name) in enumerate(((~in_b, "users of A"), (in_b, "users of B"))):
    its_own = (laws[who].square().sum(1).mean(), laws[who].topk(10).values.sum(1).mean())
    for axes, value in zip(panels[:, column], its_own, strict=True):
        axes.axhline(value, color="0.85", lw=4, zorder=0, label="the law itself")
    for line, (colour, style) in STYLES.items():
        spent, _, clicks, ten = paths[line][:, :, who].mean(2).T
        for axes, value in zip(panels[:, column], (clicks, ten), strict=True):
            axes.plot(spent, value, style, color=colour, label=line)
    panels[0, column].set_title(name)
    panels[1, column].set(xlabel="KL from the supervised policy (nats)", xlim=(0, 3))
panels[0, 0].set(ylabel="expected hit (probability)", ylim=(0, None))
panels[1, 0].set(ylabel="hr@10 (probability)", ylim=(0, None))
labels = panels[0, 0].get_legend_handles_labels()
figure.legend(*labels, loc="outside lower center", ncol=3, fontsize=8, frameon=False)
plt.show()

# %% [markdown]
# In the left column right and harmful are one line: for users of A they are the same ranker.
#
# - **hit, mean of clicks** climbs as far as one can. No single group is paid this; it is what hits come to
#   over many clicks of the same wish.
# - **hit, this click** ends near the broad grey line of the upper panels: the clicks are draws from the law, and to repeat them is
#   worth what the law is worth. It leaves the order of all other items as it was.
# - **ranker, right** pays for taste, and taste is not the whole law. On a long leash the policy gives up last
#   click and popularity for it.
# - **ranker, trained** learned about A and is asked about B; **harmful** is the right one reversed in B.

# %% tags=["hide"]
spent, _, _, ten = paths["ranker, trained"][:, :, ~in_b].mean(2).T
spent, ten = spent[spent < 3], ten[spent < 3]
top = int(ten.argmax())
book.say(
    f"In numbers, for the trained ranker and users of A: hr@10 is {ten[0]:.3f} at the start, at best "
    f"{ten[top]:.3f}, at a KL of {spent[top]:.2f}, and {ten[-1]:.3f} at one of {spent[-1]:.2f}. A reward that stands "
    "in for what is wanted may help at first and harm later."
)

# %% [markdown]
# ## The reward cannot tell
#
# What does a log of the training show? The reward that is paid. On these paths it never falls: a longer
# leash can only pay more. For users of B, with the leash at which the KL is nearest to 1 nat:

# %%
for name in ("ranker, right", "ranker, trained", "ranker, harmful"):
    spent, paid, clicks, ten = paths[name][:, :, in_b].mean(2).T
    here = (spent - 1).abs().argmin()
    print(f"{name:16} reward {paid[0]:.2f} to {paid[here]:.2f}", end="   ")
    print(f"hr@10 {ten[0]:.3f} to {ten[here]:.3f}")

# %% [markdown]
# The left column is what one sees, the right one what one gets. That is why result tables hold rankings
# against clicks that no reward has seen (chapter 9), and why AdaGRPO asks for each context whether its
# reward may teach at all (chapter 6).
#
# ## What runs do
#
# A run follows samples and a network, and not the optimum. What it came to where RL had nothing but the
# ranker's reward, in percent, means over seeds:

# %% tags=["hide"]
found = book.tables("claims_adagrpo")
floors, columns = found["adagrpo"], found["right"]["arm"]
hr, once = columns.index("hr@10"), columns.index("pass@1")
lines = ["| | hr@10 | Pass@1 |", "|---|---|---|"]
for name in ("true law", "item-kNN", "start"):
    lines.append(f"| {name} | {floors[name][0]} | {floors[name][2]} |")
ARMS = {"supervised continued: the same steps, no reward": found["right"]["supervised continued"]}
ARMS |= {f"the ranker's reward alone, {k}": found[k]["reward alone"] for k in ("right", "noise", "harmful")}
lines += [f"| {name} | {arm[hr]} | {arm[once]} |" for name, arm in ARMS.items()]
book.say("\n".join(lines))

# %% [markdown]
# The columns need not agree. A reward asks for one good item, hr@10 for a list of them. And a path is the best
# that a reward could do at a KL, no forecast of a run: a run learns from the items that it drew, and its KL has
# another form (chapter 5). The numbers are from
# `bench/results/claims_adagrpo.md`, with intervals there; `python -m bench.claims adagrpo` makes them.
#
# ## In the loop
#
# A reward is a function of a batch and items. `tasks.NextItem` asks it once for each rollout. Where the
# catalogue can be enumerated, `exact.exact_values` has the exact mean beside that estimate. An *arm* is one
# method of a comparison. Which reward it is paid, and under which mask it says items, follows from its
# objective, unless the command line says otherwise; `objectives.settings_of` puts the two together:

# %%
lines = []
for name in ("grpo", "adagrpo"):
    arm = objectives.settings_of(cfg, name)
    reward = tasks.hit if arm.reward == "hit" else ranker.designed(truth, arm.ranker)
    task = tasks.NextItem(arm, trie, contexts(dataset.fresh), reward)
    x = task.act(run.policy, step=0)  # the first batch of contexts of users left to RL
    true = exact.exact_values(x, run.policy, run.policy)["exact_reward"].mean()
    holes = (x.rollout.items == HOLE).double().mean()
    lines.append(
        f"{name}: {arm.reward} of {tuple(x.rewards.shape)} rollouts, mask {arm.mask}: "
        f"mean {x.rewards.mean():.3f}, exact {true:.3f}, holes {holes:.3f}"
    )
print("\n".join(lines))

# %% [markdown]
# ## What each reward wants
#
# | reward | given to | what a policy becomes that has only this |
# |---|---|---|
# | hit [paper] | the click | in the mean the likeliest item; from one click, that click |
# | prefix score [paper], if it were paid | items that share codes with the click | mostly that of hit; from groups without a hit, the first codes |
# | ranker, right [ours] | every item | the user's taste, without last click and popularity |
# | ranker, trained on exposures [ours] | every item | taste in A; in B a guess made from A |
# | ranker, harmful [ours] | every item | taste in A; in B its opposite |
#
# ## Exercises
#
# - Build: [`exercises/ch04_build.py`](exercises/ch04_build.py). Rewards come in units of their own, so one $\beta$ is a long leash for
#   one and a short one for another. Find for each context the best policy at a *given* KL.
# - Find the bug: [`exercises/ch04_bug.py`](exercises/ch04_bug.py). The rewards of a group, all in (0, 1), with a plausible mean, and
#   wrong.
#
# `pytest tutorials/exercises -k ch04` says when you are done; ours are in `solutions/`.
#
# ## What you can do now
#
# Say of a reward, before any training, what it wants: enumerate it (`exact.expected_reward`), let it pull
# (`fixed_points.kl_optimum`), and hold the result against a truth that it does not know.
#
# ## What we left out
#
# - The rewards of lists, NDCG and swaps: chapter 8.
# - `ranker.trained_on_log`, the reward model for real logs, where no true score is known.
# - Where GRPO settles, whose KL has another form than the leash here: chapter 5 draws both optima.
# - Repairing the ranker itself, by weighting the log against its exposure. The paper takes the ranker as it
#   is, and so do we.
#
# ## Next
#
# [5 · Advantages, and silent groups](ch05_advantages.md): how does a group of rollouts become a gradient, and how wrong is it?
