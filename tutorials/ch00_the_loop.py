# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 0 · The loop
#
# **What does one step of reinforcement learning do to a recommender?**
#
# This chapter goes around the loop once, for one user and one click. Nothing is explained to the end: each
# box below has a chapter of its own. The cell that follows is a preview. Most of what it imports is
# introduced later, one chapter at a time; here it is only used.

# %%
# introduces: minirec.settings minirec.data.world
# previews: minirec.data.dataset minirec.measure.exact minirec.objectives.grpo minirec.objectives.loss
# previews: minirec.loop minirec.records minirec.rewards minirec.rollout
import book
import matplotlib.pyplot as plt
import torch

from minirec import records, rewards, rollout
from minirec.data.dataset import contexts
from minirec.loop import reinforce
from minirec.measure import exact
from minirec.objectives import grpo, loss

run = book.trained()  # a policy that has learned from clicks; no RL yet
trie, dataset, cfg = run.trie, run.dataset, run.cfg

# %% tags=["hide"] caption="The loop. Numbers are chapters. The arrow back to the policy is what learns."
BOXES = [
    ("click log", "user, item,\ntime", "1", 0, 1),
    ("codes, trie", "an item is\nL codes", "1", 1, 1),
    ("policy", "a probability\nfor each code", "2", 2, 1),
    ("rollouts", "G items for\none context", "3", 3, 1),
    ("rewards", "a number\nper rollout", "4", 4, 1),
    ("signal", "an advantage\nper rollout", "5 to 8", 4, 0),
    ("loss", "one number,\none gradient", "5", 3, 0),
    ("step", "the policy\nchanges a little", "0", 2, 0),
    ("evaluation", "all items ranked,\nfloors beside", "9", 1, 0),
]
LINKS = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7), (7, 2), (2, 8)]
WIDE, HIGH = 0.4, 0.3  # half of a box
figure, axes = plt.subplots(figsize=(7.5, 2.7))
for name, what, chapter, x, y in BOXES:
    axes.add_patch(plt.Rectangle((x - WIDE, y - HIGH), 2 * WIDE, 2 * HIGH, fill=False, ec="C0", lw=1.2))
    axes.text(x, y + 0.13, name, ha="center", va="center", weight="bold")
    axes.text(x, y - 0.12, what, ha="center", va="center", fontsize=8, color="0.3")
    axes.text(x - WIDE, y + HIGH + 0.03, chapter, fontsize=8, color="C1")
for one, other in LINKS:
    (x, y), (to_x, to_y) = BOXES[one][3:], BOXES[other][3:]
    right, up = (to_x > x) - (to_x < x), (to_y > y) - (to_y < y)
    begin = (x + WIDE * right * (up == 0) - 0.25 * (right < 0 < abs(up)), y + HIGH * up)
    end = (to_x - WIDE * right * (up == 0) + 0.25 * (right < 0 < abs(up)), to_y - HIGH * up)
    color = "C1" if (one, other) == (7, 2) else "0.3"
    axes.annotate("", end, begin, arrowprops={"arrowstyle": "->", "color": color, "lw": 1.4})
axes.set(xlim=(-0.45, 4.45), ylim=(-0.35, 1.45))
axes.axis("off")
plt.show()

# %% tags=["hide"]
book.say(
    f"The data is simulated, so its truth is known: {len(dataset.users):,} users, "
    f"{len(dataset.catalogue)} items, and a law that says with which probability a user clicks what next. "
    f"Each item is a tuple of {trie.levels} codes, each code one of {trie.size}. Chapter 1 says how."
)

# %% [markdown]
# ## One user, one click
#
# The book follows one user, `book.USER`. We hide the last click and ask for it. What was clicked before is
# the **context**, what was clicked then is the **target**.

# %% tags=["exact"]
row = (dataset.train.user == book.USER).nonzero()[0]
every = contexts(dataset.train.select(row))  # each click but the first, with all before it
batch = every.batch(torch.tensor([len(every) - 1]), cfg.history)
target = int(batch.targets[0, 0])
print("user   ", book.USER)
print("history", batch.history[0].tolist())
print("target ", target)

# %% [markdown]
# ## What the policy believes
#
# The policy is a small transformer. It says an item code by code, so it has a probability for every item.
# The catalogue is small enough to add all of them up, so we need not estimate: `exact` enumerates.


# %%
@torch.no_grad()
def believes(policy) -> torch.Tensor:
    """Probability of every item as the next one, (N,)."""
    prompt = policy.encode(batch.condition, trie.encode(batch.history))
    return exact.item_logprobs(policy, prompt, trie)[0].exp()


# %%
before = believes(run.policy)
law = dataset.law(batch)[0]  # the truth

# %% tags=["hide"]
rank = int((before > before[target]).sum()) + 1
book.say(
    f"The policy gives the target, item {target} with codes {tuple(trie.codes[target].tolist())}, a "
    f"probability of {before[target]:.4f}: rank {rank} of {len(trie)}. Under the true law it is "
    f"{law[target]:.4f}. A click is one draw from the law; it need not be a likely one."
)

# %% [markdown]
# ## Rollouts and rewards
#
# Now the policy acts. It draws $G$ items for this one context: a **group** of rollouts. Drawing costs one
# uniform number per code, so the same policy and noise give the same items.
#
# The reward is the plainest there is: 1 for the item that was clicked, 0 for any other
# [paper: OpenOneRec-RL, 2512.24762].


# %%
def act(policy, number: int) -> tuple[records.Rollout, torch.Tensor]:
    """Group ``number``: G rollouts and their rewards (1, G)."""
    noise = torch.rand(
        1, cfg.group, trie.levels, generator=book.stream(book.USER, number), dtype=torch.float64
    )
    with torch.no_grad():
        prompt = policy.encode(batch.condition, trie.encode(batch.history))
        group = rollout.sample(policy, prompt, trie, noise)
    return group, rewards.hit(group.items[..., 0], batch.targets)


# %%
number, (group, reward) = 0, act(run.policy, 0)
while reward.sum() == 0 and number < 1000:  # we show the first group that has a hit
    number += 1
    group, reward = act(run.policy, number)
print("group", number)
print("items  ", group.items[0, :, 0].tolist())
print("rewards", reward[0].int().tolist())

# %% tags=["hide"]
missed = float((1 - before[target].double()) ** cfg.group)
book.say(
    f"With $G = {cfg.group}$ and a target of probability {before[target]:.4f}, {missed:.0%} of groups "
    "have no hit. In such a group all rewards are equal. It is **silent**: nothing in it is better than "
    "anything else, so its rewards teach nothing. Here we drew groups until one had a hit; a run cannot "
    "choose like this. Silent groups are the subject of chapters 5 and 7."
)

# %% [markdown]
# ## Advantages
#
# A reward says how good an item is. An **advantage** says how much better it is than what the policy does
# anyway. GRPO takes the group itself as the measure [paper: 2402.03300]:
#
# $$A_i = \frac{r_i - \mathrm{mean}(r)}{\mathrm{std}(r) + \varepsilon}$$

# %% tags=["hide"]
book.show(grpo.advantages)

# %% [markdown]
# `ops.group_normalize` is the equation; chapter 5 opens it. Every choice that the equation leaves open is
# an argument; the std here is that over $G - 1$, as in OpenOneRec-RL.

# %%
advantage = grpo.advantages(reward)
said = group.items[0, :, 0]  # (G,)
for item in said.unique().tolist():
    codes, title = tuple(trie.codes[item].tolist()), dataset.catalogue.titles[item]
    times, worth = int((said == item).sum()), advantage[0, said == item][0]
    print(f"{item:4} {codes!s:13} {title:23} drawn {times}, advantage {worth:+.2f}")

# %% [markdown]
# ## One gradient step
#
# The loss of a token [paper: GRPO, 2402.03300; two widths of the clip: OpenOneRec-RL, 2512.24762]:
#
# $$-\min(\rho A, \mathrm{clip}(\rho, 1 - \varepsilon_{lo}, 1 + \varepsilon_{hi}) A) + \beta k_3$$
#
# where $\rho = \pi / \pi_{old}$ compares the policy that learns with the one that drew the group, and $k_3$
# measures how far it has moved from where it started. In the code, `free` and `clipped` are the two
# arguments of the minimum. Each item's loss is the mean over its $L$ tokens, and the sum over the group is
# divided by $G$.

# %% tags=["hide"]
book.show(loss.token_loss)


# %%
class Loop:
    """A copy of the policy, its loss and its optimiser."""

    def __init__(self) -> None:
        self.policy = book.trained().policy.requires_grad_(True)
        self.loss = loss.Loss(self.policy, trie, cfg)
        self.adam = torch.optim.Adam(self.policy.parameters(), cfg.rl_rate, betas=(0.9, 0.98))

    def step(self, group: records.Rollout, reward: torch.Tensor) -> tuple[float, float]:
        """One step on one group: the loss, and the length of its gradient."""
        advantage = grpo.advantages(reward)[..., None]  # (1, G, 1)
        signal = records.Signal(torch.arange(1), group.codes, advantage, width=cfg.group)
        allowed = trie.masks(group.codes)  # scored under the mask that they were drawn under
        with torch.no_grad():
            start = loss.logprobs(run.policy, trie, batch, signal, allowed)
        value, _ = self.loss(batch, signal, allowed, None, start, len(batch))
        value.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), cfg.clip)
        self.adam.step()
        self.adam.zero_grad()
        return value.item(), norm.item()


# %%
loop = Loop()
value, norm = loop.step(group, reward)
after = believes(loop.policy)

# %% tags=["hide"]
book.say(
    f"Before the step the target had probability {before[target]:.5f}, after it {after[target]:.5f}: "
    f"{after[target] / before[target]:.2f} times as much, by one step of Adam at rate {cfg.rl_rate:g}."
)

# %% tags=["hide"] caption="What one step does to every item. A dot is an item; neighbours share codes."
change = (after / before).log()[trie.item]
leaf = {int(item): place for place, item in enumerate(trie.item)}
misses = [leaf[item] for item in set(group.items[0, :, 0].tolist()) - {target}]
family = trie.codes[trie.item, 0] == trie.codes[target, 0]
places = torch.arange(len(trie))
figure, axes = plt.subplots(figsize=(7.5, 3))
axes.axhline(0, color="0.8", lw=0.8)
axes.scatter(places[~family], change[~family], s=5, color="0.6", label="other items")
axes.scatter(places[family], change[family], s=8, color="C1", label="same first code as the target")
axes.scatter(misses, change[misses], s=40, facecolors="none", edgecolors="C0", label="drawn, missed")
axes.scatter(leaf[target], change[leaf[target]], s=90, marker="*", color="k", label="drawn, hit: the target")
axes.set(xlabel="item, in the order of its codes", ylabel="change of log-probability (nats)")
axes.set_xlim(-5, len(trie) + 5)
axes.legend(fontsize=8, ncols=2)
plt.show()

# %% tags=["hide"]
moved = int(((after / before - 1).abs() > 0.01).sum())
kin, others = change[family & (places != leaf[target])].mean(), change[~family].mean()
book.say(
    f"The probability of {moved} of {len(trie)} items changed by more than 1 %, and most of them were never "
    "drawn. Those "
    f"that share the target's first code moved by {kin:+.3f} nats in the mean, all "
    f"others by {others:+.3f}. Items share codes, and all of them share one transformer. That is "
    "generalisation; it is also how a wrong reward does harm far from where it was given."
)

# %% [markdown]
# ## Why is the loss near 0 while it trains?

# %% tags=["hide"]
book.say(
    f"The loss of that step was {value:.0e}, the length of its gradient {norm:.2f}. The policy that "
    "learns is the one that drew the group, so every ratio $\\rho$ is exactly 1, and the loss is "
    "$-\\frac{1}{G}\\sum_i A_i$. The advantages of a group sum to 0. But the gradient of $\\rho$ is then "
    "that of $\\log\\pi$, so the gradient of the loss is "
    "$-\\frac{1}{GL}\\sum_i A_i \\nabla \\log \\pi(y_i)$: each rollout's number multiplies an arrow of its "
    "own. Numbers that cancel do not make arrows that cancel. So the value of this loss says nothing about "
    "progress; what shows progress is the reward. Chapter 5 shows it, beside the exact gradient."
)

# %% [markdown]
# ## The step, again and again
#
# The same on the same context, from the start: new rollouts of the policy as it now is, their rewards, a
# step.

# %%
STEPS = 60
loop, lines = Loop(), []
for number in range(STEPS):
    now = believes(loop.policy)[target].item()
    group, reward = act(loop.policy, number)
    lines.append((now, reward.mean().item(), *loop.step(group, reward)))
chance, hits, values, norms = torch.tensor(lines).T

# %% tags=["hide"] caption="The step, repeated. Each bar is one group: it estimates the black line."
figure, (top, bottom) = plt.subplots(2, 1, figsize=(7.5, 4), sharex=True, height_ratios=[2, 1])
top.bar(range(STEPS), hits, width=0.8, color="C0", alpha=0.5, label="share of hits in the group")
top.plot(chance, color="k", label="probability of the target, exact")
top.axhline(law[target], color="C1", ls="--", label="its probability under the true law")
top.set(ylabel="probability", ylim=(-0.03, 1))
top.legend(fontsize=8, loc="upper left")
bottom.plot(norms, color="C1", label="length of the gradient")
bottom.plot(values, color="k", label="loss")
bottom.set(xlabel="step", ylabel="value", xlim=(-1, STEPS), ylim=(None, 1.6 * norms.max()))
bottom.legend(fontsize=8, loc="upper left", ncols=2)
plt.show()

# %% tags=["hide"]
silent = (hits == 0).sum().item()
far = [exact.kl(law.log()[None], p.log()[None]).item() for p in (before, believes(loop.policy))]
book.say(
    f"{silent} of the {STEPS} groups were silent: their gradient is that of the KL alone. (Adam moves on "
    "through them all the same, in the direction that it remembers.) No loss on the way is larger than "
    f"{values.abs().max():.4f}, while the probability of the target goes from {chance[0]:.3f} to "
    f"{chance[-1]:.3f}."
)
book.say(
    f"Is that good? Under the law the probability is {law[target]:.4f}. The divergence KL(law‖policy) was "
    f"{far[0]:.2f} nats and is now {far[1]:.2f}. The reward asked for one click of one user, said nothing of "
    "the items that might as well have been clicked, and got what it asked for. The objectives of chapters 5 "
    "to 8 are ways of asking for something better."
)

# %% [markdown]
# ## The same in the library
#
# One step in the library is `act` and `Loop.step` together, with the rest of what a run needs: many contexts,
# several updates per batch, several processes. The task lets the policy act; what comes back, `x`, has the
# rollouts and their rewards. The objective makes a signal of them. The learner holds the policy, its loss, its
# optimiser, and the policy of the start as the reference. `update` is the last lines of `Loop.step`: backward,
# clip the gradient, step. `observe` and `tally` only collect the numbers that a run logs.

# %% tags=["hide"]
book.show(reinforce)

# %% [markdown]
# A run calls it for step 0, 1, 2 and so on. All objectives of this book share it. They differ in one function:
# what `objective.signal` makes of a group.
#
# | chapter | opens up |
# |---|---|
# | 1 | how an item becomes a few codes |
# | 2 | the policy, and how good it is before any RL |
# | 3 | rollouts, and why sampling and scoring must agree |
# | 4 | rewards that are wrong for some users |
# | 5 | advantages, silent groups, the gradient |
# | 6 | AdaGRPO: for whom a reward may teach |
# | 7 | ReCast: what a silent group can still teach |
# | 8 | FlexRec: which position of a list deserves the credit |
# | 9 | how to know whether any of it worked |
# | 10 | making it fast |
#
# ## What you can do now
#
# Name the stations of the loop in order, read a training log whose loss is 0 throughout, and say why.
#
# ## What we left out
#
# - This user was among those that the policy was trained on, with this very click. In the library, RL learns from users that
#   supervised training never saw.
# - One context at a time is no way to train. Over many clicks of like contexts, the mean reward of an item is
#   its probability under the law, and one unlikely click no longer decides.
# - Whether recommendations became better. That takes other users, other clicks, and floors: chapter 9.
#
# ## Next
#
# [1 · Codes](ch01_codes.md): how does an item become a few tokens?
