"""Side information: titles, attributes, their vectors, and broken files."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from minirec.data import catalogue, logs, tables
from minirec.errors import InputError
from minirec.settings import from_dict


def write(path: Path, text: str, packed: bool = False) -> Path:
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    return path


def test_without_a_file_only_the_ids_are_known():
    made = catalogue.make_catalogue(["a", "b"])
    assert (made.ids, made.titles, made.features) == (["a", "b"], None, None)


def test_features_by_hand():
    sets = [{"x", "y", "rare"}, {"x", "y"}, {"x"}, {"all", "x"}, set()]
    sets = [s | {"all"} if s else s for s in sets]
    # all and x: on each of the 4 items that have attributes, so idf 0; y: log(4/2); rare is on one item only
    found = catalogue.features(sets)
    assert found.dtype == torch.float32
    assert found.tolist() == [[0, 0, 1], [0, 0, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_features_weigh_by_idf_and_have_unit_length():
    found = catalogue.features([{"x", "y"}, {"x", "y"}, {"x"}, {"z"}, {"z"}]).numpy()
    want = np.log([5 / 3, 5 / 2])
    want = want / np.linalg.norm(want)
    np.testing.assert_allclose(found[0], [*want, 0], rtol=1e-6)  # float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)


def test_the_most_frequent_attributes_are_kept(monkeypatch):
    monkeypatch.setattr(catalogue, "VOCABULARY", 2)
    found = catalogue.features([{"c", "a", "b"}, {"c", "b", "a"}, {"c"}, {"d"}])
    assert found.shape == (4, 2)  # c, then a before b: equally frequent, so alphabetical
    assert (found[0] > 0).tolist() == [True, True]
    assert found[3].tolist() == [0, 0]


def test_nothing_shared_gives_no_features():
    assert catalogue.features([{"a"}, {"b"}]) is None


def test_movielens(tmp_path):
    movies = 'movieId,title,genres\n7,"Heat, the (1995)",Action|Crime\n8,Speed,Action\n9,Emma,Crime\n99,X,Y\n'
    write(tmp_path / "movies.csv", movies)
    events = "".join(f"{u},{i},4.0,{t}\n" for u in "12" for t, i in enumerate("789789"))
    log = write(tmp_path / "ratings.csv", "userId,movieId,rating,timestamp\n" + events)
    dataset, _ = logs.load(from_dict({"data": str(log), "core": 0}))
    assert dataset.catalogue.titles == ["Heat, the (1995)", "Speed", "Emma"]
    assert (dataset.catalogue.features > 0).tolist() == [[True, True], [True, False], [False, True]]
    other = write(tmp_path / "other.csv", log.read_text())  # not MovieLens' name: nothing is taken unasked
    assert logs.load(from_dict({"data": str(other), "core": 0}))[0].catalogue.titles is None


def test_words_of_a_description_and_an_item_column_that_is_not_the_first(tmp_path):
    text = "code,item,description\nq,a,RED mug\nr,b,red CUP\n,c,\n"
    made = catalogue.make_catalogue(list("abcd"), write(tmp_path / "items.csv", text))
    assert made.titles == ["RED mug", "red CUP", "c", "d"]
    assert made.features.shape == (4, 1)  # red, in both spellings
    named = write(tmp_path / "named.csv", text.replace("item", "sku"))
    assert catalogue.make_catalogue(list("ab"), named, "user=u,item=SKU").titles == ["RED mug", "red CUP"]


def test_the_first_column_is_the_item_and_rows_of_one_item_add_up(tmp_path):
    text = "asin;title;brand\na;A;x\na;A2;y\nb;B;x|y\n"
    made = catalogue.make_catalogue(["a", "b", "c"], write(tmp_path / "items.csv", text, packed=True))
    assert made.titles == ["A", "B", "c"]
    assert made.features.shape == (3, 2)  # brand=x and brand=y, each on a and b


def test_a_table_of_titles_alone_knows_its_items(tmp_path):
    made = catalogue.make_catalogue(["a", "b"], write(tmp_path / "items.csv", "item,title\na,A\n"))
    assert (made.titles, made.features, made.topics) == (["A", "b"], None, None)


def test_a_column_without_a_name_is_not_the_item_column(tmp_path):
    path = write(tmp_path / "items.csv", ",item,title\n0,a,A\n1,b,B\n")  # with the numbers of the rows
    assert catalogue.make_catalogue(["a", "b"], path).titles == ["A", "B"]


def test_json(tmp_path):
    path = write(tmp_path / "x.json.gz", json.dumps({"a": [1, 2], "b": [2, 1], "c": ["3"]}), packed=True)
    made = catalogue.make_catalogue(list("abcd"), path)
    assert made.titles is None
    assert made.features.shape == (4, 2)
    assert made.features[2:].abs().sum() == 0


def test_words_of_a_token_seq_are_attributes_and_a_title_stays_whole(tmp_path):
    """RecBole's .item: a type stands behind each name, and token_seq is separated by spaces."""
    text = "item_id:token\tmovie_title:token_seq\tclass:token_seq\tstudio:token\n"
    text += "a\tToy Story\tDrama War\tBig One\nb\tHeat\tWar\tBig One\nc\tEmma\tDrama\tA|B\nd\tJaws\t\tA|B\n"
    made = catalogue.make_catalogue(list("abcd"), write(tmp_path / "ml.item", text))
    assert made.titles == ["Toy Story", "Heat", "Emma", "Jaws"]
    assert made.topics.tolist() == [[0, 1], [1, -1], [0, -1], [-1, -1]]
    assert made.features.shape == (4, 5)  # Drama, War, Big One, A and B


def test_named_values_of_a_json_are_the_columns_of_a_table(tmp_path):
    """MiniOneRec's .item.json."""
    table = {
        "0": {"title": "Red mug", "description": "A RED mug", "brand": "Cups", "categories": ["Home", "Tea"]},
        "1": {
            "title": "Tea pot",
            "description": "red; round",
            "brand": None,
            "categories": ["Tea", "Home"],
            "price": 3.5,
        },
        "2": {"title": "", "categories": "Home"},
    }
    path = write(tmp_path / "x.item.json.gz", json.dumps(table), packed=True)
    made = catalogue.make_catalogue(["0", "1", "2", "3"], path)
    assert made.titles == ["Red mug", "Tea pot", "2", "3"]
    assert made.topics.tolist() == [[0, 1], [0, 1], [0, -1], [-1, -1]]
    assert made.features.shape == (4, 3)  # red, Home and Tea


def test_a_table_of_users_is_refused(tmp_path):
    path = write(tmp_path / "ml.user.gz", "user_id:token\tage:token\na\t24\n", packed=True)
    with pytest.raises(
        InputError, match=r"ml.user.gz: RecBole's table of users; expected that of items, .item$"
    ):
        catalogue.make_catalogue(["a", "b"], path)


def test_a_log_that_also_describes_its_items_may_be_given(tmp_path):
    made = catalogue.make_catalogue(["a"], write(tmp_path / "log.csv", "user,item,title\nu,a,A\n"))
    assert made.titles == ["A"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "x.json",
            '{"a": [1],\n "b": }',
            "x.json: Expecting value: line 2 column 7 (char 17); expected json",
        ),
        ("x.json", "", "x.json: Expecting value: line 1 column 1"),
        ("x.json", "[1]", "x.json, line 1: expected an object of item to list, got list"),
        ("x.json", '{"a": 3}', "x.json, item 'a': expected a list of words or numbers"),
        ("x.json", '{"a": [[]]}', "x.json, item 'a': expected a list"),
        ("x.json", '{"a": {"title": {"en": "A"}}}', "x.json, item 'a': expected a list of words or numbers"),
        ("x.json", '{"": {"title": "A"}}', "x.json, line 1, column 'item': empty; expected an item id"),
        ("x.json", "[" * 200_000, "x.json: maximum recursion depth exceeded"),
        (
            "x.json",
            '{"z": [1]}',
            "x.json: knows none of the log's 2 items; expected ids such as 'a' in its item column",
        ),
        ("x.csv", "item,title\nz,Z\n", "x.csv: knows none of the log's 2 items"),
        ("x.csv", "item,title\na,A\n,B\n", "x.csv, line 3, column 'item': empty"),
        ("x.csv", "item,title\na,A\nb\n", "x.csv, line 3: 1 columns; expected 2"),
        ("x.csv", "", "x.csv, line 1: the file is empty"),
    ],
)
def test_broken_side_information(tmp_path, name, text, message):
    with pytest.raises(InputError) as caught:
        catalogue.make_catalogue(["a", "b"], write(tmp_path / name, text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        catalogue.make_catalogue(["a"], tmp_path / "none.csv")


def test_a_json_that_unpacks_to_more_than_the_limit_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "JSON_MOST", 1000)
    bomb = '{"a": [' + "[],\n" * 5000 + "[]]}"
    with pytest.raises(InputError, match=r"x.json.gz: over 1,000 bytes when unpacked"):
        catalogue.make_catalogue(["a"], write(tmp_path / "x.json.gz", bomb, packed=True))
