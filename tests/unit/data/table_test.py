"""Tables of images: columns, classes, captions, splits, and what is wrong named by its line."""

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from simclr_jax.core.errors import UserError
from simclr_jax.data import listing
from simclr_jax.data.columns import Columns
from simclr_jax.data.dataset import Dataset
from simclr_jax.data.decode import UnreadableImageError
from simclr_jax.data.look import look
from simclr_jax.data.records import count_shared
from simclr_jax.data.sources import open_source
from simclr_jax.data.subsets import LabelSubset
from simclr_jax.data.table import Table

ALL: dict[str, Any] = {"split": "all"}


@pytest.fixture
def root(tmp_path):
    """A folder with the images 0.png to 5.png in its folder "in"."""
    (tmp_path / "in").mkdir()
    for i in range(6):
        Image.fromarray(np.full((4, 4, 3), 40 * i, np.uint8)).save(tmp_path / f"in/{i}.png")
    return tmp_path


def table(root, text, name="t.csv", **options):
    (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    kind = "jsonl" if name.startswith("j") or name.endswith("jsonl") else "csv"
    source = open_source(**({"name": kind, "path": root / name} | ALL | options))
    assert isinstance(source, Table)
    return source


def lines(*rows):
    return "".join(f"{row}\n" for row in rows)


def labels(source):
    return [source[i].label for i in range(len(source))]


def test_a_row_is_an_image_with_its_class_and_its_caption(root):
    text = lines(
        "path,label,caption", 'in/1.png,dog,"a dog, asleep"', "in/0.png,cat,", "in/2.png,,x"
    )
    source = table(root, text)
    assert source.class_names == ("cat", "dog")
    assert labels(source) == [1, 0, -1]
    assert source.labels == [1, 0, -1]
    assert [source[i].captions for i in range(3)] == [("a dog, asleep",), (), ("x",)]
    assert source[0].image == (root / "in/1.png").read_bytes()
    assert [source.name_of(i) for i in range(2)] == ["t.csv:2: in/1.png", "t.csv:3: in/0.png"]
    assert source[1].name == source.name_of(1)
    assert source.file_of(1) == str(root / "in/0.png")
    assert source.name == f"csv {root}/t.csv/all"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("filepath\ttitle\nin/0.png\tone, two\n", "t.csv"),
        ("file_name;text\r\nin/0.png;one, two\r\n", "t.csv"),
        ('\ufeffimage,caption\nin/0.png,"one, two"', "t.csv"),
        ("image\tcaption\n\nin/0.png\tone, two\n", "t.tsv"),
        (json.dumps({"image": "in/0.png", "text": ["one, two"]}), "t.jsonl"),
        ('{"image": "in/0.png", "text": "one, two"}', "j.txt"),
        ("image,text\nin/0.png,'one, two'\n".replace("'", '"'), "t.txt"),
        (json.dumps({"x": 1, "img": "in/0.png", "caption": "one, two"}) + "\n\n", "t.jsonl"),
    ],
)
def test_the_usual_ways_to_write_a_table_are_read(root, text, name):
    source = table(root, text, name)
    assert len(source) == 1
    assert source[0].captions == ("one, two",)
    assert source[0].image == (root / "in/0.png").read_bytes()


def test_columns_are_chosen_by_name(root):
    text = lines(
        "path,label,photo,breed,note", "no.png,9,in/0.png,pug,hm", "no.png,8,in/1.png,lab,ha"
    )
    source = table(root, text, columns=Columns("photo", "breed", "note"))
    assert source.class_names == ("lab", "pug")
    assert (source[0].label, source[0].captions) == (1, ("hm",))


@pytest.mark.parametrize("kind", ["image", "label", "caption"])
def test_an_unknown_column_is_named_with_those_there_are(root, kind):
    asked = Columns(**{kind: "fotos"})
    with pytest.raises(
        UserError,
        match=rf"config\.data\.{kind}_column='fotos': .*t\.csv has no such column, only 'foto', "
        "'path'. Did you mean 'foto'",
    ):
        table(root, lines("foto,path", "in/0.png,x"), columns=asked)


def test_without_a_column_of_a_usual_name_it_is_asked_for(root):
    with pytest.raises(UserError, match=r"only 'foto', 'n': .*--config\.data\.image_column=NAME"):
        table(root, lines("foto,n", "in/0.png,x"))
    # What seems to be a header is a row; the message shows it.
    with pytest.raises(UserError, match=r"only 'in/0\.png', 'dog'"):
        table(root, lines("in/0.png,dog"))


def test_whole_numbers_are_classes_in_their_order_and_minus_one_is_none(root):
    rows = [f"in/{i}.png,{label}" for i, label in enumerate([10, 2, 2, -1])]
    source = table(root, lines("image,label", *rows))
    assert source.class_names == ("2", "10")
    assert labels(source) == [1, 0, 0, -1]
    text = lines(*(json.dumps({"image": f"in/{i}.png", "label": 5 - i}) for i in range(3)))
    assert table(root, text, "t.jsonl").class_names == ("3", "4", "5")


def test_classes_of_a_test_table_are_those_of_the_training_table_by_name(root):
    (root / "train.csv").write_text(lines("image,label", "in/0.png,b", "in/1.png,a", "in/2.png,c"))
    (root / "test.csv").write_text(lines("image,label", "in/3.png,c"))
    data = Dataset("csv", 2, 8, "train", "test", str(root))
    train = data.open_train()
    assert labels(data.open_test(train)) == [2]
    (root / "test.csv").write_text(lines("image,label", "in/3.png,zebra"))
    with pytest.raises(UserError, match=r"'zebra', that are none of the 3 expected ones, 'a', 'b'"):
        data.open_test(train)


def test_a_split_is_a_file_or_what_stands_in_the_column(root):
    rows = ["in/0.png,train", "in/1.png,test", "in/2.png,train"]
    whole = lines("image,split", *rows)
    assert len(table(root, whole)) == 3
    train, test = (table(root, whole, split=split) for split in ("train", "test"))
    assert [train.name_of(i) for i in range(2)] == ["t.csv:2: in/0.png", "t.csv:4: in/2.png"]
    assert count_shared(train, test) == 0
    with pytest.raises(UserError, match=r"no split 'val'.*Splits: 'train', 'test'\."):
        table(root, whole, split="val")
    with pytest.raises(UserError, match=r"t\.csv, which has no column 'split', has no split 'val'"):
        table(root, lines("image", "in/0.png"), split="val")
    assert len(table(root, lines("image", "in/0.png"), "val-1.csv", split="val")) == 1


def test_test_images_that_are_training_images_are_counted(root):
    (root / "train.csv").write_text(lines("image", "in/0.png", "in/1.png"))
    (root / "test").mkdir()
    (root / "test/a.csv").write_text(lines("image", "../in/2.png", "../in/1.png"))
    data = Dataset("csv", 2, 8, "train", "test", str(root))
    with pytest.raises(UserError, match="1 of the 2 test images"):
        data.open_test(data.open_train())
    folder = open_source("folder", split="all", path=root / "in")
    assert count_shared(folder, data.open_train()) == 2


def test_rows_of_one_image_are_one_record_with_the_captions_of_all(root, caplog):
    caplog.set_level("INFO")
    rows = ["in/0.png,,first", "in/1.png,b,other", "./in/0.png,a,second", "in/0.png,a,first"]
    text = lines("image,label,text", *rows)
    source = table(root, text)
    assert [source[i].captions for i in range(2)] == [("first", "second"), ("other",)]
    assert labels(source) == [0, 1]
    assert "2 rows of csv" in caplog.text
    with pytest.raises(
        UserError, match=r"t\.csv:3 and t\.csv:2: in/0\.png name one image with the labels 'b' and"
    ):
        table(root, lines("image,label", "in/0.png,a", "in/0.png,b"))


def test_an_image_that_is_missing_is_unreadable_by_its_line_unless_all_are(root):
    source = table(root, lines("image", "in/0.png", "in/none.png", '""', "in", "in/0.png/x"))
    for i, (line, reason) in enumerate(
        [(3, "does not exist"), (4, "names no image"), (5, "is no file"), (6, "does not exist")], 1
    ):
        with pytest.raises(UnreadableImageError, match=rf"^t\.csv:{line}: .*{reason}"):
            source[i]
    with pytest.raises(
        UserError, match=rf"Not one of the 2 files .* t\.csv:2: a\.png, would be {root}/a\.png"
    ):
        table(root, lines("image", "a.png", "b.png"))


def test_an_image_whose_storage_went_away_is_not_unreadable(root):
    source = table(root, lines("image", "in/0.png", "in/1.png"))
    (root / "in").rename(root / "elsewhere")
    with pytest.raises(FileNotFoundError):
        source[1]


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (
            b"image,label\nin/0.png,caf\xe9\n",
            "t.csv",
            r"line 2, is not UTF-8: byte 0xe9 at 13\. .*ic",
        ),
        (b"\xff\xfei\0m\0", "t.csv", "line 1, is not UTF-8"),
        ("image,label\nin/0.png\n", "t.csv", "line 2, has 1 fields, and the header 2"),
        ('image,label\na,b\n"c', "t.csv", "line 3, is no row of a CSV file"),
        ("", "t.csv", "t.csv is empty"),
        ("image,a,a\n", "t.csv", "two columns called 'a'"),
        ("image,a\n", "t.csv", "has no rows"),
        ('{"image": "in/0.png"}\n{"image"', "t.jsonl", "line 2, is no JSON"),
        ("[" * 100_000, "t.jsonl", "line 1, is no JSON"),
        ('["in/0.png"]', "t.jsonl", "line 1, is no JSON object"),
        ('{"image": 7}', "t.jsonl", "t.jsonl:1: the image 7 is no path"),
        ('{"image": "a\\u0000b"}', "t.jsonl", "is no path"),
        ('{"image": "in/0.png", "label": 1.5}', "t.jsonl", "t.jsonl:1: the label 1.5 is neither"),
        ('{"image": "in/0.png", "text": [1]}', "t.jsonl", r"the captions \[1\] are neither"),
        ("", "t.txt.jsonl", "has no column"),
    ],
)
def test_what_is_no_table_is_named_with_its_line(root, text, name, message):
    with pytest.raises(UserError, match=message):
        table(root, text, name)


def test_a_table_tells_its_path_from_any_directory(root, monkeypatch):
    monkeypatch.chdir(root)
    text = lines("image", f"{root}/in/0.png", "in/1.png")
    here = table(root, text, path="t.csv")
    monkeypatch.chdir("/")
    away = table(root, text)
    assert here.fingerprint == away.fingerprint
    assert away[1].image == (root / "in/1.png").read_bytes()


def test_the_fingerprint_follows_rows_labels_and_captions(root):
    rows = ["in/0.png,a,x", "in/1.png,b,y"]
    find = lambda *rows: table(root, lines("image,label,text", *rows)).fingerprint
    first = find(*rows)
    assert find(*rows) == first
    assert find(*reversed(rows)) != first
    assert find("in/0.png,a,x", "in/1.png,b,z") != first
    assert find("in/0.png,b,x", "in/1.png,b,y") != first


def test_a_run_that_goes_on_names_what_a_table_says_anew(root):
    open_it = lambda label: table(root, lines("image,label", f"in/0.png,{label}", "in/none.png,a"))

    def look_at(label):
        found = listing.list_images(open_it(label), hashed=True)
        assert found is not None
        return found

    listing.write(str(root), look_at("a"))
    go_on = lambda label: listing.continued(
        str(root), look_at(label), step=3, accept="", examples="sounds"
    )
    found = go_on("a")
    assert found is not None
    assert found.sizes[1] == listing.MISSING
    with pytest.raises(UserError, match="what is said of them, labels or captions, not"):
        go_on("b")
    (root / "in/none.png").write_bytes(b"now it is")
    with pytest.raises(UserError, match=r"t\.csv:3: in/none\.png \(not there then"):
        go_on("a")


def test_a_share_of_labels_keeps_captions_and_names(root):
    rows = [f"in/{i}.png,{'ab'[i % 2]},text {i}" for i in range(4)]
    source = table(root, lines("image,label,text", *rows))
    subset = LabelSubset(source, 0.5, seed=0, keep_unlabelled=True)
    assert [subset[i].captions for i in range(4)] == [(f"text {i}",) for i in range(4)]
    assert sorted(subset[i].label for i in range(4)) == [-1, -1, 0, 1]
    assert subset.name_of(3) == "t.csv:5: in/3.png"


def test_a_look_names_rows(root):
    rows = ["in/0.png", "in/none.png", "in/1.png"]
    (root / "t.csv").write_text(lines("image", *rows))
    dataset = Dataset("csv", 2, 64, "all", path=str(root / "t.csv"))
    notes = look(dataset, dataset.open_train(), view_size=4)
    assert any("1 of 3 images looked at cannot be read; the first, t.csv:3" in n for n in notes)


def test_columns_are_of_tables_alone():
    with pytest.raises(UserError, match=r"'digits' has no columns"):
        open_source("digits", split="test", columns=Columns("image"))
    with pytest.raises(UserError, match="name='csv' needs a path: the table"):
        open_source("csv", split="all")
