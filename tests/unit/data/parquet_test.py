"""Parquet files with images in them, as Hugging Face writes them."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simclr_jax.core.errors import UserError
from simclr_jax.data import parquet
from simclr_jax.data.columns import Columns
from simclr_jax.data.dataset import Dataset
from simclr_jax.data.decode import UnreadableImageError
from simclr_jax.data.records import count_shared, name_of
from simclr_jax.data.sources import open_source


def write(path, images, names=None, row_group_size=None, **columns):
    """Writes a file as `datasets` does: a struct for each image, names of classes beside."""
    structs = [{"bytes": image, "path": f"{i}.png"} for i, image in enumerate(images)]
    table = pa.table({"image": structs, **columns})
    if names:
        features = {"label": {"names": names, "_type": "ClassLabel"}, "image": {"_type": "Image"}}
        told = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": told})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=row_group_size)


def open_it(path, split="all", **options):
    source = open_source("parquet", **({"split": split, "path": path} | options))
    assert isinstance(source, parquet.Parquet)
    return source


def labels(source):
    return [source[i].label for i in range(len(source))]


def test_rows_are_images_with_the_names_of_their_classes(tmp_path):
    images = [bytes([i]) * 10 for i in range(7)]
    label, text = [2, 0, -1, 1, 2, 2, None], [f"no {i}" for i in range(7)]
    write(tmp_path / "x.parquet", images, ["a", "b", "c"], 3, label=label, text=text)
    source = open_it(tmp_path)
    assert [source[i].image for i in (6, 0, 3, 2, 5, 1, 4)] == [
        images[i] for i in (6, 0, 3, 2, 5, 1, 4)
    ]
    assert source.class_names == ("a", "b", "c")
    assert labels(source) == source.labels == [2, 0, -1, 1, 2, 2, -1]
    assert source[4].captions == ("no 4",)
    assert source[4].name == source.name_of(4) == "x.parquet, row 4"
    assert source.name == f"parquet {tmp_path}/all"


def test_plain_bytes_texts_as_classes_and_lists_of_captions(tmp_path):
    table = pa.table({"jpg": [b"1", b"2"], "breed": ["pug", "lab"], "words": [["a", "b"], []]})
    pq.write_table(table, tmp_path / "x.parquet")
    source = open_it(tmp_path / "x.parquet", columns=Columns("jpg", "breed", "words"))
    assert source.class_names == ("lab", "pug")
    assert [(r.image, r.label, r.captions) for r in (source[0], source[1])] == [
        (b"1", 1, ("a", "b")),
        (b"2", 0, ()),
    ]
    with pytest.raises(UserError, match=r"label_column='x': .*only 'jpg', 'breed', 'words'"):
        open_it(tmp_path, columns=Columns("jpg", "x"))


def test_splits_are_files_or_a_column(tmp_path):
    write(tmp_path / "data/train-00000-of-00002.parquet", [b"1", b"2"], ["x", "y"], label=[0, 1])
    write(tmp_path / "data/train-00001-of-00002.parquet", [b"3"], ["x", "y"], label=[1])
    write(tmp_path / "data/test-00000-of-00001.parquet", [b"4"], ["x", "y"], label=[1])
    data = Dataset("parquet", 2, 8, "train", "test", str(tmp_path))
    train = data.open_train()
    test = data.open_test(train)
    assert test is not None
    assert [len(train), labels(test), test.class_names] == [3, [1], ("x", "y")]
    assert name_of(train, 2) == "train-00001-of-00002.parquet, row 0"
    assert count_shared(open_it(tmp_path), train) == 3
    with pytest.raises(UserError, match=r"has no column 'split', has no split 'val'.*'train'\?*"):
        open_it(tmp_path, "val")

    write(tmp_path / "one.parquet", [b"1", b"2", b"3"], split=["a", "b", "a"])
    found = open_it(tmp_path / "one.parquet", "a")
    assert [found[i].image for i in range(2)] == [b"1", b"3"]
    assert found.name_of(1) == "one.parquet, row 2"
    with pytest.raises(UserError, match=r"no split 'c'.*Splits: 'a', 'b'\."):
        open_it(tmp_path / "one.parquet", "c")


def test_only_some_groups_of_rows_are_in_memory(tmp_path, monkeypatch, caplog):
    rng = np.random.default_rng(0)
    images = [rng.bytes(1000) for _ in range(60)]
    write(tmp_path / "x.parquet", images, row_group_size=10)
    monkeypatch.setattr(parquet, "KEPT_BYTES", 25_000)
    source = open_it(tmp_path)
    assert "in groups of up to 10 images" in caplog.text
    for i in rng.permutation(60).tolist():
        assert source[i].image == images[i]
        assert len(source._groups._kept) <= 2


def test_rows_without_bytes_are_unreadable_by_name(tmp_path):
    table = pa.table(
        {"image": [{"bytes": None, "path": "a.png"}, None, {"bytes": b"x", "path": None}]}
    )
    pq.write_table(table, tmp_path / "x.parquet")
    source = open_it(tmp_path)
    for i, reason in enumerate(["only its path, a\\.png", "no bytes"]):
        with pytest.raises(UnreadableImageError, match=rf"^x\.parquet, row {i}: .*{reason}"):
            source[i]
    assert source[2].image == b"x"


def test_the_fingerprint_follows_rows_and_labels_and_no_path(tmp_path):
    def find(folder, label):
        write(tmp_path / folder / "x.parquet", [b"1", b"2"], label=label)
        return open_it(tmp_path / folder).fingerprint

    assert find("a", [0, 1]) == find("b", [0, 1]) != find("c", [1, 0])


@pytest.mark.parametrize("data", [b"", b"PAR1 no", "cut"])
def test_what_is_no_parquet_file_is_named(tmp_path, data):
    path = tmp_path / "x.parquet"
    write(path, [b"1" * 1000])
    path.write_bytes(path.read_bytes()[:-20] if data == "cut" else data)
    with pytest.raises(UserError, match=r"x\.parquet is no parquet file, or cut off"):
        open_it(tmp_path)


def test_a_broken_group_is_content_and_no_storage_fault(tmp_path):
    path = tmp_path / "x.parquet"
    rng = np.random.default_rng(0)
    write(path, [rng.bytes(1000) for _ in range(20)], row_group_size=10)
    data = bytearray(path.read_bytes())
    data[4:60] = b"\xff" * 56  # the header of the first page
    path.write_bytes(data)
    source = open_it(tmp_path)
    with pytest.raises(UnreadableImageError, match=r"^x\.parquet, row 3: broken group of rows"):
        source[3]
    assert len(source[13].image) == 1000


def test_a_label_that_no_class_has_is_refused(tmp_path):
    write(tmp_path / "x.parquet", [b"1"], ["a", "b"], label=[2])
    with pytest.raises(UserError, match=r"x\.parquet, row 0: the label 2 is none of the 2 classes"):
        open_it(tmp_path)


def test_files_with_other_names_of_classes_are_refused(tmp_path):
    write(tmp_path / "x.parquet", [b"1"], ["a", "b"], label=[0])
    write(tmp_path / "y.parquet", [b"1"], ["b", "a"], label=[0])
    with pytest.raises(UserError, match=r"y\.parquet has the classes 'b', 'a', and .* 'a', 'b': a"):
        open_it(tmp_path)
