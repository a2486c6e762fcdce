"""Reading and cleaning: every format, every broken input, and the counts of the real logs."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirec.data import logs
from minirec.errors import InputError
from minirec.settings import from_dict

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"
EVENTS = [("u", "a", 1), ("u", "b", 2), ("v", "b", 5), ("u", "c", 3), ("v", "a", 4)]
CSV = "user,item,time\n" + "".join(f"{u},{i},{t}\n" for u, i, t in EVENTS)


def write(path: Path, content: str | bytes, packed: bool = False) -> Path:
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if packed else data)
    return path


def load(path: Path, **settings):
    return logs.load(from_dict({"data": str(path), "core": 0, **settings}))


def as_rows(events: logs.Events, ids: dict[str, list[str]]) -> list[tuple]:
    """Events with their external ids, in order."""
    columns = [[names[number] for number in events[role]] for role, names in ids.items()]
    columns += [events["time"]] if "time" in events else []
    return list(zip(*columns, strict=True))


NAMES = {role: [str(n) for n in range(100)] for role in ("user", "item")}


def make(rows: list[tuple[int, int, int]]) -> logs.Events:
    user, item, when = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    return {"user": user, "item": item, "time": when.astype(float)}


def sequences(dataset) -> dict[str, list[str]]:
    """Each user's whole sequence of external ids: the test history and its target."""
    batch = dataset.test.batch(np.arange(len(dataset.test)), 1000)
    return {
        dataset.users[u]: [dataset.catalogue.ids[i] for i in (*history, *targets) if i >= 0]
        for u, history, targets in zip(
            batch.user, batch.history.tolist(), batch.targets.tolist(), strict=True
        )
    }


# --- formats


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("name", "head", "form", "columns"),
    [
        ("log.csv", "user,item,time", "{u},{i},{t}", ""),
        ("log.txt", "user,item,time", "{u},{i},{t}", ""),
        ("log.tsv", "item_id\tuser_id\ttimestamp", "{i}\t{u}\t{t}", ""),
        ("log.csv", "x;User;y;Item;Time", '1;{u};"a;b";{i};{t}', ""),
        ("log.inter", 'user_id:token\titem_id:token\tq":float\ttimestamp:float', '{u}\t{i}\t"\t{t}.0', ""),
        ("log.csv", "who,what,when", "{u},{i},{t}", "user=who,item=what,time=when"),
        ("log.txt", "who what,x,when", "{u},{i},{t}", "user=who what,item=x,time=when"),
        ("ratings.csv", "userId,movieId,rating,timestamp", "{u},{i},4.5,{t}\r", ""),
    ],
)
def test_every_table_gives_the_same_events(tmp_path, name, head, form, columns, packed):
    text = "\ufeff" + "\n".join([head, *(form.format(u=u, i=i, t=t) for u, i, t in EVENTS)]) + "\n\n"
    # gzip is told by its content: the packed file has no .gz in its name
    assert as_rows(*logs.read(write(tmp_path / name, text, packed), columns)[:2]) == EVENTS


def test_sequences(tmp_path):
    path = write(tmp_path / "Beauty.txt.gz", "u a b c\n\nv b a b\n", packed=True)
    events, ids, _ = logs.read(path)
    assert as_rows(events, ids) == [("u", "a"), ("u", "b"), ("u", "c"), ("v", "b"), ("v", "a"), ("v", "b")]
    assert "time" not in events
    longer = write(tmp_path / "longer.txt", "u a b c d\nv b a b b\n")
    assert "8 events read, 0 duplicates" in load(longer)[1]  # a repeat in a sequence is an event of its own


def test_ratings_and_groups_are_kept(tmp_path):
    text = "user,item,rating,session\nu,a,-1.5,s\nu,b,4,t\nv,a,3,s\n"
    events, *_ = logs.read(write(tmp_path / "log.csv", text))
    assert events["rating"].tolist() == [-1.5, 4, 3]
    assert events["group"].tolist() == [0, 1, 0]


def test_a_long_review_is_a_field_like_any_other(tmp_path):
    events, *_ = logs.read(write(tmp_path / "log.csv", CSV + f'u,d,9\nu,"{"e" * 200_000}",10\n'))
    assert len(events["user"]) == len(CSV.splitlines()) + 1


def test_a_quoted_line_end_keeps_the_line_numbers_right(tmp_path):
    path = write(tmp_path / "log.csv", 'user,item,time,note\nu,a,1,"two\nlines"\nu,b,x,\n')
    with pytest.raises(InputError, match=r"line 4, column 'time': 'x'"):
        logs.read(path)


# --- broken input


BROKEN = {
    "text for a number": ("log.csv", CSV + "u,d,soon\n", "line 7, column 'time': 'soon' is no valid number"),
    "negative time": ("log.csv", CSV + "u,d,-5\n", "line 7, column 'time': '-5' is no valid number"),
    "NaN time": ("log.csv", CSV + "u,d,NaN\n", "line 7, column 'time': 'NaN' is no valid number"),
    "empty time": ("log.csv", CSV + "u,d,\n", "line 7, column 'time': '' is no valid number"),
    "NaN rating": ("log.csv", "user,item,rating\nu,a,nan\n", "line 2, column 'rating': 'nan' is no valid n"),
    "endless rating": (
        "log.csv",
        "user,item,rating\nu,a,-inf\n",
        "line 2, column 'rating': '-inf' is no valid n",
    ),
    "text rating": (
        "log.csv",
        "user,item,rating\nu,a,good\n",
        "line 2, column 'rating': 'good' is no valid n",
    ),
    "missing column": (
        "log.csv",
        "user,thing,time\nu,a,1\n",
        "line 1: no item column in 'user, thing, time'",
    ),
    "no header": (
        "log.csv",
        "1,b,3\n4,c,6\n",
        "line 1: values and no names (0 is '1', 1 is 'b', 2 is '3'); na",
    ),
    "ragged row": ("log.csv", CSV + "u,d\n", "line 7: 2 columns; expected 3"),
    "empty": ("log.csv", "", "line 1: the file is empty"),
    "blank": ("log.csv", "\n\n", "line 1: the file is empty"),
    "lines that end in CR": ("log.csv", CSV.replace("\n", "\r"), "line 1: lines end in CR alone"),
    "a column twice": ("log.csv", "user,item,user\nu,a,v\n", "line 1: several columns are called 'user'"),
    "header only": ("log.csv", "user,item,time\n", "line 2: a header and no events"),
    "open quote": ("log.csv", CSV + 'u,"d,6\n', "line 7: unexpected end of data"),
    "endless field": (
        "log.csv",
        CSV + 'u,"' + ("d" * 999 + "\n") * 10_100,
        "line 7: field larger than field limit",
    ),
    "wrong encoding": ("log.csv", (CSV + "é,d,6\n").encode("latin-1"), "line 7, byte 1: not UTF-8"),
    "UTF-16": ("log.csv", CSV.encode("utf-16-le"), "line 1: binary, or UTF-16"),
    "binary": ("log.csv", b"\x89PNG\0\0\0\n", "line 1: binary, or UTF-16"),
    "no zip": ("log.csv", b"PK\3\4\0\0\0\n", "after line 0: packed data is damaged"),
    "cut gzip": (
        "log.csv.gz",
        gzip.compress(CSV.encode() * 9)[:-9],
        "after line 0: packed data is damaged",
    ),
    "spoilt gzip": ("log.csv", b"\x1f\x8b" + CSV.encode(), "after line 0: packed data is damaged"),
    "endless line": ("log.txt", "1 " * 5_000_001, "line 1: over 10,000,000 bytes; expected shorter lines"),
    "empty sequences": ("log.txt", "\n", "line 1: the file is empty"),
    "user without items": ("log.txt", "u a b\nv\n", "line 2: user 'v' has no items"),
    "user twice": ("log.txt", "u a b\nv a\nu c\n", "line 3: user 'u' has several lines"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_file_names_the_line(tmp_path, case):
    name, content, message = BROKEN[case]
    path = write(tmp_path / name, content)
    with pytest.raises(InputError) as caught:
        load(path)
    text = str(caught.value)
    assert text.startswith(f"{path}, ")
    assert message in text
    assert "\n" not in text
    assert len(text) < 400
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("user=user,item=tem", "log.csv, line 1: no column 'tem' for item; did you mean item?"),
        ("item=", "--columns: 'item=' is no pair; for example user="),
        ("user=user,itm=item", "--columns: unknown role 'itm'; did you mean item?"),
        ("user", "--columns: 'user' is no pair; for example user="),
    ],
)
def test_broken_columns(tmp_path, columns, message):
    path = write(tmp_path / "log.csv", CSV)
    with pytest.raises(InputError) as caught:
        load(path, columns=columns)
    assert message in str(caught.value)


def test_missing_file_and_directory(tmp_path):
    with pytest.raises(InputError, match=r"none\.csv: No such file or directory; expected a readable"):
        load(tmp_path / "none.csv")
    with pytest.raises(InputError, match="Is a directory"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("text", "core", "message"),
    [
        ("user,item,time\n" + "u,a,1\nu,b,2\nu,c,3\nu,d,4\n", 0, r"1 users and 4 items are left of 4 events"),
        (CSV, 4, r"0 users and 0 items are left of 5 events with --core 4; expected at least 2 of each"),
        ("user,item,time\nu,a,1\nu,b,2\nv,a,1\n", 0, r"--split last: no validation example is left"),
    ],
)
def test_too_little_is_left(tmp_path, text, core, message):
    with pytest.raises(InputError, match=message):
        load(write(tmp_path / "log.csv", text), core=core)


def test_three_events_are_enough_to_train_validate_and_test(tmp_path):
    log = "user,item,time\n" + "".join(f"{user},{item},{item}\n" for user in "ab" for item in (1, 2, 3))
    dataset, _ = load(write(tmp_path / "log.csv", log), core=0)
    assert [len(part) for part in (dataset.train, dataset.valid, dataset.test)] == [2, 2, 2]
    assert dataset.train.lengths.tolist() == [1, 1]  # the first item is predicted from the condition alone


# --- cleaning


def test_duplicates_are_dropped_and_the_share_of_ties_is_said(tmp_path):
    text = "user,item,time\nu,d,2\nu,c,2\nu,b,2\nu,d,2\nu,a,1\nu,d,3\nv,d,1\nv,c,1\nv,b,1\nv,a,1\n"
    dataset, summary = load(write(tmp_path / "log.csv", text))
    found = sequences(dataset)
    assert found["u"][0] + found["u"][-1] == "ad"
    assert sorted(found["u"][1:-1]) == list("bcd")
    assert sorted(found["v"]) == list("abcd")
    first, second = summary.splitlines()
    assert first.startswith(
        "10 events read, 1 duplicates and 0 outside the k-core dropped; 2 users, 4 items, 9 "
    )
    assert second.startswith("50.0% of test targets have the time of the event before them")
    assert dataset.catalogue.ids == list("dcba")  # by first appearance in the file, not in time
    assert dataset.test.tied.tolist() == [False, True]
    assert dataset.valid.tied.tolist() == [True, True]


def test_the_same_item_in_another_group_is_no_duplicate():
    events = make([(0, 0, 0)] * 3) | {"group": np.array([0, 1, 0])}
    assert logs.without_duplicates(events)["group"].tolist() == [0, 1]


def test_a_log_without_times_says_so_and_keeps_the_order_of_the_file(tmp_path):
    text = "user,item,session\n" + "".join(f"{u},{i},{i}\n" for u in "uv" for i in "dcba")
    dataset, summary = load(write(tmp_path / "log.csv", text))
    assert sequences(dataset) == {"u": list("dcba"), "v": list("dcba")}
    assert summary.splitlines()[1].startswith("the log has no times: the order of its events in the file")


def test_of_duplicates_with_other_ratings_the_lowest_is_kept_wherever_it_stands():
    for rating in ([4.0, 1.0, 3.0], [1.0, 3.0, 4.0]):
        events = make([(0, 0, 0), (0, 0, 0), (0, 0, 1)]) | {"rating": np.array(rating)}
        assert logs.without_duplicates(events)["rating"].tolist() == [1, rating[2]]


GROUPED = st.tuples(*(st.integers(0, most) for most in (3, 5, 2, 2)))  # user, item, time, group


@given(rows=st.lists(GROUPED, min_size=1, max_size=40), grouped=st.booleans(), data=st.data())
@settings(deadline=None)
def test_the_order_of_the_file_changes_nothing_at_all_in_a_log_with_times(rows, grouped, data):
    def line(rows):
        """The whole timeline by external ids: users, items, times, groups and ratings in order."""
        names = {"user": "uvwx", "item": "abcdef", "group": "rst"}
        events = make([row[:3] for row in rows]) | {"rating": np.array([row[4] for row in rows])}
        if grouped:
            events["group"] = np.array([row[3] for row in rows])
        kept, ids = logs.numbered(
            logs.without_duplicates(events), {role: names[role] for role in names if role in events}
        )
        made = logs.timeline(kept, ids)
        owner = np.repeat(np.array(ids["user"]), made.stop - made.start)
        columns = [owner, np.array(ids["item"])[made.item], made.time, made.rating]
        columns += [np.array(ids["group"])[made.group]] if grouped else []
        return [sorted(zip(*columns, strict=True), key=lambda event: event[0])]  # stable: users in one order

    rated = [(*row, data.draw(st.sampled_from([1.0, 2.0]))) for row in rows]
    assert line(rated) == line(data.draw(st.permutations(rated)))


def test_two_users_order_the_same_ties_independently():
    users, items = 400, 8
    rows = [(user, item, 0) for user in range(users) for item in range(items)]
    ids = {role: [str(n) for n in range(count)] for role, count in (("user", users), ("item", items))}
    place = logs.timeline(make(rows), ids).item.reshape(users, items).argsort(1)
    one, two = np.triu_indices(items, 1)
    before = place[:, one] < place[:, two]  # (users, pairs)
    # For every pair of items, as many users as of fair coins have the first before the second: 28 pairs, each
    # within 4.5 standard deviations of a half, which chance leaves once in 5,000 tests; the hash is fixed.
    assert np.abs(before.mean(0) - 0.5).max() < 4.5 * 0.5 / users**0.5
    # And two neighbouring users agree on as many pairs as coins do. Pairs of one user are not independent:
    # the variance of the share of agreeing pairs is that of Kendall's tau.
    agree = (before[::2] == before[1::2]).mean()
    deviation = (2 * (2 * items + 5) / (9 * items * (items - 1))) ** 0.5 / 2 / (users / 2) ** 0.5
    assert abs(agree - 0.5) < 4.5 * deviation


def test_ties_in_time_keep_a_group_together_and_groups_in_the_order_in_which_they_began():
    first = [(0, item, 1, group) for item, group in enumerate([0, 1, 0, 1, 0, 1])]
    for rows in (first, [*first, (0, 6, 0, 1)], [*first, (0, 6, 0, 0)]):
        events = make([row[:3] for row in rows]) | {"group": np.array([row[3] for row in rows])}
        group = logs.timeline(events, NAMES | {"group": ["r", "s"]}).group
        assert (np.diff(group) != 0).sum() == 1  # without the rule, the event at time 0 may open a third run
        if len(rows) > 6:
            assert group[0] == rows[6][3]


def test_a_markov_chain_learns_nothing_from_a_file_in_the_order_of_items(tmp_path):
    rows = [f"{user},{item},0" for user in range(300) for item in range(20)]
    dataset, _ = load(write(tmp_path / "log.csv", "\n".join(["user,item,time", *rows])))
    forward = np.diff([[int(item) for item in row] for row in sequences(dataset).values()], axis=1) > 0
    # 5,700 neighbours of random orders; the variance of ascents of n is (n + 1) / 12, under that of coins
    assert abs(forward.mean() - 0.5) < 4.5 * 0.5 / forward.size**0.5


def test_numbers_follow_the_kept_events(tmp_path):
    # a and x stand first in the file, but the event that holds both is dropped
    text = "user,item\nx,a\n" + "".join(f"{u},{i}\n" for u in "uv" for i in "bcad")
    dataset, summary = load(write(tmp_path / "log.csv", text), core=2)
    assert dataset.catalogue.ids == list("bcad")
    assert dataset.users == ["u", "v"]
    assert summary.startswith(
        "9 events read, 0 duplicates and 1 outside the k-core dropped; 2 users, 4 items"
    )
    assert "; 2 items never occur in training\n" in summary  # a and d are only ever targets


ROWS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 50)), min_size=1, max_size=40)


@given(ROWS, st.integers(0, 4))
@settings(max_examples=40, deadline=None)
def test_k_core_is_the_largest_fixed_point(rows, core):
    kept = logs.k_core(make(rows), core)
    for codes in (kept["user"], kept["item"]):
        assert (np.bincount(codes)[codes] >= core).all()
    # Peeling one event at a time, in another order, ends in the same set: the core is unique.
    left = list(rows)
    weak = True
    while weak:
        counts = [[row[side] for row in left] for side in (0, 1)]
        weak = [row for row in left if min(counts[0].count(row[0]), counts[1].count(row[1])) < core][-1:]
        left = [row for row in left if row not in weak]
    assert sorted(as_rows(kept, NAMES)) == sorted((str(u), str(i), t) for u, i, t in left)


@given(st.permutations([(u, i, 10 * u + t) for u in range(3) for t, i in enumerate([3, 1, 4, 1, u])]))
@settings(max_examples=30, deadline=None)
def test_the_order_of_the_file_does_not_matter(rows):
    kept, ids = logs.numbered(make(rows), NAMES)
    line = logs.timeline(kept, ids)
    for user, name in enumerate(ids["user"]):
        mine = [ids["item"][i] for i in line.item[line.start[user] : line.stop[user]]]
        assert mine == ["3", "1", "4", "1", name]


# --- real data


def real(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs real data: {name} in ../shared/data")
    return path


def test_amazon_beauty():
    log = real("amazon_beauty/Beauty.txt.gz")
    dataset, summary = load(log, core=5, items=str(log.with_name("Beauty_item2attributes.json.gz")))
    assert "; 22,363 users, 12,101 items, 198,502 events; " in summary
    assert len(dataset.valid) == len(dataset.test) == 22_363
    assert dataset.catalogue.features.shape[0] == 12_101
    assert sequences(dataset)["1"] == list("12345")
    covered = int(dataset.train.lengths.sum())
    # training holds all but two events per user, less the pieces of a single item before a full window
    assert 198_502 - 2 * 22_363 - 100 < covered <= 198_502 - 2 * 22_363


def test_movielens():
    log = real("ml_latest_small/ratings.csv.gz")
    assert "; 610 users, 9,724 items, 100,836 events; " in load(log)[1]
    dataset, summary = load(log, core=5)
    assert "; 610 users, 3,650 items, 90,274 events; " in summary
    assert dataset.catalogue.titles[0] == "Toy Story (1995)"
    assert dataset.catalogue.features.shape == (3_650, 19)  # 18 genres and "(no genres listed)"
    assert dataset.test.tied.sum() == 91  # ratings were entered in bursts
    assert "\n14.9% of test targets have the time of the event before them" in summary


def test_online_retail_by_invoice():
    log = real("online_retail/first_purchase_5core.csv.gz")
    dataset, summary = load(log, core=5, split="group", items=str(log.with_name("items.csv")))
    assert "; 4,074 users, 3,145 items, 264,510 events; " in summary
    assert len(dataset.valid) == len(dataset.test) == 1_886  # users with three invoices or more
    assert (dataset.test.targets >= 0).sum() > 10 * len(dataset.test)
    assert dataset.catalogue.titles[dataset.catalogue.ids.index("3")] == "DOGGY RUBBER"
