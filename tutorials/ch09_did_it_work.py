# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # 9 · Did it work?
#
# **How do you know that a method works?**

# %% tags=["hide"] caption="One method against eight others. Bars: 95 % intervals over seeds. Hollow: none was recorded."
import re

import book
import matplotlib.pyplot as plt

Value = tuple[float, float, float]  # a number, and the ends of its interval
STYLE = {"above": ("C0", "o"), "below": ("C1", "s"), "level": ("0.5", "D")}


def value(cell: str, scale: float = 1) -> Value:
    """Of ``+1.2 ± .3``, ``+1.2 (+.9 to +1.5)`` or ``1.2`` the number and its interval."""
    first, *rest = (scale * float(n) for n in re.findall(r"[+-]?\d*\.\d+", cell))
    return (first, first - rest[0], first + rest[0]) if len(rest) == 1 else (first, *(rest or (first, first)))


def verdict(v: Value) -> str:
    """Where an interval lies."""
    return "above" if v[1] > 0 else "below" if v[2] < 0 else "level"


def forest(axes, rows: dict[str, Value]) -> None:
    """Intervals under each other; colour and shape say where they lie."""
    for y, v in enumerate(rows.values()):
        colour, mark = STYLE[verdict(v)]
        axes.plot(v[1:], [y, y], color=colour, lw=1.6)
        axes.plot(v[0], y, mark, color=colour, ms=5, mfc="w" if v[1] == v[2] else colour)
    axes.axvline(0, color="k", lw=0.8)
    axes.set(yticks=range(len(rows)), ylim=(len(rows) - 0.4, -0.6))
    axes.set_yticklabels(rows, fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


weak, sparse = (
    {k: r for t in book.tables(f"claims_recast-{name}").values() for k, r in t.items()}
    for name in ("weak", "sparse")
)
own = float(weak["ReCast"][1])
CALLED = {"start": "its own start", "GRPO, samples": "GRPO on samples", "GRPO, beams": "GRPO on beams"}
PLAIN = ("start", "item-kNN", "true law")
against = {CALLED.get(name, name): (own - float(weak[name][0]),) * 3 for name in PLAIN}
ARMS = ("supervised continued", "GRPO, samples", "GRPO, beams", "repair alone", "contrast alone")
against |= {CALLED.get(name, name): value(weak[name][3]) for name in ARMS}
against = dict(sorted(against.items(), key=lambda pair: -pair[1][0]))
figure, axes = plt.subplots(figsize=(7.5, 2.7))
forest(axes, against)
axes.set_xlabel("ReCast minus this, HR@10, points")
plt.show()

# %% tags=["hide"]
where = {
    kind: ", ".join(name for name, v in against.items() if verdict(v) == kind and v[1] < v[2])
    for kind in STYLE
}
plain = [f"{'above' if v[0] > 0 else 'below'} {name}" for name, v in against.items() if v[1] == v[2]]
book.say(
    "This is ReCast in a regime made for it: targets nearly certain, a weak start, most groups silent "
    "(`bench/results/claims_recast-weak.md`, by `python -m bench.claims recast-weak`). It reaches HR@10 "
    f"{own:.1f}. It beats {where['above']}. It loses to {where['below']}. It is level, as far as the seeds can "
    f"tell, with {where['level']}. Without an interval, it is {', '.join(plain)}."
)

# %% [markdown]
# All of that is true at once. A table with two rows can tell whichever part of it one likes. So the question
# is not whether a method works, but: better than what, asked how, by how much, and would it come out so
# again? This chapter takes these in turn.

# %%
# introduces: minirec.measure.report
import math
from dataclasses import replace

import torch

from minirec import loop, objectives, tasks
from minirec.data.dataset import contexts
from minirec.measure import baselines, evaluation, exact, metrics, report
from minirec.models import ranker
from minirec.records import Batch, Experience, Objective, Signal

run = book.trained()
policy, trie, dataset, cfg = run.policy, run.trie, run.dataset, run.cfg

# %% [markdown]
# ## Rank everything
#
# To evaluate is to rank the whole catalogue and to ask where the target stands. One may also rank the target
# among 99 items drawn at random. That is cheaper, and it is another question. If the target's true rank is
# $r$ of $N$, it is among the ten best of the 100 when fewer than ten of those 99 come from the $r - 1$ items
# above it [definition; hypergeometric]:
#
# $$P(\mathrm{hit}) = \sum_{j \lt 10} \binom{r-1}{j} \binom{N-r}{99-j} \Big/ \binom{N-1}{99}$$


# %%
def sampled_hit(rank: int, items: int, drawn: int = 99, top: int = 10) -> float:
    """Chance that a target of this rank is in the top of itself and some items drawn at random."""
    ways = [math.comb(rank - 1, j) * math.comb(items - rank, drawn - j) for j in range(top)]
    return sum(ways) / math.comb(items - 1, drawn)


# %% tags=["hide"] caption="Which ranks count as a hit. Exact."
figure, axes = plt.subplots(figsize=(7.5, 2.5))
half, BEAUTY = {}, 12_101
for size, style, words in ((len(trie), "-", (13, 0.35)), (BEAUTY, "--", (190, 0.35))):
    ranks = sorted({round(size ** (i / 120)) for i in range(121)})
    chance = [sampled_hit(rank, size) for rank in ranks]
    half[size] = max(rank for rank in range(1, size // 4) if sampled_hit(rank, size) >= 0.5)
    axes.plot(ranks, chance, "C0" + style)
    axes.text(*words, f"of 100,\ndrawn from\n{size:,} items", fontsize=8, color="C0")
axes.step([1, 10, 10.5], [1, 1, 0], "k", where="post")
axes.text(3.2, 0.5, "of all items", fontsize=8)
axes.set(
    xscale="log", xlabel="true rank of the target", ylabel="chance to be in the top 10", ylim=(-0.03, 1.08)
)
plt.show()

# %% tags=["hide"]
book.say(
    f"In our world the sampled metric counts a target of rank {half[len(trie)]} as a hit half of the time. In a "
    f"catalogue of {BEAUTY:,} items, that of Amazon Beauty, it is rank {half[BEAUTY]:,}. No screen is so "
    "long. What that does to our methods, exact under the law:"
)


# %%
@torch.no_grad()
def says(batch: Batch, model=policy) -> torch.Tensor:
    """A policy's log-probability of every item, (B, N), a hundred contexts at a time."""
    parts = zip(batch.condition.split(100), trie.encode(batch.history).split(100), strict=True)
    return torch.cat([exact.item_logprobs(model, model.encode(*part), trie) for part in parts])


test, N = dataset.test.batch(torch.arange(len(dataset.test)), cfg.history), len(trie)
law = dataset.law(test)
scorers = {name: fit(baselines.before_test(dataset), N) for name, fit in baselines.FLOORS.items()}
scorers |= {"supervised": says, "true law": dataset.law}
by_rank = torch.tensor([sampled_hit(rank, N) for rank in range(1, N + 1)], dtype=torch.float64)
rows = []
for name, scorer in scorers.items():
    chance = law.gather(1, baselines.top_k(scorer(test), None, N)).mean(0)  # by rank
    full = {f"hr@{k}": chance[:k].sum().item() for k in (10, 50)}
    rows.append({"method": name, **full, "hr@10 of 100": (chance @ by_rank).item()})
print(report.table(rows, list(rows[0])))

# %% tags=["hide"]
apart = max(abs(row["hr@10 of 100"] - row["hr@50"]) for row in rows)
log = " ".join((book.ROOT / "bench/LOG.md").read_text().split())
deep = re.search(
    r"recall@50 is the same \((\.\d+), (\.\d+)\), ndcg@5 is not \((\.\d+), (\.\d+)\)", log
).groups()
book.say(
    f"The last two columns differ by {apart:.3f} at most: out of 100, HR@10 is HR@50 by a better-looking name. "
    "It asks whether a method finds the right corner of the catalogue, and not what it puts on top. On Beauty "
    "even rank 50 is far from the top: a policy of three codes per item and one of a single code have recall@50 "
    f"{deep[0]} and {deep[1]}, and ndcg@5 {deep[2]} and {deep[3]} (`bench/LOG.md`)."
)

# %% [markdown]
# ## One click, or the law
#
# Take one context, that of `book.USER` with the last click hidden. On real data that click is all there is:
# a list of ten has it, or has not. In the simulated world we know with which probability *any* item would
# have been clicked.

# %%
every = contexts(dataset.train.select((dataset.train.user == book.USER).nonzero()[0]))
context = every.batch(torch.tensor([len(every) - 1]), cfg.history)
rows = []
for name, scorer in scorers.items():
    top = baselines.top_k(scorer(context), None, metrics.WIDTH)
    click = metrics.metrics(top, context.targets)["hr@10"].item()
    chance = metrics.expected_metrics(top, dataset.law(context))["hr@10"].item()
    rows.append({"method": name, "hr@10, this click": int(click), "in expectation": chance})
print(report.table(rows, list(rows[0])))

# %% tags=["hide"]
ceiling = rows[-1]["in expectation"]
book.say(
    "(Floors and policy saw this click in training; a test it is not.) Even the ten likeliest items under the "
    f"law hold the next click with probability {ceiling:.2f} only. So much of a counted metric is luck that "
    "no method has in its hands. In expectation the hit rate of a list is the law summed over it, and for NDCG "
    "the law weighted by the discount of the rank [definition]:"
)
book.show(metrics.expected_metrics)

# %% [markdown]
# With that no luck of clicks is left in a table. What is left is the luck of which contexts were asked.
#
# ## Pairs
#
# Two methods are compared on the same contexts. Some contexts are easy for both, some hard for both; the
# difference within a context is free of that. Draw as many contexts anew, with replacement, take the mean
# difference, and do so 2,000 times: the middle 95 % of these means are the interval [definition: Efron's
# percentile bootstrap].

# %% tags=["hide"]
book.show(metrics.paired_bootstrap)

# %%
results = evaluation.floors(dataset, dataset.test, cfg)
results["supervised"] = evaluation.evaluate_policy(policy, trie, dataset, dataset.test, cfg, full=False)
METRIC = "ndcg@10"
pair = [results[name] for name in ("supervised", "item-kNN")]
by = {"one click each": [100 * metrics.metrics(method.items, test.targets)[METRIC] for method in pair]}
by |= {"the law": [100 * method.values[METRIC] for method in pair]}
other = torch.randperm(len(test), generator=book.stream(cfg.seed, book.USER))  # some other context
intervals = {}
for name, (a, b) in by.items():
    intervals[f"{name}, not paired"] = metrics.paired_bootstrap(a, b[other], cfg.seed)
    intervals[f"{name}, paired"] = metrics.paired_bootstrap(a, b, cfg.seed)

# %% tags=["hide"] caption="Two methods, the same test contexts, four intervals for their difference."
figure, axes = plt.subplots(figsize=(7.5, 1.7))
forest(axes, intervals)
axes.set_xlabel(f"supervised minus item-kNN, {METRIC}, points")
plt.show()

# %% tags=["hide"]
width = [v[2] - v[1] for v in intervals.values()]
book.say(
    f"The widest is {max(width) / min(width):.1f} times as wide as the narrowest. Intervals shrink with the "
    "root of the number of contexts, so pairs and law together do what "
    f"{(max(width) / min(width)) ** 2:.0f} times as many users would do."
)

# %% [markdown]
# ## Floors in every table
#
# A floor is a method without codes and without a gradient: what is popular, what came next most often, what
# is bought by the same users (`minirec/measure/baselines.py`). A policy that is not above them has not earned its
# parameters. So they stand in every table, and the report says in words who is above whom:

# %%
shown = ["method", "recall@5", "ndcg@5", "recall@10", "ndcg@10"]
compared = report.Results(results, "test")
print(report.table(compared.rows, shown))
in_words = report.sentences(report.differences(compared, cfg.seed))
book.say("\n".join(f"- {sentence}" for sentence in in_words))

# %% [markdown]
# Now a real log: Amazon Beauty, full ranking, items of the past masked, last item left out, one seed.

# %% tags=["hide"] caption="Amazon Beauty, test split. Orange: floors, and blue: policies, by the commands in the README and in bench/results/public.md. Grey: as others published."
readme = (book.ROOT / "README.md").read_text()
said, found = " ".join(readme.split()), {}
for line in readme[readme.index("| method | R@5") :].split("\n\n")[0].splitlines()[2:]:
    cells = [cell.strip(" *") for cell in line.strip("|").split("|")]
    found[cells[0].split(":")[0]] = (float(cells[3]), float(cells[4]))
PUBLISHED = {
    "TIGER": r"TIGER (\.\d+) / (\.\d+) at R@10 / N@10",
    "TIGER, run again": r"a re-run of it in Cornac (\.\d+) / (\.\d+)",
    "SASRec, best known": r"sampled softmax \(eSASRec\) (\.\d+) / (\.\d+)",
}
published = {
    name: tuple(map(float, re.search(pattern, said).groups())) for name, pattern in PUBLISHED.items()
}
span = tuple(map(float, re.search(r"in RecBole (\.\d+) to (\.\d+) / (\.\d+) to (\.\d+)", said).groups()))
FLOORS = ("Markov chain, first order", "item-kNN, directed")
LEFT = ("TIGER", "TIGER, run again", *FLOORS)
MORE = {"SASRec": "SASRec, one code"}
figure, axes = plt.subplots(figsize=(7.5, 3.2))
for name, point in (found | published).items():
    colour, mark = ("C1", "s") if name in FLOORS else ("C0", "o") if name in found else ("0.5", "D")
    if name != "popularity":
        side = {"ha": "right", "xytext": (-6, -3)} if name in LEFT else {"ha": "left", "xytext": (6, -3)}
        axes.plot(*point, mark, color=colour)
        axes.annotate(MORE.get(name, name), point, textcoords="offset points", fontsize=8, **side)
axes.plot(span[:2], span[2:], "D-", color="0.5")
axes.annotate("SASRec in RecBole", (span[1], span[3]), (6, -3), textcoords="offset points", fontsize=8)
axes.set(xlabel="recall@10", ylabel="ndcg@10", xlim=(0.054, 0.102), ylim=(0.032, 0.058))
plt.show()

# %% tags=["hide"]
users, events = (
    int(n.replace(",", "")) for n in re.search(r"\((\S+) users, .*? (\S+) events\)", said).groups()
)
tiger, best = published["TIGER"], found["policy of one code"]
plain, three = found["policy of three codes, no vectors"], found["policy of three codes"]
over = [name for name in FLOORS if found[name][1] > tiger[1]]
ours = [name for name in FLOORS if found[name][1] > plain[1]]
order = re.search(r"(\d+) % of a user's neighbouring events", log)[1]
book.say(
    f"Popularity, at {found['popularity'][0]:.3f} and {found['popularity'][1]:.3f}, is far off to the lower "
    f"left. Above the published TIGER on ndcg@10: {' and '.join(over)}; on recall@10 they are level with it or "
    f"above, and nobody published an interval. Above minirec's own policy of three codes, as the chapters have it, on "
    f"ndcg@10: {' and '.join(ours)}. How can counting beat a transformer?"
)
book.say(
    f"**By what the log is.** In this one {order} % of a user's neighbouring events stand in the order of the "
    "file of items (`bench/LOG.md`): time stamps are of days, and how a day was sorted shows through. Who follows "
    "whom is then written down in the counts, and the floors read nothing else. The policy of three codes "
    "finds the neighbourhood and is behind in the order of near neighbours; those were the two ndcg@5 above."
)
book.say(
    f"**By how little there is to learn from?** There are {events / users:.1f} events a user. But the policy of one "
    "code has no more, and on recall@10 it is above both floors, so that alone is not the reason. What it takes is "
    "to know both what is an item's own and what it shares. A code is shared by many items, so three codes alone "
    "blur near neighbours; an item's number shares nothing, so SASRec learns little of rare items. A vector per "
    f"item, its own plus those of its codes, brings three codes from {plain[1]:.3f} to {three[1]:.3f} on ndcg@10, "
    f"where it orders what the codes find, and one code from {found['SASRec'][1]:.3f} to {best[1]:.3f} "
    "(`Policy.vectors`; the policies of the other chapters have none)."
)
book.say(
    "**By care.** Floors have choices too: the weight that an older click has in our item-kNN, one of "
    f"{baselines.RECENCY}, is chosen on validation; and they are fitted on all that came before the test targets, "
    "the validation items included, as published item-kNN figures are. The policies learned without these. And "
    "what is called SASRec reaches "
    f"from {min(found['SASRec'][0], span[0]):.3f} to "
    f"{published['SASRec, best known'][0]:.3f} on recall@10. Who beats the name need not have "
    "beaten the method."
)
book.say(
    "**And some of it is open.** Published numbers are other people's runs, with other seeds and other small "
    "print. So the picture ranks nobody. It shows what a table without floors would have kept to itself."
)

# %% [markdown]
# ## A fair comparison
#
# Whatever is not the method must be the same. That is more than one thinks [ours]:
#
# | the same for all arms | or else |
# |---|---|
# | the policy at the start | the better start wins |
# | the contexts: users that supervised training never saw | new data is praised as RL |
# | the noise of the rollouts, and how many there are | luck decides |
# | the total weight of RL: a gate that admits a tenth weighs it tenfold | whoever trains less looks robust |
# | the care for the rate: each arm its own, by validation | the tuned arm wins |
# | the moment: the last weights, and one look at the test split | whoever looks more often wins |
#
# Contexts and noise are functions of the seed and the step. So two objectives meet the same contexts, and as
# long as their policies are the same, the same rollouts:

# %%
fresh = contexts(dataset.fresh)  # of users that supervised training never saw


def task(own) -> tasks.NextItem:
    """What an arm is asked, with the reward that its settings name."""
    reward = tasks.hit if own.reward == "hit" else ranker.designed(dataset.world, own.ranker)
    return tasks.NextItem(own, trie, fresh, reward)


# %% tags=["exact"]
x, again = (task(objectives.settings_of(cfg, name)).act(policy, step=3) for name in ("grpo", "recast"))
print("same contexts:", torch.equal(x.batch.targets, again.batch.targets))
print("same rollouts:", torch.equal(x.rollout.codes, again.rollout.codes))

# %% [markdown]
# And the control is not the start. It is **supervised continued**: the same fresh contexts, no reward, only
# the NLL of what was clicked. An arm may learn from these clicks too; the control says what they are
# worth without RL. It is AdaGRPO with the gate shut:

# %% tags=["exact"]
shut = task(objectives.settings_of(cfg, "adagrpo", gate="shut")).act(policy, step=3)
for name in ("adagrpo", "continued"):
    made = objectives.OBJECTIVES[name].signal(shut)
    print(f"{name:9} learns from {len(made.rows)} groups, and from the NLL: {made.nll}")

# %% tags=["hide"]
begin, control = float(weak["start"][0]), float(weak["supervised continued"][1])
book.say(
    f"In the first picture the control stands {control - begin:.1f} points above the start, and ReCast "
    f"{own - begin:.1f}. Compared with the start alone, all of that would pass for reinforcement learning."
)

# %% [markdown]
# ## Again, with another seed
#
# The bootstrap says how far to trust a mean over *these contexts*. It knows nothing of another start, another
# order of contexts, another world. For that the whole experiment is repeated, with seeds that nothing was
# chosen on. With paired differences $\delta_i$ over $n$ seeds, and $s$ their standard deviation, the interval is
# Student's [definition]:
#
# $$\bar\delta \pm t_{n-1} \frac{s}{\sqrt{n}}, \qquad t_2 = 4.30, \quad t_4 = 2.78$$
#
# Below is a choice of the committed results, each method against its control, its fixed alternative and plain
# GRPO: on the world several seeds, each a world and a start of its own; on Beauty and MovieLens one start, a few
# seeds of RL, and a bootstrap over users or lists. Not drawn are gates of one condition, the reward alone, and
# lists of which one gain in ten is seen: chapters 6 and 8 have those. Before a colon stands the ranker.
# [`bench/README.md`](../bench/README.md) has the commands; each takes up to an hour.

# %% tags=["hide"] caption="The claims. Blue circles: above 0. Orange squares: below. Grey diamonds: not told apart. Points are metric × 100."
gate, credit = book.tables("claims_adagrpo"), book.tables("claims_flexrec")
(real,), (films,) = book.tables("real").values(), book.tables("real_lists").values()
credit = credit["credit, 10 candidates, all gains observed"]
gates = {"HR@10": {}, "Pass@1": {}}
for name in ("right", "noise", "harmful"):
    for control in ("supervised continued", "mixture", "random gate"):
        gates["HR@10"][f"{name}: {control}"] = value(gate[name][control][3])
        gates["Pass@1"][f"{name}: {control}"] = value(gate[name][control][6])
casts = [{name: value(table[name][i]) for name in ARMS[:4]} for table in (weak, sparse) for i in (3, 6)]
lists = {}
for label, name in (("causal", "causal (FlexRec)"), ("own gain", "independent"), ("all swaps", "non-causal")):
    lists |= {f"{label}, trained": value(credit[name][6]), f"{label}, held out": value(credit[name][7])}
cinema = ("FlexRec, not scaled", "FlexRec", "list-wise supervised", "item mean")
cinema = {name: value(films[name][7], 100) for name in cinema}
shop = [
    {
        name: value(real[name][i], 100)
        for name in real
        if name in ARMS[1:4] + tuple(gate["right"]) + ("ReCast", "supervised") and name != ARMS[0]
    }
    for i in (2, 4)
]
DRAWN = (
    ("AdaGRPO minus these, HR@10", gates["HR@10"]),
    ("AdaGRPO minus these, Pass@1", gates["Pass@1"]),
    ("ReCast minus these, weak start, HR@10", casts[0]),
    ("the same, Pass@1", casts[1]),
    ("ReCast minus these, sparse, HR@10", casts[2]),
    ("the same, Pass@1", casts[3]),
    ("Beauty: these minus continued, recall@10", shop[0]),
    ("the same, ndcg@10", shop[1]),
    ("lists: these minus list-level, ndcg@5", lists),
    ("lists of films: the same", cinema),
)
figure = plt.figure(figsize=(7.5, 10))
for i, row in enumerate(figure.subfigures(5, 1, height_ratios=[10, 6.5, 6.5, 9.5, 8])):
    for axes, (title, rows) in zip(row.subplots(1, 2), DRAWN[2 * i : 2 * i + 2], strict=True):
        forest(axes, rows)
        axes.set_title(title, loc="left", fontsize=9)
        if i < 4 and title == DRAWN[2 * i + 1][0]:
            axes.set_yticklabels([])
plt.show()

# %% tags=["hide"]
drawn = [verdict(v) for _, rows in DRAWN for v in rows.values()]
near = max(abs(end) for v in shop[0].values() for end in v[1:])
kinds = [[verdict(v) for v in rows.values()] for _, rows in DRAWN]
wins, losses = ([kind.count(word) for kind in kinds] for word in ("above", "below"))
book.say(
    f"Of {len(kinds[0])} comparisons each AdaGRPO wins {wins[1]} on Pass@1, and on HR@10 it wins {wins[0]} and loses "
    f"{losses[0]}: which metric a paper prints is part of its claim. ReCast wins {sum(wins[2:6])} and loses "
    f"{sum(losses[2:6])} of {sum(map(len, kinds[2:6]))}. On Beauty {sum(wins[6:8])} of {sum(map(len, kinds[6:8]))} "
    "intervals lie above 0. Chapters 6 to 8 say what is behind each row. The last row of the films is a floor: "
    f"{cinema['item mean'][0]:+.1f}."
)
book.say(
    f"Two things to keep in mind with such a picture. There are {len(drawn)} intervals, "
    f"{len(drawn) - drawn.count('level')} of which exclude 0; were nothing true at all, one in twenty still "
    f"would, about {len(drawn) / 20:.0f}. So a lone interval that just excludes 0 is a question, no answer. And a "
    "grey interval is a result when it is short, as it says what can be ruled out: on Beauty, at this "
    f"start and with these rates, effects of any arm on recall@10 beyond {near:.2f} points, each by itself."
)

# %% [markdown]
# ## An objective of your own
#
# Now it is your turn. The core of an objective is a function from an `Experience`, what the policy did and what
# that was worth, to a `Signal`, which sequences to learn from and with which advantage. The idea of this one:
# reinforce only the best of each group, whatever the rewards are. It takes one file, `best.py`:


# %%
def signal(x: Experience) -> Signal:
    """Only the best rollouts of a group are reinforced."""
    best = (x.rewards == x.rewards.amax(1, keepdim=True)).float()  # (B, G)
    advantages = (best - best.mean(1, keepdim=True))[..., None]  # (B, G, 1), 0 in a silent group
    return Signal(torch.arange(len(best)), x.rollout.codes, advantages, width=best.shape[1])


# %% [markdown]
# and one line in it, which enters the objective: a record of the function and of its title in tables.

# %%
objectives.OBJECTIVES["best"] = Objective(signal, "best")

# %% [markdown]
# With the imports above it and `train.main()` below, as the [README](../README.md#reinforce-it) shows it,
# `python best.py --tiny --objective best --out runs/best` runs everything: the codes, the floors, the supervised policy, the
# control, your objective, the report. Here we go step by step.
#
# **Is it new?** Hold it against what exists, on rewards of 0 and 1.

# %% tags=["exact"]
plain = objectives.OBJECTIVES["grpo"].signal(replace(x, cfg=replace(x.cfg, std=False)))
made, silent = signal(x).advantages, (x.rewards == x.rewards[:, :1]).all(1)
print("silent groups teach nothing:  ", bool((made[silent] == 0).all()))
print("the same as GRPO without std: ", torch.allclose(made, plain.advantages, atol=1e-6))

# %% [markdown]
# It is not. Where rewards are 0 and 1, the best are the hits, and this is GRPO without the division by the
# standard deviation. It is something of its own where rewards take more values. So it gets a ranker for a
# reward: the one that is right for everybody (chapter 4), so that nothing can be blamed on the ranker.
#
# **Does it do what it says, and is that what we want?** Three arms, three seeds, few steps, the default rate.
# By enumeration, on 100 test contexts: the expected reward, and the chance that one sample is the next click
# (Pass@1). On all test contexts: the NDCG of the ranking. Above them stands a policy that nobody trained: the
# start with every log-probability times 1.1, and the probabilities made to sum to 1 again.

# %%
STEPS, SEEDS = 20, (0, 1, 2)
ASKED = {"reward": "ranker", "ranker": "right"}  # for every arm, whatever its objective's defaults are
few = dataset.test.batch(torch.arange(100), cfg.history)
every_item = torch.arange(N).expand(len(few), N)
worth = task(objectives.settings_of(cfg, "grpo", **ASKED)).reward(few, every_item)  # (100, N)


def learned(name: str, seed: int):
    """The policy at the end of an arm."""
    own = objectives.settings_of(cfg, name, seed=seed, **ASKED)
    learner, asked = loop.Learner(own, policy, trie), task(own)
    for step in range(STEPS):
        loop.reinforce(learner, asked, objectives.OBJECTIVES[name], step)
    return learner.policy


def judged(model, sharper: float = 1.0) -> dict[str, torch.Tensor]:
    """What a policy is worth, context by context."""
    logp = (sharper * says(few, model)).log_softmax(1)
    ranked = evaluation.evaluate_policy(model, trie, dataset, dataset.test, cfg, full=False)
    reward, click = (exact.expected_reward(logp, gain) for gain in (worth, law[: len(few)]))
    return {"reward": reward, "pass@1": click, METRIC: ranked.values[METRIC]}


three = ("continued", "grpo", "best")
found = {name: [judged(learned(name, seed)) for seed in SEEDS] for name in three}
before = {"start, sharpened": [judged(policy, sharper=1.1)], "start": [judged(policy)]}
table = []
for name, seeds in (before | found).items():
    mean = {key: sum(run[key].mean().item() for run in seeds) / len(seeds) for key in seeds[0]}
    title = objectives.OBJECTIVES[name].title if name in found else name
    table.append({"method": title, **mean})
print(report.table(table, list(table[0])))

# %% tags=["hide"] caption="The new objective against the control, and against GRPO on the same reward. Points are metric × 100."
figure, panels = plt.subplots(1, 2, figsize=(7.5, 1.9), sharey=True)
over = {}
for axes, name in zip(panels, ("continued", "grpo"), strict=True):
    pairs = [(100 * a[METRIC], 100 * b[METRIC]) for a, b in zip(found["best"], found[name], strict=True)]
    rows = {f"seed {seed}": metrics.paired_bootstrap(*pair, cfg.seed) for seed, pair in enumerate(pairs)}
    deltas = torch.tensor([v[0] for v in rows.values()])
    half_width = 4.303 * deltas.std().item() / len(SEEDS) ** 0.5  # Student's t, two degrees of freedom
    rows["over seeds"] = over[name] = value(f"{deltas.mean():.6f} ± {half_width:.6f}")
    forest(axes, rows)
    axes.set_xlabel(f"best minus {objectives.OBJECTIVES[name].title}, {METRIC}, points")
plt.show()

# %% tags=["hide"]
WORDS = {"above": "above", "below": "below", "level": "not told from"}
book.say(
    f"Over seeds, on {METRIC}, `best` is {WORDS[verdict(over['continued'])]} the control and "
    f"{WORDS[verdict(over['grpo'])]} GRPO. The last row speaks of the luck of the runs alone: the three seeds "
    "share the world, the start and the test contexts. It can be the shortest for that, or the longest, as three "
    "runs say little of how runs differ."
)

# %% tags=["hide"]
sharp, *rest = table
over_it = [row["method"] for row in rest if all(row[key] > sharp[key] for key in ("reward", "pass@1"))]
book.say(
    "Now the table again. The reward is what was asked for, the NDCG what was wanted. Chapter 4 said why they "
    "need not agree: this ranker knows taste, and the next click depends on more. And look at the sharpened "
    "start. It has learned nothing, and no two of its items changed places, so its NDCG is that of the start. (The "
    "factor is our choice.) Above it on both reward and Pass@1: "
    + (", ".join(over_it) or "none of the others")
    + ". These two can be had by being surer of oneself, so look at a ranking beside them, whosever method it is."
)
gained = 100 * (sharp["pass@1"] - rest[0]["pass@1"])
won = [v[0] for v in gates["Pass@1"].values() if verdict(v) == "above"]
book.say(
    f"Sharpening gained {gained:.1f} points of Pass@1 here. AdaGRPO's wins in the picture of claims are of "
    f"{min(won):.1f} to {max(won):.1f}. That is another start, so this refutes nothing; but a win on Pass@1 alone "
    "cannot be told from sharpness."
)

# %% [markdown]
# **Would it be a claim?** Not yet. It takes a rate chosen for each arm, and seeds with a world and a start
# of their own. `bench/claims.py` does both: enter the objective there, and `"best": ("best", {})` among the
# arms of a regime, and give `--out` a folder of your own. Then believe the interval.
#
# ## What you can do now
#
# Read a table of results and ask what is missing from it: the floor, the control, the full catalogue, the
# interval, the seeds. And add an objective: one function, one line, and the questions above.
#
# ## What we left out
#
# - Slices: recall by the popularity of the target, and of targets whose time stamp ties. The report of every
#   run has them.
# - Corrections for many comparisons. Holm's is simple; we print intervals and the number of them.
# - Splits by time. Leaving out each user's last item lets a policy learn from days that lie after a test
#   click of somebody else; `--split time` does not.
# - Users. All of this is offline. What people do when they are shown something else is not in a log.
#
# ## Next
#
# [10 · Making it fast](ch10_fast.md): how fast can a swap reward be, and how does one get there?
