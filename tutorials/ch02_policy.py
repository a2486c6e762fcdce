# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 2 · A policy over items
#
# **How does a transformer say an item, and how good is that before any RL?**
#
# The policy is a small language model whose words are codes. It was trained on clicks, as language models
# are on text, and nothing else has happened to it yet. Here is what it expects of our user.

# %%
# introduces: minirec.policy
# introduces: minirec.measure.baselines minirec.measure.evaluation minirec.measure.metrics
# previews: minirec.run.training
import re

import book
import matplotlib.pyplot as plt
import torch

from minirec import policy, records
from minirec.data import world
from minirec.measure import baselines, evaluation, metrics
from minirec.run import training

run = book.trained()  # the policy after supervised training
model, trie, dataset, cfg = run.policy, run.trie, run.dataset, run.cfg
row = (dataset.train.user == book.USER).nonzero()[0]
batch = dataset.train.batch(row, cfg.history)  # after the whole history: the six latest clicks


# %%
@torch.no_grad()
def every_item(batch) -> torch.Tensor:
    """Log-probability of each code of each item, were it the next one, (N, L); for one context."""
    history = batch.history.expand(len(trie), -1)
    longer = torch.cat([history, torch.arange(len(trie))[:, None]], 1)  # (N, H + 1)
    return model(batch.condition.expand(len(trie), -1), trie.encode(longer))[:, -1]


codewise = every_item(batch)
said = codewise.sum(1).double().exp()  # (N,) of the policy
law = dataset.law(batch)[0]  # (N,) the truth

# %% tags=["hide"] caption="One user's next click. Up: the law. Down: the policy. Both are exact."
truth = dataset.world
topic = truth.place[:, 0]
order = topic.argsort(stable=True)
topics = torch.bincount(topic)
ends = topics.cumsum(0)
figure, axes = plt.subplots(figsize=(7.5, 3.4))
axes.bar(range(len(order)), law[order], width=1.4, color="C1", label="true law")
axes.bar(range(len(order)), -said[order], width=1.4, color="C0", label="policy")
for end in ends[:-1]:
    axes.axvline(end - 0.5, color="0.88", lw=0.6, zorder=0)
axes.axhline(0, color="k", lw=0.6)
axes.set(xlim=(-0.5, len(order) - 0.5), xlabel="item, by topic", ylabel="probability")
axes.set_xticks(ends - topics / 2 - 0.5, range(len(topics)))
axes.yaxis.set_major_formatter(lambda value, _: f"{abs(value):.3f}")
axes.legend(fontsize=8, loc="upper left")
plt.show()

# %% tags=["hide"]
by_topic = [torch.zeros(len(topics)).double().index_add(0, topic, p) for p in (law, said)]
top = 5
best = by_topic[0].topk(top).indices
apart = [(a / a.sum() - b / b.sum()).abs().sum().item() / 2 for a, b in (by_topic, (law, said))]
book.say(
    f"The {top} topics that the law likes most have {by_topic[0][best].sum():.0%} of its probability and "
    f"{by_topic[1][best].sum():.0%} of the policy's. Counted by topic, law and policy disagree about "
    f"{apart[0]:.0%} of the probability; counted by item, about {apart[1]:.0%}."
)

# %% [markdown]
# The law is that of the last row of chapter 1's picture. The clicks so far were training data. What comes
# after them was not, so the policy cannot have learned it by heart.
#
# ## What the transformer reads
#
# A **prompt**: one condition position, then the codes of the $H$ items of the history, oldest first. That
# is $T = 1 + HL$ positions, and each predicts the code that follows it.

# %% tags=["exact"]
history = trie.encode(batch.history)[0]  # (H, L)
tokens = history.flatten().tolist()
names = ("mode", "novel", "trend", "period")
print("position  0  reads", dict(zip(names, batch.condition[0].tolist(), strict=True)))
for place in (1, 2, 3, 4, len(tokens)):
    level = (place - 1) % trie.levels + 1
    print(f"position {place:2}  reads code {tokens[place - 1]:2} of level {level}")

# %% [markdown]
# The condition says what is asked (mode 0: the next item) and what is known apart from clicks (the period;
# 0 would say that it is not known). The two flags, novel and trend, are needs and wait for chapter 8. All
# four are embedded and added up into one vector [ours].
#
# No token says which level it is. It need not: every item has $L$ codes, so position $p$ predicts a code of
# level $p \bmod L$ (counted from 0, as the code does). And each level has its own rows in the table of
# embeddings: code 14 of the first level and code 14 of the second share nothing but their number.

# %% tags=["hide"]
book.show(policy.Policy.embed)

# %% [markdown]
# ## From a state to a code
#
# The transformer turns each position into a hidden state $h$. The logit of a code is the product of $h$
# with that code's embedding, the very row that is read when the code stands in the history:
#
# $$\pi(c \mid x, y^1, \dots, y^{l-1}) = \mathrm{softmax}_c \langle h, E^l_c \rangle, \qquad c = 0, \dots, V - 1$$
#
# Tied input and output are SASRec's [paper: 1808.09781]. A softmax per level, over that level's $V$ codes
# alone, is ours: no probability is lost on codes of another level.

# %% tags=["hide"]
book.show(policy.Policy.logits)

# %% tags=["hide"]
table = model.code.weight.numel()
whole = sum(parameter.numel() for parameter in model.parameters())
width = model.code.weight.shape[1]
book.say(
    f"The table of codes has {trie.levels} × {trie.size} rows and the catalogue {len(trie)} items: "
    f"{table:,} of the policy's {whole:,} parameters, where a row per item would take {len(trie) * width:,}. "
    f"It grows with $V$, and only slowly with the catalogue: {trie.size} codes on {trie.levels} levels would do for "
    f"{trie.size**trie.levels:,} items. With $L = 1$ and $V = N$ the same class has a row per item and one "
    "softmax over the catalogue; that is SASRec with cross-entropy, our baseline (`--levels 1`)."
)

# %% [markdown]
# An item's probability is then a product of $L$ factors [definition; codes in place of items: TIGER,
# 2305.05065]:
#
# $$\pi(y \mid x) = \prod_{l=1}^{L} \pi(y^l \mid x, y^1, \dots, y^{l-1})$$
#
# Any other distribution over items can be spoken in codes too: add up what begins with the same codes. So
# the law can be asked what it thinks of a single code.


# %%
def in_codes(p: torch.Tensor, item: torch.Tensor) -> torch.Tensor:
    """Log-probability of each code of an item given those before: p (B, N), item (B,) to (B, L)."""
    alike = (trie.codes[item][:, None] == trie.codes).long().cumprod(2)  # (B, N, L) same prefix
    mass = (p[..., None] * alike).sum(1)
    return (mass / torch.cat([torch.ones(len(p), 1), mass[:, :-1]], 1)).log()


likeliest = said.argmax()
true = in_codes(law[None], likeliest[None])[0].exp()
print(f"the policy's first choice, {dataset.catalogue.titles[likeliest]}:")
for level, code in enumerate(trie.codes[likeliest].tolist()):
    mine = codewise[likeliest, level].exp()
    print(f"code {code:2} of level {level + 1}   policy {mine:.3f}   law {true[level]:.3f}")
print(f"the item               policy {said[likeliest]:.3f}   law {law[likeliest]:.3f}")

# %% tags=["hide"]
book.say(
    f"Over all items the policy's probabilities add up to {said.sum():.3f}. The rest is on tuples that are "
    "no item: nothing on this page masks them. Chapter 3 does."
)

# %% [markdown]
# ## Teacher forcing
#
# To know what the policy thinks of an item, one need not wait until it says it. Feed it the item's own
# codes, whatever it would have said itself, and read off their probabilities. That is **teacher forcing**.
# A causal mask keeps each position from seeing what comes after it. So one pass over a whole history
# predicts every code of every click, each from all before it. `every_item` above asked in this way for each
# item of the catalogue.

# %% tags=["hide"]
book.show(policy.Policy.forward)

# %% [markdown]
# On a real log items have vectors too, which the policies of this book do not have, and chapter 9 says what they
# are worth. There `rescores` is true, and `forward` adds a column: the log-probability of the item itself among
# all items. And `table` above is the embedding of the codes, unless an item has one code and a vector.
#
# Note the shift: `trunk` reads the condition and all codes but the last, and its position $p$ predicts code
# $p$ (counted from 0). For our user, all clicks in one pass:


# %%
def laws(asked: records.Batch, clicks: torch.Tensor) -> torch.Tensor:
    """The law before each click (B, E, N); of the batch, only who asks is read."""
    none = clicks[:, :0]
    before = [clicks[:, :place] for place in range(clicks.shape[1])]
    batches = [records.Batch(asked.user, past, asked.condition, none, none) for past in before]
    return torch.stack([dataset.law(batch) for batch in batches], 1)


clicks = dataset.train.batch(row, cfg.history + 1).history  # all seven
with torch.no_grad():
    surprise = -model(batch.condition, trie.encode(clicks))[0]  # (E, L) nats
true = -in_codes(laws(batch, clicks)[0], clicks[0])  # (E, L) of one who knows the law

# %% tags=["hide"] caption="One pass over one user's clicks. Left to right, the codes of seven items."
figure, axes = plt.subplots(figsize=(7.5, 2.8))
blues = [plt.get_cmap("Blues")(depth) for depth in (0.9, 0.62, 0.34)]
ORDINALS = ["first code", "second code", "third code"]
for level in range(trie.levels):
    where = torch.arange(len(surprise)) * (trie.levels + 1) + level
    axes.bar(where, surprise[:, level], color=blues[level], width=0.85, label=ORDINALS[level])
    marks = axes.hlines(true[:, level], where - 0.45, where + 0.45, color="C1", lw=2)
    for x, code in zip(where.tolist(), trie.codes[clicks[0], level].tolist(), strict=True):
        axes.text(x, -0.08, code, ha="center", va="top", fontsize=8)
marks.set_label("true law")
axes.axhline(torch.tensor(float(trie.size)).log(), color="0.6", lw=0.8, ls=":", label="uniform over codes")
axes.set_xticks([(trie.levels + 1) * place + 1 for place in range(len(surprise))])
axes.set_xticklabels([f"click {place}" for place in range(1, len(surprise) + 1)])
axes.tick_params(axis="x", length=0, pad=14)
axes.set(ylabel="$-\\log$ probability, nats")
axes.legend(fontsize=8, ncol=5, loc="upper center", bbox_to_anchor=(0.5, 1.18), frameon=False)
plt.show()

# %% [markdown]
# A bar is how much a code surprised the policy; a mark, how much it surprises one who knows the law. The law
# knows the user from the start. The policy meets a stranger and gets to know them click by click.

# %% tags=["hide"]
book.say(
    f"The mean over these {surprise.numel()} codes is {surprise.mean():.2f} nats for the policy and "
    f"{true.mean():.2f} for the law. One user's clicks may favour either; only in the mean over many draws "
    "is nothing below the law."
)

# %% [markdown]
# ## The loss
#
# The bars are also the loss of supervised training: the negative log-likelihood, **NLL**, of every code of
# every click, in the mean over a batch. (The figures below count nats per item, the sum over its $L$ codes.)
#
# $$
# \mathcal{L} = -\frac{1}{L \cdot \mathrm{clicks}} \sum_{\mathrm{clicks}} \sum_{l=1}^{L} \log \pi(y^l \mid
# \text{all before})
# $$
#
# NLL of the target is AdaGRPO's supervised term [paper: 2606.08480]. That every click of a sequence is a
# target, not just the last, is SASRec's [paper] and ours here.

# %% tags=["hide"]
book.show(training.nll)

# %% [markdown]
# That is all of supervised training: this sum, divided, and AdamW. The weights that are kept are those of
# the epoch that ranked best on *validation* users. Test users chose nothing.
#
# ## What could it know?
#
# No policy can be above the law. But no policy can reach it either, and that is not the policy's fault: the
# law knows the user's taste $w$, a policy has the period and a few clicks. So how good could a policy be?
#
# In this world that can be computed. A taste is the normalised sum of two item vectors of one half of the
# catalogue, so there is a finite number of tastes. Take each in turn, ask how likely it makes the clicks so
# far, and average the law over all tastes with those weights:
#
# $$p(y \mid \mathrm{clicks}) = \sum_w p(w \mid \mathrm{clicks}) p^{\ast}(y \mid w, \mathrm{last})$$
#
# with $p(w \mid \mathrm{clicks})$ by Bayes' rule, and all of it given the user's period [definition; that it is held
# against the policy is ours]. We call it the **best from clicks**. It knows how the world was made, all but the user. In the code below, `belief` is
# $\log p(w, \mathrm{clicks})$.

# %%
halves = [(truth.tail == half).nonzero()[:, 0] for half in (0, 1)]  # the items of A, those of B
pairs = [torch.combinations(half, 2, with_replacement=True) for half in halves]
pairs = torch.cat(pairs)  # (S, 2) all tastes; different items come in two orders
prior = torch.where(pairs[:, 0] == pairs[:, 1], 1.0, 2.0).log().log_softmax(0)  # (S,)
taste = torch.nn.functional.normalize(truth.latent[pairs].sum(1))
liking = (truth.beta * truth.latent @ taste.T).float()  # (N, S)
liking_exp = liking.exp()


def best_from_clicks(user: torch.Tensor, clicks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """NLL of each click given those before (B, E), and p of all items as the last one (B, N)."""
    belief = prior.expand(len(user), -1)  # (B, S)
    evidence = [belief.logsumexp(1)]
    for place, item in enumerate(clicks.unbind(1)):
        pull = truth.bias[truth.period[user]]  # (B, N) what the law has beside taste
        if place:
            pull = pull + world.LAST * truth.latent[clicks[:, place - 1]] @ truth.latent.T
        pull, before = pull.float(), belief
        total = pull.exp() @ liking_exp  # (B, S) what the softmax divides by, for each taste
        belief = before + liking[item] + pull.gather(1, item[:, None]) - total.log()
        evidence.append(belief.logsumexp(1))
    weight = (before - evidence[-2][:, None]).exp()  # p(w | all clicks but the last)
    return -torch.stack(evidence, 1).diff(dim=1), weight / total @ liking_exp.T * pull.exp()


print(f"{len(taste):,} tastes")

# %% [markdown]
# Now all test users: six clicks to read, a seventh to predict. The policy's numbers come from one pass, by
# teacher forcing.

# %%
test = dataset.test
asked = test.batch(torch.arange(len(test)), cfg.history)
seven = torch.cat([asked.history, asked.targets], 1)  # (B, E)
parts = torch.arange(len(test)).split(40)
found = [best_from_clicks(asked.user[rows], seven[rows]) for rows in parts]
best_nll, best = (torch.cat(part) for part in zip(*found, strict=True))  # (B, E), (B, N)
with torch.no_grad():
    own = -model(asked.condition, trie.encode(seven))  # (B, E, L)
law_nll = -laws(asked, seven).gather(2, seven[..., None])[..., 0].log()  # (B, E)
popular = baselines.popularity(dataset.known, len(trie))(asked)
popular_nll = -(popular / popular.sum(1, keepdim=True)).gather(1, seven).log()

# %% tags=["hide"] caption="Left: the policy while it learns, each dot the mean since the one before, and on test users after. Right: test users."
lines = (book.RUN / "metrics.jsonl").read_text()
epochs, nlls = (
    torch.tensor([float(x) for x in re.findall(rf'"{k}": ([\d.]+)', lines)]) for k in ("epoch", "nll")
)
seen = range(seven.shape[1])
figure, (left, right) = plt.subplots(1, 2, figsize=(7.5, 3.1), width_ratios=[1, 1.5], sharey=True)
left.plot(epochs, nlls, "o-", color="C0")
left.axhline(best_nll.mean(), color="k", lw=1)
left.plot(epochs[-1], own.sum(2).mean(), "o", mfc="w", color="C0")
left.annotate("test users", (epochs[-1] - 0.6, own.sum(2).mean()), fontsize=8, va="center", ha="right")
left.annotate("best from clicks", (epochs[0] - 0.5, best_nll.mean() - 0.1), fontsize=8, va="top")
left.set(xlabel="epoch", ylabel="NLL, nats per item", title="mean over all clicks")
STYLES = [
    (popular_nll, "popularity", {"color": "0.6", "ls": ":"}),
    (own.sum(2), "policy", {"color": "C0", "marker": "o"}),
    (best_nll, "best from clicks", {"color": "k"}),
    (law_nll, "true law", {"color": "C1"}),
]
for values, name, style in STYLES:
    right.plot(seen, values.mean(0), **style)
    right.annotate(name, (6.2, values.mean(0)[-1]), fontsize=8, va="center")
right.set(xlabel="clicks seen", title="test users, by what was seen before", xlim=(-0.2, 7.7), xticks=seen)
plt.show()


# %% tags=["hide"]
def shifted(by: int | None) -> float:
    """The policy's NLL per item on test users when told another period, or none."""
    condition = asked.condition.clone()
    condition[:, 3] = 0 if by is None else (condition[:, 3] - 1 + by) % dataset.periods + 1
    with torch.no_grad():
        return -model(condition, trie.encode(seven)).sum(2).mean().item()


def users_nll(examples) -> float:
    """The policy's NLL per item on as many users as there are in the test."""
    some = examples.batch(torch.arange(len(test)), cfg.history + 1)
    with torch.no_grad():
        return -model(some.condition, trie.encode(some.history)).sum(2).mean().item()


policy_nll, ceiling = own.sum(2).mean(0), best_nll.mean(0)
book.say(
    f"The distance from best to law is what {cfg.history} clicks do not tell: "
    f"{ceiling[-1] - law_nll.mean(0)[-1]:.2f} nats at the last click. No training closes it. The distance "
    f"from policy to best is what the policy has not learned: {policy_nll[-1] - ceiling[-1]:.2f} nats."
)
book.say(
    f"On clicks that it was trained on its mean NLL is {users_nll(dataset.train):.2f}; on test users it is "
    f"{policy_nll.mean():.2f}, and on users left to reinforcement learning {users_nll(dataset.fresh):.2f}. What lies "
    "between them does not carry over to others. That is why RL gets users that the policy was never fitted to."
)
book.say(
    "The condition is read, too. Told that the period is unknown, the policy has a mean NLL of "
    f"{shifted(None):.2f} in place of {shifted(0):.2f}; told the opposite period, "
    f"{shifted(dataset.periods // 2):.2f}."
)

# %% [markdown]
# ## Which code is hard?
#
# At the last click of the test users, code by code, in nats:

# %%
hard = {
    "policy": own[:, -1].mean(0),
    "best from clicks": -in_codes(best, seven[:, -1]).mean(0),
    "true law": -in_codes(dataset.law(asked), seven[:, -1]).mean(0),
}
print(f"{'':18}" + "".join(f"{name:>12}" for name in ORDINALS))
for name, values in hard.items():
    print(f"{name:18}" + "".join(f"{value:12.2f}" for value in values.tolist()))

# %% tags=["hide"]
gap = hard["policy"] - hard["best from clicks"]
spare = hard["best from clicks"] - hard["true law"]
book.say(
    f"The largest part of what clicks do not tell ({spare.max():.2f} of {spare.sum():.2f} nats) lies in the "
    f"{ORDINALS[spare.argmax()]}, the largest part of what the policy has not learned ({gap.max():.2f} of "
    f"{gap.sum():.2f}) in the {ORDINALS[gap.argmax()]}. The third "
    "code has few choices left: chapter 1 counted them."
)

# %% [markdown]
# ## Floors
#
# A number for a policy says little until something simple stands beside it. The floors know no codes and
# have no parameters to train; they count.
#
# - **popularity**: the most clicked items, the same for everybody;
# - **Markov**: what came most often right after the last item;
# - **item-kNN**: items that were clicked near the items of the context, more if after them; recent ones count
#   more.
#
# Every method ranks the whole catalogue: floors by their scores, the policy by beam search (chapter 3). On a
# real log one then asks whether the one held-out click is in the top $K$. Here the law is known, so the
# metric is its expectation over all clicks that might have come [definition]:
#
# $$
# \mathrm{HR@}K = \sum_{k \le K} p^{\ast}(y_k), \qquad \mathrm{NDCG@}K = \sum_{k \le K}
# \frac{p^{\ast}(y_k)}{\log_2(k + 1)}
# $$

# %% tags=["hide"]
book.show(metrics.expected_metrics)

# %%
results = evaluation.floors(dataset, test, cfg)
results["policy"] = evaluation.evaluate_policy(model, trie, dataset, test, cfg, full=False)
results["best from clicks"] = evaluation.evaluate_scorer(
    lambda batch: best[batch.user - test.user[0]], dataset, test, cfg
)
columns = ("hr@10", "ndcg@10", "tail recall@10", "coverage@10")
print(f"{'':18}" + "".join(f"{name:>16}" for name in columns))
for name in ("popularity", "markov", "item-kNN", "policy", "best from clicks", "true law"):
    row = evaluation.summary(results[name])
    print(f"{name:18}" + "".join(f"{row[column]:16.3f}" for column in columns))

# %% tags=["hide"]
ndcg = {name: result.values["ndcg@10"] for name, result in results.items()}
floor = max(baselines.FLOORS, key=lambda name: ndcg[name].mean())
difference, low, high = metrics.paired_bootstrap(ndcg["policy"], ndcg[floor], cfg.seed)
room = (ndcg["best from clicks"] - ndcg[floor]).mean().item()
tails = {name: evaluation.summary(results[name])["tail recall@10"] for name in ("policy", floor)}
book.say(
    f"The best floor is {floor}. The policy's NDCG@10 minus that floor's is {difference:+.4f} (95 % interval "
    f"{low:+.4f} to {high:+.4f}, over users). That is {difference / room:.0%} of the way from the floor to "
    f"the best from clicks. On the tail, the least clicked items, which have a third of the clicks, the policy "
    f"finds {tails['policy']:.3f} of the targets and {floor} {tails[floor]:.3f}. (The floors count "
    f"all clicks of {len(dataset.users):,} users before the test targets. The policy has learned from "
    f"{len(dataset.train):,} users.)"
)

# %% [markdown]
# This is where reinforcement learning begins. In HR and NDCG no method can be above `true law`, and that row stands
# in all tables of this world. (Tail recall and coverage have no such bound: one can rank for them alone.) `best from
# clicks` is the tighter bound: in the mean over users, no method that reads the same clicks and the period can have
# a higher HR or NDCG, whatever its reward.
#
# ## Exercises
#
# - Build: [`exercises/ch02_build.py`](exercises/ch02_build.py). `Policy.forward` without `Policy.forward`. From hidden states to the
#   log-probability of every code: the shift, the levels, the tied table, the padding.
# - Find the bug: [`exercises/ch02_bug.py`](exercises/ch02_bug.py). The NLL of users with histories of many lengths. It falls when the
#   policy is trained, as it should, and is wrong before and after.
#
# `pytest tutorials/exercises -k ch02` says when you are done; ours are in `solutions/`.
#
# ## What you can do now
#
# Read a policy: feed it any item and get its probability, code by code (`Policy.forward`); see by how much
# the NLL, and by how much the ranking, falls short of what can be known; and put floors beside it
# (`evaluation.floors`, `evaluation.evaluate_policy`). On a run of yours, `python -m minirec.evaluate --run
# runs/tiny`.
#
# ## What we left out
#
# - The block itself: pre-norm attention with rotary positions, forty lines of `minirec/policy.py`.
# - The two other passes, `encode` and `branch`, which compute a prompt once for many continuations. Chapter 3
#   needs them.
# - SASRec as a row of the table. `python -m minirec.train --tiny` trains it beside the policy.
# - Whether a larger policy or longer training comes nearer to the ceiling. Settings are chosen on validation,
#   and this run is small so that a laptop can make it in half a minute.
#
# ## Next
#
# [3 · Rollouts: score what you sample](ch03_rollouts.md): what is a sample worth if it is scored under another distribution?
