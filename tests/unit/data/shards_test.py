"""Shards of any source: what they keep, and that stopping on the way changes nothing."""

import hashlib
import io
import json
import tarfile

import numpy as np
import pytest
from etils import epath
from PIL import Image

from simclr_jax.core.errors import StorageError, UserError
from simclr_jax.data.dataset import Dataset
from simclr_jax.data.decode import decode
from simclr_jax.data.records import count_shared, read_records
from simclr_jax.data.shards import Split, convert
from simclr_jax.data.sources import open_source


def noise(seed, height=20, width=30):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def folder(tmp_path):
    for i in range(7):
        place = tmp_path / "images" / ("cat" if i % 2 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(i)).save(place / f"{i}.{'jpg' if i % 3 else 'png'}")
    (tmp_path / "images/cat/bad.png").write_bytes(b"no image")
    return tmp_path / "images"


def split_of(folder, name="train"):
    dataset = Dataset("folder", 1, 64, "all", path=str(folder), labels_from_folders=None)
    return Split(name, dataset, dataset.open("all"))


def shards(output, *splits, canvas=None, images_per_shard=3):
    output.mkdir(exist_ok=True)
    return convert(splits, epath.Path(output), canvas=canvas, images_per_shard=images_per_shard)


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_bytes_labels_classes_and_names_are_kept(folder, tmp_path):
    done = shards(tmp_path / "out", split_of(folder))
    assert (done.num_shards, done.num_images, done.num_changed) == (3, 8, 0)
    before = open_source("folder", split="all", path=folder, labels_from_folders=True)
    after = open_source("array_record", split="all", path=tmp_path / "out")
    assert after.class_names == before.class_names == ("cat", "dog")
    assert [after[i] for i in range(8)] == [before[i] for i in range(8)]
    assert read_records(after, np.array([5, 0])) == [before[5], before[0]]


def test_the_index_has_the_hash_of_every_image_and_shard(folder, tmp_path):
    shards(tmp_path / "out", split_of(folder))
    rows = []
    for path in sorted((tmp_path / "out").glob("train.index-*")):
        head, *some = map(json.loads, path.read_text().splitlines())
        shard = (tmp_path / "out" / head["file"]).read_bytes()
        assert (head["sha256"], head["bytes"]) == (hashlib.sha256(shard).hexdigest(), len(shard))
        rows += some
    assert [row["name"] for row in rows] == sorted(row["name"] for row in rows)
    for row in rows:
        stored = (folder / row["name"]).read_bytes()
        assert (row["sha256"], row["bytes"]) == (hashlib.sha256(stored).hexdigest(), len(stored))


def test_a_canvas_changes_only_what_does_not_fit(folder, tmp_path):
    Image.fromarray(noise(9, 10, 12)).save(folder / "dog/small.png")
    done = shards(tmp_path / "out", split_of(folder), canvas=15)
    assert (done.num_changed, done.num_unreadable) == (7, 1)
    before = open_source("folder", split="all", path=folder)
    after = open_source("array_record", split="train", path=tmp_path / "out")
    for i in range(len(before)):
        if before[i].name in ("dog/small.png", "cat/bad.png"):
            assert after[i].image == before[i].image
            continue
        data = after[i].image
        assert isinstance(data, bytes)
        small = Image.open(io.BytesIO(data))
        kind = "PNG" if before[i].name.endswith(".png") else "JPEG"
        assert (small.size, small.format) == ((15, 10), kind)
        if small.format == "PNG":
            np.testing.assert_array_equal(small, decode(before[i].image, canvas=15).pixels)


def test_arrays_become_files_without_loss(tmp_path):
    dataset = Dataset("digits", 1, 28, "test")
    shards(tmp_path / "out", Split("test", dataset, dataset.open("test")), images_per_shard=1000)
    before = open_source("digits", split="test")
    after = open_source("array_record", split="test", path=tmp_path / "out")
    for i in (0, 999):
        np.testing.assert_array_equal(
            decode(after[i].image, canvas=28).pixels, decode(before[i].image, canvas=28).pixels
        )
        assert (after[i].label, after[i].name) == (before[i].label, before[i].name)


def test_splits_stand_side_by_side_and_the_same_images_are_recognised(folder, tmp_path):
    shards(tmp_path / "out", split_of(folder), split_of(folder, "test"))
    opened = lambda split: open_source("array_record", split=split, path=tmp_path / "out")
    assert [len(opened(split)) for split in ("train", "test", "all", "train[:2]")] == [8, 8, 16, 2]
    assert count_shared(opened("train"), opened("train[:2]")) == 2
    assert count_shared(opened("train"), opened("test")) == 0
    moved = tmp_path / "moved"
    (tmp_path / "out").rename(moved)
    again = open_source("array_record", split="train", path=moved)
    shards(tmp_path / "out", split_of(folder), split_of(folder, "test"))
    assert again.fingerprint == opened("train").fingerprint
    assert count_shared(opened("train"), again) == 8


@pytest.mark.parametrize("num_writes", range(1, 9))
def test_a_conversion_that_failed_anywhere_goes_on_bit_equal(
    folder, tmp_path, monkeypatch, num_writes
):
    shards(tmp_path / "whole", split_of(folder))
    replace, calls = epath.Path(tmp_path).__class__.replace, []

    def failing(self, target):
        calls.append(target)
        if len(calls) == num_writes:
            raise KeyboardInterrupt
        return replace(self, target)

    (tmp_path / "out").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(epath.Path(tmp_path).__class__, "replace", failing)
        with pytest.raises(KeyboardInterrupt):
            shards(tmp_path / "out", split_of(folder))
    assert not (tmp_path / "out/dataset_info.json").exists()
    with pytest.raises(UserError, match="no finished data set of shards"):
        open_source("array_record", split="all", path=tmp_path / "out")
    (tmp_path / "out/.train.array_record-00001-of-00003.0123abcd.tmp").write_bytes(b"killed")
    if not (tmp_path / "out/convert.json").exists():  # it had not begun
        (tmp_path / "out/.train.array_record-00001-of-00003.0123abcd.tmp").unlink()
    shards(tmp_path / "out", split_of(folder))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_what_is_whole_is_not_written_again_and_what_is_cut_is(folder, tmp_path):
    shards(tmp_path / "out", split_of(folder))
    before = contents(tmp_path / "out")
    cut = tmp_path / "out/train.array_record-00001-of-00003"
    cut.write_bytes(cut.read_bytes()[:-1])
    (tmp_path / "out/train.index-00002-of-00003.jsonl").write_bytes(b"")
    kept = tmp_path / "out/train.array_record-00000-of-00003"
    when = kept.stat().st_mtime_ns
    shards(tmp_path / "out", split_of(folder))
    assert contents(tmp_path / "out") == before
    assert kept.stat().st_mtime_ns == when


def test_a_full_disk_leaves_whole_shards_only(folder, tmp_path, full_disk):
    Image.fromarray(noise(0, 400, 400)).save(folder / "dog/z.png")
    split = split_of(folder)
    with full_disk(200_000), pytest.raises(StorageError, match=r"File too large.*Nothing of it"):
        shards(tmp_path / "out", split)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert not {name for name in names if name.startswith(".") or "00002-of" in name}
    assert "train.array_record-00001-of-00003" in names
    shards(tmp_path / "out", split)
    assert len(open_source("array_record", split="all", path=tmp_path / "out")) == 9


def test_other_images_or_settings_are_refused_by_name(folder, tmp_path):
    shards(tmp_path / "out", split_of(folder))
    with pytest.raises(UserError, match=r"canvas of .*convert.json differ. Give another --output"):
        shards(tmp_path / "out", split_of(folder), canvas=8)
    (folder / "cat/bad.png").unlink()
    with pytest.raises(UserError, match=r"sources of .*differ"):
        shards(tmp_path / "out", split_of(folder))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("x")
    with pytest.raises(UserError, match="holds files, and no conversion"):
        shards(tmp_path / "full", split_of(folder))
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", [" cat", "c\nat", "c\udce9t"])
def test_class_names_that_cannot_be_kept_are_refused(tmp_path, name):
    (tmp_path / "images" / name).mkdir(parents=True)
    Image.fromarray(noise(0)).save(tmp_path / "images" / name / "0.png")
    with pytest.raises(UserError, match="a name that TFDS cannot keep"):
        shards(tmp_path / "out", split_of(tmp_path / "images"))
    assert not any((tmp_path / "out").iterdir())


def test_tars_keep_their_classes_and_captions(tmp_path):
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars/0.tar", "w") as tar:
        for i in range(4):
            file = io.BytesIO()
            Image.fromarray(noise(i)).save(file, "PNG")
            said = "" if i == 1 else f"noise \u00e9 {i}"
            for kind, data in (("png", file.getvalue()), ("cls", b"%d" % (i % 2))):
                add(tar, f"{i}.{kind}", data)
            add(tar, f"{i}.txt", said.encode())
    dataset = Dataset("webdataset", 1, 64, "all", path=str(tmp_path / "tars"))
    before = dataset.open("all")
    shards(tmp_path / "out", Split("train", dataset, before))
    after = open_source("array_record", split="all", path=tmp_path / "out")
    assert after.class_names == before.class_names
    assert [after[i] for i in range(4)] == [before[i] for i in range(4)]
    assert after[2].captions == ("noise \u00e9 2",)
    assert read_records(after, np.array([3, 0])) == [before[3], before[0]]


def add(tar, name, data):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
