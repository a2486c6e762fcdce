# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 1 · Codes
#
# **How does an item become a few tokens?**
#
# A language model writes words out of a small set of tokens. A generative recommender writes items in the
# same way: each item is spelled by a few **codes**, and similar items begin with the same code.

# %%
# introduces: minirec.data.prepare minirec.data.codes minirec.trie minirec.data.vectors minirec.records
from unittest import mock

import book
import matplotlib.pyplot as plt
import torch

from minirec import settings
from minirec.data import codes, prepare, vectors, world
from minirec.trie import Trie

cfg = settings.TINY
dataset, said = prepare.read(cfg)  # the click log; here a simulated one
fitted, _ = prepare.encode(dataset, cfg)  # a tuple of codes for each item
trie = Trie(fitted.codes, fitted.size)  # the tuples as a tree
print(said)
row = int((dataset.train.user == book.USER).nonzero()[0])
clicks = dataset.train.batch(torch.tensor([row]), cfg.world_events).history[0]  # of one user
target = int(clicks[-1])
points = vectors.item_vectors(dataset, cfg.seed)  # (N, dimensions)

# %% tags=["hide"] caption="The items' map, their code tree, and one branch of it. Black: one user's clicks."
COLOURS = plt.get_cmap("viridis")


def colour(code: int) -> tuple:
    """Of a code; the palest end of the map is left out."""
    return COLOURS(code / (fitted.size + 1))


def flat(points: torch.Tensor, neighbours: float = 15.0, steps: int = 400) -> torch.Tensor:
    """A map (N, 2) on which neighbours stay neighbours: t-SNE. It reads distances, and no codes."""
    far, itself = torch.cdist(points, points).square(), torch.eye(len(points), dtype=torch.bool)
    low, high = torch.full((len(points), 1), 1e-6), torch.full((len(points), 1), 1e6)
    for _ in range(60):  # for each point the width at which it has so many neighbours
        sharp = (low * high).sqrt()
        near = (-sharp * far).masked_fill(itself, -1e9).softmax(1)
        wide = torch.special.entr(near).sum(1, keepdim=True) > torch.tensor(neighbours).log()
        low, high = torch.where(wide, sharp, low), torch.where(wide, high, sharp)
    near = (near + near.T) / (2 * len(points))
    centred = points - points.mean(0)
    place = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T
    place, speed = 0.01 * place / place.std(), torch.zeros_like(place)
    for step in range(steps):
        early = step < 100
        close = (1 / (1 + torch.cdist(place, place).square())).masked_fill(itself, 0)
        pull = (near * (8 if early else 1) - close / close.sum()) * close
        speed = (0.5 if early else 0.8) * speed - 400 * (pull.sum(1, keepdim=True) * place - pull @ place)
        place = place + speed
    return place


def draw_map(axes, place: torch.Tensor, code: torch.Tensor) -> None:
    """Points coloured by a code, with its number above them."""
    axes.scatter(*place.T, c=[colour(c) for c in code.tolist()], s=7)
    for c in code.unique().tolist():
        own = place[code == c]
        x, y = own[torch.cdist(own, own.median(0).values[None])[:, 0].argmin()].tolist()
        top = max(b for a, b in own.tolist() if abs(a - x) + abs(b - y) < 8)
        axes.text(x, top + 0.7, c, ha="center", va="bottom", fontsize=7)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def height(prefix: list[int]) -> float:
    """Where a prefix stands among all V^L tuples: the middle of those that begin with it."""
    rooms = [fitted.size ** (trie.levels - 1 - level) for level in range(trie.levels)]
    start = sum(code * room for code, room in zip(prefix, rooms, strict=False))
    return start + fitted.size ** (trie.levels - len(prefix)) / 2


place = flat(points)

figure, (left, tree, zoom) = plt.subplots(1, 3, figsize=(7.5, 4.1), width_ratios=[2.2, 1.4, 1.2])
draw_map(left, place, fitted.codes[:, 0])
left.scatter(*place[clicks].T, marker="*", s=45, color="k")
left.set_title("item vectors, in two dimensions")
for item in [*range(len(trie)), *clicks.tolist()]:
    codes_of = trie.codes[item].tolist()
    style = {"color": "k", "lw": 1} if item in clicks else {"color": colour(codes_of[0]), "lw": 0.4}
    tree.plot(range(trie.levels + 1), [height(codes_of[:n]) for n in range(trie.levels + 1)], **style)
white = {"boxstyle": "round,pad=0.1", "fc": "w", "ec": "none", "alpha": 0.85}
for code in range(fitted.size):
    tree.text(1, height([code]), code, ha="center", va="center", fontsize=7, bbox=white)
tree.set(xticks=range(trie.levels + 1), ylim=(fitted.size**trie.levels, 0), title="the tree")
tree.set_xticklabels(["root", "first", "second", "item"], fontsize=8)

first, second, third = trie.codes[target].tolist()
branch = sorted(codes_of for codes_of in trie.codes.tolist() if codes_of[0] == first)
for code in sorted({codes_of[1] for codes_of in branch}):
    leaves = [place_ for place_, codes_of in enumerate(branch) if codes_of[1] == code]
    middle = sum(leaves) / len(leaves)
    for leaf in leaves:
        here = trie.codes[clicks].tolist().count(branch[leaf]) > 0
        style = {"color": "k", "lw": 1.2} if here else {"color": colour(first), "lw": 0.7}
        zoom.plot([0, 1, 2], [(len(branch) - 1) / 2, middle, leaf], **style)
        zoom.text(2.06, leaf, branch[leaf][2], va="center", fontsize=6.5, weight="bold" if here else None)
    zoom.text(1, middle, code, ha="center", va="center", fontsize=7, bbox=white)
zoom.set(xticks=[0, 1, 2], ylim=(len(branch), -1), title=f"the branch of code {first}")
zoom.set_xticklabels(["first", "second", "third"], fontsize=8)
for axes in (tree, zoom):
    axes.spines[:].set_visible(False)
    axes.set_yticks([])
plt.show()

# %% [markdown]
# A number and its colour are a first code. Black are the clicks of `book.USER`; the branch is that of the
# last one. Gaps in the middle tree are tuples that no item has.
#
# The map is made from distances between item vectors alone; it is not told the codes. That the colours fall
# into place all the same is what this chapter explains.
#
# ## The click log
#
# A log is a list of events: a user, an item, a time. In memory it is one flat array of items, and each user
# is a slice of it. Nothing is padded until a batch is made.

# %% tags=["exact"]
train = dataset.train
print("user         ", train.user[row].item())
print("slice        ", train.start[row].item(), "to", train.stop[row].item())
print("items        ", train.events[train.start[row] : train.stop[row]].tolist())
for name in ("train", "fresh", "valid", "test"):
    print(f"{name:12} ", len(getattr(dataset, name)), "users")

# %% [markdown]
# Training sequences have no target of their own: each item is predicted from those before it. `valid` and
# `test` hide the last item. `fresh` are training users that supervised learning does not get; reinforcement
# learning will need contexts that the policy has not been fitted to.
#
# ## The world behind it
#
# On a real log nobody knows what a user would have clicked. So the book runs on a simulated one, where that
# is known. Its items stand in a topic tree. Its users have a **taste** $w$ and a **period**; an item has a
# vector $e$ that says who likes it. A user's next click is drawn from the law
#
# $$p^{\ast}(y) = \mathrm{softmax}_y (\beta \langle w, e_y \rangle + 2 \langle e_{last}, e_y \rangle + b_{t,y})$$
#
# with $b_t$ the log popularity in period $t$ [ours]. In the code, `query` is
# $\beta w + 2 e_{last}$.

# %% tags=["hide"]
book.show(world.World._law)

# %%
truth = dataset.world
user = torch.tensor([book.USER])
period = int(truth.period[user])
every = torch.arange(len(trie))[None]
popular = truth.bias[period].softmax(0)
taste = (truth.beta * truth.affinity(user, every)[0] + truth.bias[period]).softmax(0)
now = dataset.law(train.batch(torch.tensor([row]), cfg.history))[0]  # after the whole history

# %% tags=["hide"] caption="The law of one user, term by term. Exact; note the scales."
order = truth.place[:, 0].argsort(stable=True)  # by topic
topics = torch.bincount(truth.place[:, 0])
ends = topics.cumsum(0)
figure, rows = plt.subplots(3, 1, figsize=(7.5, 4.2), sharex=True)
NAMES = ["popularity of the period", "and the user's taste", "and the last click"]
for axes, probability, name in zip(rows, (popular, taste, now), NAMES, strict=True):
    axes.bar(range(len(order)), probability[order], width=1, color="C0")
    axes.set_title(name, loc="left", fontsize=9)
    for end in ends[:-1]:
        axes.axvline(end - 0.5, color="0.88", lw=0.6, zorder=0)
    axes.set(xlim=(-0.5, len(order) - 0.5), ylabel="probability")
rows[-1].set_xticks(ends - topics / 2 - 0.5, range(len(topics)))
rows[-1].set_xlabel("item, by topic")
where = order.argsort()[clicks]  # of the clicks on the axis
rows[1].plot(where, torch.zeros(len(where)), "^", color="C1", clip_on=False, label="all clicks")
rows[2].plot(where[-1], 0, "^", color="C1", clip_on=False, label="the last click")
for axes in rows[1:]:
    axes.legend(fontsize=8, loc="upper left")
plt.show()

# %% tags=["hide"]
nats = [torch.special.entr(p).sum().item() for p in (popular, taste, now)]
book.say(
    f"The entropy goes from {nats[0]:.2f} to {nats[1]:.2f} to {nats[2]:.2f} nats "
    f"(all {len(trie)} items equally likely: {torch.tensor(float(len(trie))).log():.2f}). "
    f"What is left is chance: even the best guess is right with probability {now.max():.2f} only, and no "
    "policy can be right more often about this click. So result tables here have a row `true law`."
)

# %% [markdown]
# ## Item vectors
#
# Codes are made from vectors. There are two kinds. **Side information** says what an item *is*: here
# `catalogue.features`, on real data brands and categories. **Co-occurrence** says which items stand near
# each other in training sequences; it needs nothing but clicks. On the world the features are used. They
# are not the $e$ of the law: the policy must learn who likes what from clicks.

# %%
together = vectors.cooccurrence_vectors(dataset.train, len(trie), vectors.WIDTH, cfg.seed)
print("features     ", tuple(points.shape))
print("co-occurrence", tuple(together.shape))

# %% [markdown]
# ## Residual k-means, level by level
#
# The first code of an item is the nearest of $V$ centroids. Subtract the mean of all that have it. What is left, the
# **residual**, gets the second code from $V$ centroids of its own, and so on:
#
# $$v^0 = v, \qquad k_l = \arg\min_k \lVert u^{l-1} - m^l_k \rVert, \qquad v^l = v^{l-1} - \mu^l_{k_l}$$
#
# Here $m^l_k$ are the centroids that k-means finds among the points $u^{l-1}$, and $\mu^l_k$ is the mean of the
# residuals $v^{l-1}$ that have code $k$. On the first level $u = v$, and $m$ and $\mu$ are the same. From the second
# level on, $u$ is the residual scaled to length 1, so that its direction alone decides [ours]. On a real log
# residuals differ in length. As they are, k-means would put the short ones, wherever they point, into one crowd of
# items with the same code (`bench/LOG.md`). Residual quantisation of item vectors into codes is TIGER's
# [paper: 2305.05065]; it learns the centroids in an autoencoder, k-means in its place is ours. The loop over levels:

# %% tags=["hide"]
book.show(codes.fit)

# %% [markdown]
# For the item that our user clicked last:

# %%
residual = points[target]
print(f"{dataset.catalogue.titles[target]}, length {residual.norm():.3f}")
for level, code in enumerate(fitted.codes[target].tolist()):
    residual = residual - fitted.centroids[level, code]
    print(f"code {code:2} of level {level + 1} leaves a residual of length {residual.norm():.3f}")

# %% tags=["hide"] caption="What each level has to explain. Colour and number are the code of that level; a number stands once."
figure, panels = plt.subplots(1, trie.levels, figsize=(7.5, 3))
residual, titles = points, ["the vectors", "what one code left over", "what two codes left over"]
for level, axes in enumerate(panels):
    draw_map(axes, flat(residual) if level else place, fitted.codes[:, level])
    axes.set_title(titles[level])
    residual = residual - fitted.centroids[level, fitted.codes[:, level]]
plt.show()

# %% [markdown]
# Subtract the topic, and items of all topics fall into clusters again. In this world that is so by
# construction: the deeper branches of the tree are the same in every topic. So a second code means the same
# after every first one, and what a policy learns about it holds for the whole catalogue. That is said of
# what items *are*. Who *likes* them is another matter: in the half of the topics marked (B) in the titles,
# the same deeper codes appeal to other users than in (A). Chapter 4 uses it to make a reward wrong.
#
# ## How good are the codes?

# %%
other = codes.fit(together, cfg.levels, cfg.codes, cfg.seed)
print(codes.summary(fitted, points))
print("from co-occurrence:")
print(codes.summary(other, together))

# %% tags=["hide"]
found, merged = [], []
for level in range(trie.levels):
    pairs = truth.place[:, level] * fitted.size + fitted.codes[:, level]
    table = torch.bincount(pairs, minlength=fitted.size**2).view(-1, fitted.size)  # (branches, V)
    found.append(table.amax(1).sum().item() / len(trie))
    merged.append(len(table) - len(table.argmax(1).unique()))
book.say(
    "Entropy says whether all codes are used. The residual is the share of the squared length that no code "
    "explains yet. In the world there is also a truth to compare with: the tree that the items were made "
    "from. Name each true branch by its commonest code. Then "
    + ", ".join(f"{share:.0%} of the items on level {n}" for n, share in enumerate(found, 1))
    + " have the code of their branch. Some branches have no code of their own and share a name with another: "
    f"{', '.join(map(str, merged))}, level by level. In the figure above such branches are "
    "clusters of one colour."
)
book.say(
    "Vectors from co-occurrence know neither features nor tree, only clicks, and they leave "
    f"{codes.usage(other, together)[-1]['residual']:.0%} of the squared length unexplained. "
    "Where a log has no side information, there is nothing else."
)

# %% [markdown]
# ## Two items, one tuple
#
# Nothing in k-means keeps two items from getting the same codes. Then a policy could not say which one it
# means. TIGER appends one more code to tell them apart [paper]; here [ours] the item that fits worse moves
# to a free tuple nearby. It gives up its last code first, an earlier one only when nothing is free.

# %% tags=["hide"]
book.show(codes._free_tuple)

# %%
with mock.patch.object(codes, "_settle", lambda vectors, centroids, chosen, order: chosen):
    own = codes.fit(points, cfg.levels, cfg.codes, cfg.seed)  # what k-means alone would have said
moved = (own != fitted.codes).any(1).nonzero()[:, 0]
stays_at = trie.lookup(own[moved])  # who has the tuple now
for item, stays in zip(moved.tolist(), stays_at.tolist(), strict=True):
    leaves, takes = tuple(own[item].tolist()), tuple(fitted.codes[item].tolist())
    title, other_title = dataset.catalogue.titles[item], dataset.catalogue.titles[stays]
    print(f"{title:20} leaves {leaves!s:12} to {other_title:20} and takes {takes}")

# %% tags=["hide"]
own_place = truth.place[moved]
partner = truth.place[stays_at]
near = int((own_place[:, :-1] == partner[:, :-1]).all(1).sum())
book.say(
    f"Items that moved: {fitted.moved} of {len(fitted.codes)}; with codes from co-occurrence, {other.moved}. "
    f"Titles are places in the true tree. Of the pairs printed above, {near} of {len(moved)} differ in the last "
    "branch alone: k-means gave one code to two branches."
)

# %% [markdown]
# ## Which item is this, and what if none?
#
# The **trie** is the catalogue as tensors: a node is a prefix, and its children are the codes that may
# follow. It answers two questions. Which item is a tuple? And which codes may come next? A catalogue of
# three items, to see all of it:

# %% tags=["exact"]
toy = Trie(torch.tensor([[0, 1], [0, 2], [2, 0]]), size=3)  # items 0, 1, 2
print("lookup (2, 0):", toy.lookup(torch.tensor([2, 0])).item())
print("lookup (2, 1):", toy.lookup(torch.tensor([2, 1])).item())
print("lookup (1, 0):", toy.lookup(torch.tensor([1, 0])).item())
root = torch.tensor(0)
print("first codes:  ", toy.allowed(0, root).tolist())
print("after 0:      ", toy.allowed(1, toy.descend(0, root, torch.tensor(0))).tolist())

# %% [markdown]
# A tuple that is no item gives `HOLE`, which is -1. That is not an error: a policy without a mask can say
# such a tuple. It is called a *hallucination*, and its rate is measured. Nothing may follow a prefix that no
# item has, and to ask for the masks along a tuple that leaves the tree is an error:

# %% tags=["exact"]
print(toy.allowed(1, toy.descend(0, root, torch.tensor(1))).tolist())
try:
    toy.masks(torch.tensor([1, 0]))
except ValueError as error:
    print(error)

# %% [markdown]
# The answer "nothing is forbidden" would be the worst: a mask that silently turns into no mask lets a
# sampler say holes while everybody believes that it cannot.

# %% tags=["hide"]
book.show(Trie.allowed, Trie.lookup)

# %% [markdown]
# Nothing here loops over items or contexts. The children of a node are a slice of one array, so the mask of
# a step reads at most $V$ codes, however large the catalogue is; `lookup` searches sorted keys.

# %%
masks = trie.masks(trie.codes[target])  # (L, V)
for level, allowed in enumerate(masks):
    prefix = tuple(trie.codes[target, :level].tolist())
    print(f"after {prefix!s:8} {int(allowed.sum()):2} codes: {allowed.nonzero()[:, 0].tolist()}")

# %% tags=["hide"]
nodes = [len(level) for level in trie.key]
alone = int((trie.first[-1].diff() == 1).sum())
whole = fitted.size**trie.levels
book.say(
    f"The tree has {nodes[0]} first codes, {nodes[1]} prefixes of two and {nodes[2]} items, out of "
    f"{whole:,} tuples: {len(trie) / whole:.1%} of the tuples are items, the rest are holes. A prefix of "
    f"two has {nodes[2] / nodes[1]:.1f} items in the mean; {alone} of them have one only, and there the mask "
    "leaves the last code no choice. Chapter 3 shows what that does to probabilities."
)

# %% [markdown]
# ## What you can do now
#
# Turn a catalogue into code tuples (`codes.fit`), judge them (`codes.summary`), and go from a tuple to an
# item and back (`trie.lookup`, `trie.encode`). Your own log takes one line: `python -m minirec.train --data
# ratings.csv`.
#
# ## What we left out
#
# - How real logs are read, filtered and split without a leak: `minirec/data/`.
# - Whether better codes make a better policy. More levels or codes mean fewer collisions and more holes;
#   which is best is a question for validation.
#
# ## Next
#
# [2 · A policy over items](ch02_policy.md): how does a transformer say an item, and how good is that before
# any RL?
