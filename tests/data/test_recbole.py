"""The atomic files that a run can write: they hold the order of its events, for RecBole and for minirec."""

from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minirec.data import logs, prepare, world
from minirec.records import PAD
from minirec.settings import Config, from_dict
from tests.data.test_logs import sequences

TAB = "\t"  # in a quoted field of a csv it is a letter like any other
EVENT = st.tuples(st.integers(0, 3), st.integers(0, 6), st.integers(0, 4), st.sampled_from("rst"))


def load(path, **more):
    return logs.load(from_dict({"data": str(path), "core": 0, **more}))[0]


def users(dataset):
    """Each user's whole sequence of external ids."""
    stop = [*dataset.start[1:].tolist(), len(dataset.train.events)]
    slices = zip(dataset.users, dataset.start.tolist(), stop, strict=True)
    ids, events = dataset.catalogue.ids, dataset.train.events.tolist()
    return {user: [ids[i] for i in events[a:b]] for user, a, b in slices}


@given(rows=st.lists(EVENT, min_size=1, max_size=40), columns=st.sampled_from(["times", "groups", "order"]))
@settings(deadline=None)
def test_reading_what_was_written_gives_the_same_sequences(tmp_path_factory, rows, columns):
    folder = tmp_path_factory.mktemp("log")
    rows += [(user, item, time, "r") for user in (4, 5) for time, item in enumerate((1, 2, 3))]
    text = "user,item,time,session,rating\n" + "".join(f"{u},{i},{t},{g},{i}.5\n" for u, i, t, g in rows)
    given = {"order": "user=user,item=item", "times": "user=user,item=item,time=time,rating=rating"}
    (folder / "log.csv").write_text(text)
    first = load(folder / "log.csv", columns=given.get(columns, ""))
    prepare.write_recbole(folder / "mine", first)
    again = load(folder / "mine" / "mine.inter", items=str(folder / "mine" / "mine.item"))
    assert users(again) == users(first)
    assert sequences(again) == sequences(first)
    if columns != "order":
        by_item = {i: r for i, r in zip(again.train.events.tolist(), again.rating.tolist(), strict=True)}
        assert all(rating == int(again.catalogue.ids[i]) + 0.5 for i, rating in by_item.items())
        header, *lines = (folder / "mine" / "mine.inter").read_text().splitlines()
        at = header.split("\t").index("log_time:float")
        assert [float(line.split("\t")[at]) for line in lines] == first.time.tolist()


def test_times_rise_for_each_user_and_keep_their_order_between_users(tmp_path):
    rows = [("u", "a", 5), ("u", "b", 5), ("u", "c", 9), ("v", "a", 6), ("v", "c", 6), ("v", "b", 6)]
    (tmp_path / "log.csv").write_text("user,item,time\n" + "".join(f"{u},{i},{t}\n" for u, i, t in rows))
    prepare.write_recbole(tmp_path / "rb", load(tmp_path / "log.csv"))
    header, *lines = [line.split("\t") for line in (tmp_path / "rb" / "rb.inter").read_text().splitlines()]
    assert header == ["user_id:token", "item_id:token", "timestamp:float", "log_time:float"]
    assert [(user, place, time) for user, _, place, time in lines] == [
        *(("u", "0", "5"), ("u", "1", "5"), ("u", "5", "9")),
        *(("v", "2", "6"), ("v", "3", "6"), ("v", "4", "6")),
    ]


def test_titles_and_topics_come_back(tmp_path):
    items = [
        f"{i},The{TAB if i == 3 else ' '}film {i},{'|'.join(f'topic{t:02}' for t in (i, (i + 5) % 12))}"
        for i in range(12)
    ]
    (tmp_path / "items.csv").write_text("\n".join(["item,title,genres", *items]))
    log = "".join(f"{user},{(user + step) % 12},{step}\n" for user in range(12) for step in range(4))
    (tmp_path / "log.csv").write_text("user,item,time\n" + log)
    first = load(tmp_path / "log.csv", items=str(tmp_path / "items.csv"))
    prepare.write_recbole(tmp_path / "rb", first)
    again = load(tmp_path / "rb" / "rb.inter", items=str(tmp_path / "rb" / "rb.item"))

    def known(dataset):
        made = dataset.catalogue
        topics = [[t for t in row if t != PAD] for row in made.topics.tolist()]
        return {
            item: (title.replace("\t", " "), row)
            for item, title, row in zip(made.ids, made.titles, topics, strict=True)
        }

    assert known(again) == known(first)
    assert len({t for _, row in known(again).values() for t in row}) == 12


def test_the_world_and_users_whom_no_split_holds_are_written_whole(tmp_path):
    made = world.make_world(Config(world_items=64, world_users=20)).dataset()
    prepare.write_recbole(tmp_path / "world", made)
    again = load(tmp_path / "world" / "world.inter", items=str(tmp_path / "world" / "world.item"))
    assert users(again) == users(made)
    assert dict(zip(again.catalogue.ids, again.catalogue.titles, strict=True)).items() <= set(
        zip(made.catalogue.ids, made.catalogue.titles, strict=True)
    )
    rows = [(f"u{n}", item, 10 * n + item) for n in range(10) for item in range(4)]
    (tmp_path / "log.csv").write_text(
        "user,item,time\n" + "".join(f"{u},{i},{t}\n" for u, i, t in [*rows, ("u0", 5, 82), ("u0", 5, 95)])
    )
    first = load(tmp_path / "log.csv", split="time")
    assert {8, 9} - {*first.train.user.tolist(), *first.valid.user.tolist(), *first.test.user.tolist()}
    prepare.write_recbole(tmp_path / "late", first)
    assert users(load(tmp_path / "late" / "late.inter", split="time")) == users(first)


def test_what_separates_cells_becomes_a_space(tmp_path):
    made = world.make_world(Config(world_items=64, world_users=20)).dataset()
    prepare.write_recbole(tmp_path / "rb", replace(made, users=["a\tb\nc", *made.users[1:]]))
    assert users(load(tmp_path / "rb" / "rb.inter")) == {
        "a b c" if u == "0" else u: row for u, row in users(made).items()
    }


def test_the_order_survives_numbers_of_single_precision(tmp_path):
    rows = [("u", item, 1_600_000_000 + item) for item in range(50)] + [
        ("v", item, 1_600_000_000) for item in range(3)
    ]
    (tmp_path / "log.csv").write_text("user,item,time\n" + "".join(f"{u},{i},{t}\n" for u, i, t in rows))
    prepare.write_recbole(tmp_path / "rb", load(tmp_path / "log.csv"))
    lines = [line.split("\t") for line in (tmp_path / "rb" / "rb.inter").read_text().splitlines()[1:]]
    place = torch.tensor([float(line[2]) for line in lines if line[0] == "u"], dtype=torch.float32)
    assert (place.diff() > 0).all()
    assert (
        torch.tensor([float(line[3]) for line in lines if line[0] == "u"]).unique().numel() < 50
    )  # the log's own
