"""Other people's files, in the layouts in which they are given away: the table in tests/README.md by rows."""

import gzip
import json
import re
import sys
import zipfile
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirec.data import logs, tables
from minirec.errors import InputError
from minirec.settings import from_dict

README = Path(__file__).parents[1] / "README.md"
DAY = 86_400_000_000  # microseconds


def micro(text: str) -> int:
    """Microseconds since 1970 of an ISO date in UTC."""
    seconds = datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp()
    return round(seconds * 1e6)


def lines(*objects: dict) -> str:
    return "".join(json.dumps(o) + "\n" for o in objects)


REVIEWS_2014 = lines(
    {"reviewerID": "A1", "asin": "0439", "helpful": [0, 0], "reviewText": "x", "overall": 5.0}
    | {"reviewTime": "09 13, 2009", "unixReviewTime": 1252800000},
    {"reviewerID": "A2", "asin": "0440", "helpful": [1, 2], "overall": 1.0, "unixReviewTime": 1252800001},
)
REVIEWS_2023 = lines(
    {"rating": 5.0, "title": "t", "images": [{"a": 1}], "asin": "B1", "parent_asin": "B0", "user_id": "AE"}
    | {"timestamp": 1578452852342, "verified_purchase": True},
    {"rating": 2.0, "title": "t", "images": [], "asin": "B3", "parent_asin": "B2", "user_id": "AF"}
    | {"timestamp": 1578452852343},
)
YELP = lines(
    {"review_id": "r", "user_id": "m", "business_id": "X", "stars": 3.0, "date": "2018-07-07 22:09:11"},
    {"review_id": "s", "user_id": "O", "business_id": "Y", "stars": 5.0, "date": "2012-01-03 15:28:18"},
)
CLICKS = "1,2014-04-07T10:51:09.277Z,214536502,0\n2,2014-04-07T13:56:37.614Z,214662742,S\n"
VIEWS = (
    "sessionId;userId;itemId;timeframe;eventdate\n1;NA;81766;526309;2016-05-09\n"
    "1;NA;31331;1031018;2016-05-09\n2;9;32118;243569;2016-05-08\n"
)
LISTS = "user_id:token\titem_id_list:token_seq\titem_id:token\n1\ta\tb\n1\ta b\tc\n2\td\te\n"

# File: (its name, its content, --columns, its events as user, item, time, or the error)
FILES = {
    "MovieLens latest `ratings.csv`": (
        "ratings.csv",
        "userId,movieId,rating,timestamp\n1,1,4.0,964982703\n1,3,4.0,964981247\n",
        "",
        [("1", "1", 964982703), ("1", "3", 964981247)],
    ),
    "MovieLens 100K `u.data`": (
        "u.data",
        "196\t242\t3\t881250949\n186\t302\t3\t891717742\n",
        "",
        [("196", "242", 881250949), ("186", "302", 891717742)],
    ),
    "MovieLens 1M `ratings.dat`": (
        "ratings.dat",
        "1::1193::5::978300760\n1::661::3::978302109\n",
        "",
        [("1", "1193", 978300760), ("1", "661", 978302109)],
    ),
    "Amazon 2014, ratings only": (
        "ratings_Beauty.csv",
        "A39HTATAQ9V7YF,0205616461,5.0,1369699200\nA3JM6GV9MNOF9X,B00LLPT4HI,3.0,1355443200\n",
        "",
        [("A39HTATAQ9V7YF", "0205616461", 1369699200), ("A3JM6GV9MNOF9X", "B00LLPT4HI", 1355443200)],
    ),
    "Amazon 2018, ratings only": (
        "All_Beauty.csv",
        "0143026860,A1V6B6TNIC10QE,1.0,1424304000\nB01HIZF5XU,A3SFRT223XXWF7,5.0,1368576000\n",
        "",
        [("A1V6B6TNIC10QE", "0143026860", 1424304000), ("A3SFRT223XXWF7", "B01HIZF5XU", 1368576000)],
    ),
    "Amazon 2014, reviews": (
        "reviews_Beauty_5.json.gz",
        REVIEWS_2014,
        "",
        [("A1", "0439", 1252800000), ("A2", "0440", 1252800001)],
    ),
    "Amazon 2023, reviews": (
        "All_Beauty.jsonl",
        REVIEWS_2023,
        "",
        [("AE", "B0", 1578452852342), ("AF", "B2", 1578452852343)],
    ),
    "Amazon 2023, ratings only": (
        "All_Beauty.csv",
        "user_id,parent_asin,rating,timestamp\nAE,B0,5.0,1578452852342\nAF,B2,2.0,1578452852343\n",
        "",
        [("AE", "B0", 1578452852342), ("AF", "B2", 1578452852343)],
    ),
    "Yelp `review.json`": (
        "yelp_academic_dataset_review.json",
        YELP,
        "",
        [("m", "X", micro("2018-07-07 22:09:11")), ("O", "Y", micro("2012-01-03 15:28:18"))],
    ),
    "Yoochoose `clicks.dat`": (
        "yoochoose-clicks.dat",
        CLICKS,
        "user=0,item=2,time=1",
        [
            ("1", "214536502", micro("2014-04-07 10:51:09.277")),
            ("2", "214662742", micro("2014-04-07 13:56:37.614")),
        ],
    ),
    "Diginetica `train-item-views.csv`": (
        "train-item-views.csv",
        VIEWS,
        "user=sessionId",
        [("1", "81766", 526309), ("1", "31331", 1031018), ("2", "32118", 243569)],
    ),
    "Retailrocket `events.csv`": (
        "events.csv",
        "timestamp,visitorid,event,itemid,transactionid\n1433221332117,257597,view,355908,\n"
        "1433224214164,992329,transaction,248676,4000\n",
        "",
        [("257597", "355908", 1433221332117), ("992329", "248676", 1433224214164)],
    ),
    "RecBole `.inter`": (
        "ml-100k.inter",
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n196\t242\t3\t881250949\n186\t302\t3\t8.9e8\n",
        "",
        [("196", "242", 881250949), ("186", "302", 890000000)],
    ),
    "RecBole `.inter` with lists": (
        "ml.train.inter",
        LISTS,
        "",
        [("1", "a"), ("1", "b"), ("1", "c"), ("2", "d"), ("2", "e")],
    ),
    "RecBole `.inter` of sessions with lists": (
        "diginetica.train.inter",
        LISTS.replace("user_id", "session_id"),
        "user=session_id",
        [("1", "a"), ("1", "b"), ("1", "c"), ("2", "d"), ("2", "e")],
    ),
    "S3-Rec `Beauty.txt`": (
        "Beauty.txt",
        "1 1 2 3\n2 4 1\n",
        "",
        [*(("1", i) for i in "123"), *(("2", i) for i in "41")],
    ),
    "SASRec, BERT4Rec: pairs": ("ml-1m.txt", "1 1\n1 2\n2 1\n", "", [("1", "1"), ("1", "2"), ("2", "1")]),
    "LightGCN `train.txt`": (
        "train.txt",
        "0 0 1\n1 2 0\n",
        "",
        [("0", "0"), ("0", "1"), ("1", "2"), ("1", "0")],
    ),
    "cornac SIT": (
        "sessions.txt",
        "7\t1\t1433221332\n7\t2\t1433221333\n",
        "",
        [("7", "1", 1433221332), ("7", "2", 1433221333)],
    ),
    "cornac UIRT": (
        "uirt.txt",
        "1\t10\t4.5\t964982703\n2\t10\t3\t964982704\n",
        "",
        [("1", "10", 964982703), ("2", "10", 964982704)],
    ),
    "cornac UIR": ("uir.txt", "1\t10\t4.5\n2\t10\t3\n", "", [("1", "10"), ("2", "10")]),
    "MiniOneRec `.inter.json`": (
        "Toys.inter.json",
        json.dumps({"0": [3, 1], "1": [2]}, indent=4),
        "",
        [("0", "3"), ("0", "1"), ("1", "2")],
    ),
}
# Files that need one hint: the error says what to write for --columns
HINTS = {
    "Yoochoose `clicks.dat`": "name columns by position, as in --columns user=0,item=2,time=1",
    "Diginetica `train-item-views.csv`": "2 of 3 events have no user or no item "
    "(first line 2, column 'userId': 'NA'); name other columns, such as --columns user=sessionId",
    "RecBole `.inter` of sessions with lists": "name it by --columns user=session_id",
}


def write(path: Path, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def read(path: Path, columns: str = "") -> list[tuple]:
    """The events of a log: user, item and, where it has them, time."""
    events, ids, _ = logs.read(path, columns)
    parts = [[ids[role][number] for number in events[role]] for role in ("user", "item")]
    parts += [events["time"].tolist()] if "time" in events else []
    return list(zip(*parts, strict=True))


@pytest.mark.parametrize("name", FILES)
def test_other_peoples_files_are_read(tmp_path, name):
    file, content, columns, events = FILES[name]
    assert read(write(tmp_path / file, content), columns) == events


@pytest.mark.parametrize("name", HINTS)
def test_one_hint_is_enough(tmp_path, name):
    file, content, columns, _ = FILES[name]
    with pytest.raises(InputError) as caught:
        read(write(tmp_path / file, content))
    assert HINTS[name] in str(caught.value)
    assert str(caught.value).endswith(columns)


def test_the_table_of_the_readme_has_every_file_and_its_command():
    table = README.read_text().split("## Other people's files")[1].split("\n## ")[0]
    rows = [re.split(r" *\| *", row)[1:-1] for row in table.splitlines() if row.startswith("| ")][1:]
    assert {row[0]: row[1].strip("`") for row in rows} == {
        name: f"--columns {columns}" if columns else "" for name, (_, _, columns, _) in FILES.items()
    }
    for name, _, what in rows:
        assert ("refused" in what) == (name in HINTS), name


# --- columns without names


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("1,2\n3,4\n", "user=0,item=1"),
        ("1,2,3\n4,5,6\n", "user=0,item=1,rating=2"),
        ("1 2 964982703\n3 4 964982704\n", "user=0,item=1,time=2"),
        ("1;2;2014-04-07\n3;4;2014-04-08\n", "user=0,item=1,time=2"),
        ("1\t2\t4.5\t964982703.5\n", "user=0,item=1,rating=2,time=3"),
    ],
)
def test_columns_without_names_are_taken_by_what_they_hold(tmp_path, text, columns):
    path = write(tmp_path / "log.csv", text)
    *_, notes = logs.read(path, columns if text[1] == " " else "")
    assert notes == [f"no names of columns, so the first line is an event; taken by position: {columns}"]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("u1,2,964982703\n", "user=0,item=1,time=2"),  # who is u1?
        ("1,2,77\n", "user=0,item=1"),  # neither a rating nor a time
        ("1,2,3,4\n", "user=0,item=1"),
        ("1,2,964982703\n3,4,5\n", "user=0,item=1,time=2"),  # a time in line 1 alone
        ("1,2,3,964982703,9\n", "user=0,item=1,time=3"),
        ("A1V6B6TNIC10QE,A1V6B6TNIC10QE,1.0,1424304000\n", "user=0,item=1,time=3"),
    ],
)
def test_what_is_not_sure_is_asked_for_with_the_values_and_a_guess(tmp_path, text, hint):
    path = write(tmp_path / "log.csv", text)
    with pytest.raises(InputError) as caught:
        logs.read(path)
    cells = text.split("\n")[0].split(",")
    values = ", ".join(f"{at} is '{cell}'" for at, cell in enumerate(cells))
    wanted = f"name columns by position, as in --columns {hint}"
    assert str(caught.value) == f"{path}, line 1: values and no names ({values}); {wanted}"


def test_only_the_first_hundred_rows_are_looked_at(tmp_path):
    text = "".join(f"{n},{n},{n % 5}\n" for n in range(tables.SAMPLE))
    assert len(read(write(tmp_path / "log.csv", text + "7,8,99\n"))) == tables.SAMPLE + 1
    with pytest.raises(InputError, match="values and no names"):
        read(write(tmp_path / "log.csv", text[: -len("99,99,4\n")] + "7,8,99\n"))


@pytest.mark.parametrize("columns", ["user=196,item=242", "user=0,item=7", "user=0,item=item"])
def test_values_are_no_names(tmp_path, columns):
    path = write(tmp_path / "u.data", "196\t242\t3\t881250949\n186\t302\t3\t891717742\n")
    with pytest.raises(
        InputError, match=r"no column '(196|7|item)' for (user|item); choose from 0, 1, 2, 3$"
    ):
        logs.read(path, columns)


def test_positions_are_put_over_the_guess_one_by_one(tmp_path):
    path = write(tmp_path / "u.data", "196\t242\t3\t881250949\n186\t302\t3\t891717742\n")
    events, ids, _ = logs.read(path, "user=1,item=0")
    assert ids["user"] == ["242", "302"]
    assert events["rating"].tolist() == [3, 3]
    assert events["time"].tolist() == [881250949, 891717742]
    assert "time" not in logs.read(path, "time=")[0]
    with pytest.raises(InputError, match="no item column"):
        logs.read(path, "user=1")  # which was the item: a column has one role
    clicks = write(tmp_path / "clicks.dat", CLICKS)
    assert "time" in logs.read(clicks, "user=0,item=2")[0]  # time is not dropped without a word


def test_words_without_names_are_read_by_position(tmp_path):
    path = write(tmp_path / "log.csv", "alice,apple\nbob,pear\n")
    with pytest.raises(InputError, match="no user column in 'alice, apple'"):
        logs.read(path)
    assert read(path, "user=0,item=1") == [("alice", "apple"), ("bob", "pear")]


# --- names


def test_columns_override_the_recognised_roles_one_by_one(tmp_path):
    path = write(tmp_path / "log.csv", "user,item,rating,timestamp,session\nu,a,4,5,s\nv,b,3,6,t\n")
    events, ids, _ = logs.read(path, "user=session")
    assert ids["user"] == ["s", "t"]
    assert events["time"].tolist() == [5, 6]
    assert "group" not in events  # a column has one role unless both are named
    assert set(logs.read(path, "time=,group=")[0]) == {"user", "item", "rating"}


def test_a_txt_with_names_between_spaces_is_a_table(tmp_path):
    path = write(tmp_path / "log.txt", "user_id item_id timestamp\n1 2 5\n1 3 6\n")
    assert read(path) == [("1", "2", 5), ("1", "3", 6)]


# --- json


def test_inner_keys_have_dotted_names_and_missing_keys_are_missing_values(tmp_path):
    rows = [{"who": {"id": "u"}, "what": 7}, {"what": 8}, {"who": {"id": "v"}, "what": 9, "time": 3}]
    path = write(tmp_path / "log.jsonl.gz", "\n" + lines(*rows))
    _, ids, notes = logs.read(path, "user=who.id,item=what,time=")
    assert (ids["user"], ids["item"]) == (["u", "v"], ["7", "9"])
    assert notes == [
        "1 of 3 events have no user or no item (first line 3, column 'who.id': ''); they are dropped"
    ]
    with pytest.raises(InputError, match=r"line 2, column 'time': '' is no valid number"):
        logs.read(path, "user=who.id,item=what")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"user": 1, "item": 2}\n{"user": 1, \n', "line 2: Expecting property name"),
        (
            '{"user": 1, "item": 2}\n[1]\n',
            "line 2: 'list' object is not a mapping; expected a json object, one a line",
        ),
        ('[\n{"user": 1, "item": 2}\n]\n', "line 1: Expecting value"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "line 1: maximum recursion"),
        ('{"thing": 1, "item": 2}\n', "line 1: no user column in 'thing, item'"),
        ("{'reviewerID': 'A'}\n", "line 1: Expecting property name enclosed in double quotes"),
    ],
)
def test_broken_json_names_the_line(tmp_path, text, message):
    path = write(tmp_path / "log.json", text)
    with pytest.raises(InputError) as caught:
        logs.read(path)
    assert str(caught.value).startswith(f"{path}, {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ['{"u": 5}', '{"u": "abc"}', '{"u": {"a": [1]}}', "[[1]]", '{"u": [1'])
def test_a_broken_dictionary_is_refused(tmp_path, text):
    with pytest.raises(InputError, match=r"x\.inter\.json"):
        logs.read(write(tmp_path / "x.inter.json", text))


# --- parquet


def test_parquet(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    days = [datetime(2014, 4, 7, 10, 51, 9, 277000), datetime(2014, 4, 8)]
    columns = {
        "user_id": arrow.array([7, None, 9]),
        "item_id": ["a", "b", "c"],
        "text": [["x"], [], ["y"]],
        "nanoseconds": [1396867869277000001, 5, 1396867869277000002],
        "date": arrow.array([days[0], days[0], days[1]], arrow.timestamp("us")),
    }
    parquet.write_table(arrow.table(columns), tmp_path / "log.parquet")
    assert read(tmp_path / "log.parquet") == [
        ("7", "a", micro(str(days[0]))),
        ("9", "c", micro(str(days[1]))),
    ]
    events, _, notes = logs.read(tmp_path / "log.parquet", "time=nanoseconds")
    assert events["time"].tolist() == [1396867869277000001, 1396867869277000002]
    assert notes == [
        "1 of 3 events have no user or no item (first line 2, column 'user_id': 'None'); they are dropped"
    ]


def test_parquet_that_is_broken_or_without_a_reader(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    path = write(tmp_path / "log.parquet", "user,item\n1,2\n")
    with pytest.raises(InputError, match=r"log\.parquet: .*; expected a parquet file"):
        logs.read(path)
    with pytest.raises(InputError, match=r"none\.parquet: .*; expected a parquet file"):
        logs.read(tmp_path / "none.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match="parquet is read by pyarrow; pip install pyarrow"):
        logs.read(path)


# --- RecBole


def test_the_longest_row_of_a_list_is_found_wherever_it_stands(tmp_path):
    head, *rows = LISTS.splitlines()
    path = write(tmp_path / "x.inter", "\n".join([head, *reversed(rows)]) + "\n")
    *_, notes = logs.read(path)
    assert sorted(read(path)) == sorted(FILES["RecBole `.inter` with lists"][3])
    assert notes == ["of each user the longest row is taken, 'item_id_list' and then 'item_id'"]


def test_an_inter_file_separated_by_spaces_says_why_it_is_refused(tmp_path):
    path = write(tmp_path / "x.inter", "user_id:token item_id:token\n1 2\n")
    with pytest.raises(InputError, match=r"line 1: no tab in .*; \.inter is separated by tabs"):
        logs.read(path)


# --- sequences


@pytest.mark.parametrize("text", ["u a b\nv a\nu c\n", "u a\nu b\nv a c\n"])
def test_lines_of_several_items_and_several_lines_of_a_user_do_not_go_together(tmp_path, text):
    with pytest.raises(
        InputError, match=r"line 3: user '[uv]' has several lines, and lines have several items"
    ):
        logs.read(write(tmp_path / "x.txt", text))


# --- times


TIMES = {
    "seconds": (["964982703", "5", " 7 "], [964982703, 5, 7]),
    "nanoseconds": (
        ["1396867869277000001", "1396867869277000002"],
        [1396867869277000001, 1396867869277000002],
    ),
    "whole floats": (["881250949.0", "8.9e8"], [881250949, 890000000]),
    "a fraction, later": (["5", "5.25"], [5.0, 5.25]),
    "dates": (["1970-01-02", "1970-01-01"], [DAY, 0]),
    "date and time": (["1970-01-02 00:00:01", "1970-01-01T00:00:00.000002"], [DAY + 10**6, 2]),
    "zones": (["1970-01-02T00:00:00Z", "1970-01-02T00:00:00+01:00"], [DAY, DAY - 3600 * 10**6]),
    "other zones": (["1970-01-02 00:00:00 UTC", "1970-01-02 00:00:00+0100"], [DAY, DAY - 3600 * 10**6]),
}


@pytest.mark.parametrize("name", TIMES)
def test_times(tmp_path, name):
    texts, values = TIMES[name]
    path = write(tmp_path / "log.csv", "user,item,time\n" + "".join(f"u,a,{text}\n" for text in texts))
    times = logs.read(path)[0]["time"]
    assert times.tolist() == values
    assert times.dtype == (np.float64 if isinstance(values[0], float) else np.int64)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["5", "2014-04-07"], "line 3, column 'time': '2014-04-07' is no valid number"),
        (["2014-04-07", "5"], "line 3, column 'time': '5' is no valid date; expected such as"),
        (["2014-04-07", "07/04/2014"], "line 3, column 'time': '07/04/2014' is no valid date"),
        (["1969-12-31"], "line 2, column 'time': '1969-12-31' is no valid date"),
        ([str(2**63)], f"line 2, column 'time': '{2**63}' is no valid number"),
        (["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59"], "line 3, column 'time': '0001-01-01T"),
        (["inf"], "line 2, column 'time': 'inf' is no valid number"),
        (["²"], "line 2, column 'time': '²' is no valid number"),
    ],
)
def test_times_that_are_not_valid_or_mixed(tmp_path, texts, message):
    path = write(tmp_path / "log.csv", "user,item,time\n" + "".join(f"u,a,{text}\n" for text in texts))
    with pytest.raises(InputError) as caught:
        logs.read(path)
    assert message in str(caught.value)


# --- missing values


@pytest.mark.parametrize("text", ["", "NA", "N/A", "NULL", "None", "nan", "NaN", r"\N", " NA "])
def test_events_without_a_user_or_an_item_are_dropped_and_counted(tmp_path, text):
    path = write(
        tmp_path / "log.csv",
        f"user,item,time\nu,a,1\nu,{text},2\n{text},b,3\n{text},{text},4\nv,b,5\nu,b,6\n",
    )
    assert read(path) == [("u", "a", 1), ("v", "b", 5), ("u", "b", 6)]
    note = f"3 of 6 events have no user or no item (first line 3, column 'item': {text!r}); they are dropped"
    assert logs.read(path)[2] == [note]


def test_the_note_is_part_of_the_summary(tmp_path):
    rows = "".join(f"{user},{item},{item}\n" for user in "12" for item in "34567")
    summary = logs.load(
        from_dict({"data": str(write(tmp_path / "log.csv", "user,item,time\nNA,3,1\n" + rows)), "core": 0})
    )[1]
    assert summary.endswith(
        "1 of 11 events have no user or no item (first line 2, column 'user': 'NA'); they are dropped"
    )


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("user,item\nNA,a\n,b\nu,c\n", "user=..,item=.."),
        ("user,item,invoice\nNA,a,s\n,b,s\nu,c,s\n", "user=invoice"),
    ],
)
def test_a_log_whose_ids_are_mostly_missing_is_refused(tmp_path, text, hint):
    with pytest.raises(
        InputError, match=rf"2 of 3 events .* name other columns, such as --columns {re.escape(hint)}$"
    ):
        logs.read(write(tmp_path / "log.csv", text))


def test_a_missing_group_is_refused(tmp_path):
    path = write(tmp_path / "log.csv", "user,item,session\nu,a,s\nu,b,NA\n")
    with pytest.raises(
        InputError, match="line 3, column 'session': 'NA' is no id; --columns group= leaves it off"
    ):
        logs.read(path)


def test_ids_are_stripped_as_the_header_is(tmp_path):
    path = write(tmp_path / "log.csv", "user, item\nu, a\n u,a \nv,a\n")
    assert read(path) == [("u", "a"), ("u", "a"), ("v", "a")]


# --- what a file is packed in


def test_a_blank_first_line(tmp_path):
    path = write(tmp_path / "log.csv", "\n  \nuser;item;time\n\nu;a;1\nu;b;x\n")
    with pytest.raises(InputError, match="line 6, column 'time': 'x'"):
        logs.read(path)


@pytest.mark.parametrize("title", [r"a \"b\"; c", 'a ""b""; c', r"\"b\"", r"C:\x"])
def test_quotes_in_quotes(tmp_path, title):
    path = write(tmp_path / "log.csv", f'"item";"user";"time"\n"{title}";"u";1\n"C:\\";"u";2\n')
    plain = title.replace(r"\"", '"').replace('""', '"')
    assert read(path) == [("u", plain, 1), ("u", "C:\\", 2)]


def test_between_double_colons_quotes_are_letters(tmp_path):
    path = write(tmp_path / "log.dat", '1::"Cats" (1998)::5\n1::"Dogs::4\n')
    assert read(path, "user=0,item=1") == [("1", '"Cats" (1998)'), ("1", '"Dogs')]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_says_how_to_convert(tmp_path, encoding):
    path = write(tmp_path / "log.csv", "user,item\n1,2\n".encode(encoding))
    with pytest.raises(InputError, match=r"line 1: binary, or UTF-16 \(iconv -f UTF-16 converts\)$"):
        logs.read(path)


def test_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "ratings.csv.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ml/", "")
        archive.writestr("ml/ratings.csv", "user,item,time\nu,a,1\nu,b,2\n")
        archive.writestr("__MACOSX/ml/._ratings.csv", "\0")
    assert read(tmp_path / "ratings.csv.zip") == [("u", "a", 1), ("u", "b", 2)]
    with zipfile.ZipFile(tmp_path / "ml.zip", "w") as archive:
        archive.writestr("movies.dat", "1::x\n")
        archive.writestr("ratings.dat", "1::1::5::964982703\n")
    with pytest.raises(
        InputError, match=r"ml\.zip: a zip of several files; unpack .* movies\.dat, ratings\.dat$"
    ):
        logs.read(tmp_path / "ml.zip")
    whole, start = (tmp_path / "ratings.csv.zip").read_bytes(), len("ml/") + 2 * 30 + len("ml/ratings.csv")
    for broken in (whole[:60], whole[:start] + b"x" * 9 + whole[start + 9 :]):
        with pytest.raises(InputError, match="packed data is damaged"):
            logs.read(write(tmp_path / "broken.zip", broken))


# --- large files


def test_progress_is_told_in_bytes_of_the_file(tmp_path, monkeypatch):
    told = []

    class Bar:
        n = 0

        def __init__(self, *args, **settings):
            told.append(settings)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def update(self, more):
            self.n += more
            told.append(self.n)

    monkeypatch.setattr(tables, "tqdm", Bar)
    path = write(tmp_path / "log.csv.gz", "user,item,time\n" + "u,a,5\n" * 10_000)
    logs.read(path)
    assert told[-1] == path.stat().st_size  # as packed
    assert told[-3]["delay"] == 2


def test_reading_keeps_no_more_than_the_columns(tmp_path):
    import tracemalloc

    rows = 50_000
    path = write(
        tmp_path / "log.csv", "user,item,time\n" + "".join(f"{n % 9},{n % 7},{n}\n" for n in range(rows))
    )
    tracemalloc.start()
    logs.read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # three columns of 8 bytes; an array that grows is copied once, and has room for an eighth more
    assert peak < 3 * 8 * rows * 1.5 + 8 * rows + 500_000


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=20))
@settings(max_examples=20, deadline=None)
def test_integers_keep_every_bit(tmp_path_factory, times):
    path = tmp_path_factory.mktemp("log") / "log.csv"
    write(path, "user,item,time\n" + "".join(f"u,a,{time}\n" for time in times))
    assert logs.read(path)[0]["time"].tolist() == times
