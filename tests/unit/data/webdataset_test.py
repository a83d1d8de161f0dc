"""Tars of images: samples by name, read in place; what is odd in a tar is left out or named."""

import gzip
import io
import json
import os
import tarfile

import numpy as np
import pytest

from simclr_jax.core.errors import UserError
from simclr_jax.data import tar_index
from simclr_jax.data.columns import Columns
from simclr_jax.data.dataset import Dataset
from simclr_jax.data.decode import UnreadableImageError
from simclr_jax.data.records import captions_of, count_shared, left_out
from simclr_jax.data.sources import open_source
from simclr_jax.data.webdataset import WebDataset


def write_tar(path, *members, **options):
    """Writes a tar of (name, data) pairs, or of TarInfos without data."""
    path.parent.mkdir(exist_ok=True, parents=True)
    with tarfile.open(path, "w", **options) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            name, data = member
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def link(name, target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def open_tars(path, split="all", **options):
    source = open_source("webdataset", **({"split": split, "path": path} | options))
    assert isinstance(source, WebDataset)
    return source


def names(source):
    return [source.name_of(i) for i in range(len(source))]


SAMPLES = [
    ("a/1.jpg", b"one"),
    ("a/1.cls", b"3"),
    ("a/1.txt", b"the first\n"),
    ("a/1.json", b'{"breed": "pug", "text": ["x", "y"]}'),
    ("a/2.PNG", b"two"),
    ("a/2.cls", b"0"),
]


def test_files_of_one_name_are_one_sample(tmp_path):
    write_tar(tmp_path / "0.tar", *SAMPLES)
    write_tar(tmp_path / "1.tar", ("b.c/3.jpg", b"three"))
    source = open_tars(tmp_path)
    assert names(source) == ["0.tar: a/1.jpg", "0.tar: a/2.png", "1.tar: b.c/3.jpg"]
    assert [source[i].image for i in range(3)] == [b"one", b"two", b"three"]
    assert source.class_names == ("0", "3")
    assert list(source.labels) == [source[i].label for i in range(3)] == [1, 0, -1]
    assert [source[i].captions for i in range(3)] == [("the first",), (), ()]
    assert source.name == f"webdataset {tmp_path}/all"


def test_metadata_gives_class_and_captions_if_asked(tmp_path):
    write_tar(tmp_path / "0.tar", *SAMPLES)
    source = open_tars(tmp_path, columns=Columns(label="breed", caption="text"))
    assert source.class_names == ("pug",)
    assert [source[i].captions for i in range(2)] == [("x", "y"), ()]
    for kind in ("label", "caption"):
        with pytest.raises(UserError, match=rf"data\.{kind}_column='z': .*only 'breed', 'text'"):
            open_tars(tmp_path, columns=Columns(**{kind: "z"}))


def test_one_of_two_images_of_a_sample_is_chosen(tmp_path):
    write_tar(tmp_path / "0.tar", ("1.left.jpg", b"l"), ("1.right.jpg", b"r"), ("2.jpg", b"x"))
    with pytest.raises(UserError, match=r"'left\.jpg', 'right\.jpg'; .*image_column=left\.jpg"):
        open_tars(tmp_path)
    source = open_tars(tmp_path, columns=Columns("right.jpg"))
    assert [source[0].image, len(source)] == [b"r", 1]
    with pytest.raises(UserError, match=r"files ending in tif; found .*\.left\.jpg"):
        open_tars(tmp_path, columns=Columns("tif"))


def test_the_index_is_kept_and_counts_for_that_tar_alone(tmp_path, monkeypatch):
    tar = write_tar(tmp_path / "0.tar", *SAMPLES)
    first = open_tars(tmp_path)
    kept = tmp_path / ".0.tar.index.json.gz"
    _, index = gzip.decompress(kept.read_bytes()).splitlines()
    assert json.loads(index)["classes"] == {"a/1": "3", "a/2": "0"}

    with monkeypatch.context() as patch:
        patch.setattr(tar_index, "_walk", None)  # it is not walked through again
        again = open_tars(tmp_path)
    assert again.fingerprint == first.fingerprint
    assert [again[i] for i in range(2)] == [first[i] for i in range(2)]

    head, index = gzip.decompress(kept.read_bytes()).splitlines()
    for other in (
        b"{",
        b"[]",
        index[:-9],
        index.replace(b"[512,", b"[-51,"),
        b" " * 10**6 + index,
        b"[" * 10**5,
    ):
        assert other != index
        kept.write_bytes(gzip.compress(head + b"\n" + other))
        again = open_tars(tmp_path)
        assert [again[i] for i in range(2)] == [first[i] for i in range(2)]
    broken = gzip.compress(head + b"\n" + index)
    for other in (b"no gzip", broken[:-20], broken[:15] + b"\xff" * 20 + broken[35:]):
        kept.write_bytes(other)
        assert names(open_tars(tmp_path)) == names(first)
    write_tar(tar, *SAMPLES, ("z.jpg", b"new"))
    newer = open_tars(tmp_path)
    assert len(newer) == 3
    assert newer.fingerprint != first.fingerprint


def test_a_folder_that_cannot_be_written_to_is_read_all_the_same(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    write_tar(tmp_path / "0.tar", *SAMPLES)

    def refuse(path):
        raise tar_index.StorageError(f"Cannot write {path}")

    monkeypatch.setattr(tar_index, "atomic_write", refuse)
    assert len(open_tars(tmp_path)) == 2
    assert "index of a tar is not kept" in caplog.text


def test_odd_members_are_counted_and_never_read(tmp_path):
    write_tar(
        tmp_path / "0.tar",
        ("good.jpg", b"x"),
        link("evil.jpg", "/etc/passwd"),
        link("hard.jpg", "good.jpg", tarfile.LNKTYPE),
        link("null.jpg", "", tarfile.CHRTYPE),
        ("/etc/abs.jpg", b"x"),
        ("a/../../up.jpg", b"x"),
        ("._good.jpg", b"resource fork"),
        ("README", b"x"),
        ("movie.mp4", b"x"),
        link("folder.jpg", "", tarfile.DIRTYPE),
    )
    source = open_tars(tmp_path)
    assert names(source) == ["0.tar: good.jpg"]
    assert left_out(source) == {
        "links or devices": 3,
        "paths that lead out of the tar": 2,
        "hidden files": 1,
        "without extension": 1,
        ".mp4": 1,
    }


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_format_of_tar_is_read_in_place(tmp_path, format):
    name = "f" * 90 + ("" if format == tarfile.USTAR_FORMAT else "\u00e9" * 200)
    write_tar(tmp_path / "0.tar", (f"{name}.jpg", b"1" * 700), ("b.jpg", b"2"), format=format)
    source = open_tars(tmp_path)
    assert [source[i].image for i in range(2)] == [b"1" * 700, b"2"]


@pytest.mark.parametrize("cut", [100, 512 + 300, 1024, 3 * 512 + 1, 4 * 512])
def test_a_tar_that_is_cut_off_is_named(tmp_path, cut):
    tar = write_tar(tmp_path / "0.tar", ("a.jpg", b"1" * 700), ("b.jpg", b"2"))
    os.truncate(tar, cut)
    with pytest.raises(UserError, match=r"0\.tar is (cut off|no tar)"):
        open_tars(tmp_path)


def test_a_broken_header_is_named_and_a_compressed_tar_refused(tmp_path):
    tar = write_tar(tmp_path / "0.tar", ("a.jpg", b"1"), ("b.jpg", b"2"))
    data = bytearray(tar.read_bytes())
    data[1024:1100] = b"\xff" * 76  # the second header
    tar.write_bytes(data)
    with pytest.raises(UserError, match=r"0\.tar is cut off or damaged at byte 1,024"):
        open_tars(tmp_path)
    tar.write_bytes(gzip.compress(bytes(10_240)))
    with pytest.raises(UserError, match=r"no tar .* unpacked once, with gunzip"):
        open_tars(tmp_path)
    write_tar(tar, ("a.jpg", b"1"), ("a.jpg", b"2"))
    with pytest.raises(UserError, match=r"0\.tar holds 'a\.jpg' twice"):
        open_tars(tmp_path)


def test_a_tar_that_shrinks_under_a_run_is_no_storage_fault(tmp_path):
    tar = write_tar(tmp_path / "0.tar", ("a.jpg", b"1" * 2000))
    source = open_tars(tmp_path)
    os.truncate(tar, 600)
    with pytest.raises(UserError, match="has become shorter since it was indexed"):
        source[0]


def test_a_caption_that_is_no_text_is_named_where_captions_are_asked_for(tmp_path):
    write_tar(tmp_path / "0.tar", ("a.jpg", b"1"), ("a.txt", b"caf\xe9"))
    assert open_tars(tmp_path)[0].captions == ()
    with pytest.raises(
        UnreadableImageError, match=r"^0\.tar: a\.jpg: its caption is not UTF-8: byte 0xe9 at 4\."
    ):
        captions_of(open_tars(tmp_path), 0)


def test_splits_are_names_of_tars_or_of_their_folders(tmp_path):
    for name in ("train-000", "train-001", "test-000", "val/000"):
        write_tar(tmp_path / f"{name}.tar", (f"{name}.jpg", b"x"))
    count = lambda path, split: len(open_tars(path, split))
    assert [count(tmp_path, s) for s in ("all", "train", "test", "val")] == [4, 2, 1, 1]
    assert count(f"{tmp_path}/train-{{000..001}}.tar", "all") == 2
    assert count(f"{tmp_path}/{{train,test}}-000.tar", "test") == 1
    with pytest.raises(UserError, match=r"no split 'dev'.* Splits: '000', 'test', 'train'"):
        count(tmp_path, "dev")
    with pytest.raises(UserError, match=r"train-002\.tar does not exist"):
        count(f"{tmp_path}/train-{{000..002}}.tar", "all")
    data = Dataset("webdataset", 2, 8, "train", "test", str(tmp_path))
    train = data.open_train()
    test = data.open_test(train)
    assert test is not None
    assert len(test) == 1
    assert count_shared(train, open_tars(tmp_path)) == 2
    assert len(np.unique(open_tars(tmp_path).image_keys())) == 4
