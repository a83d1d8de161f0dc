"""Sources by name: the digits, what is listed from a folder, and errors that name the cure."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from simclr_jax.core.errors import UserError
from simclr_jax.data.files import source_name
from simclr_jax.data.records import name_of
from simclr_jax.data.sources import Record, open_source, suggest_sizes


def png(width: int = 2, height: int = 2) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "PNG")
    return file.getvalue()


def write(root, *names: str, data: bytes = b"x") -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def names(source) -> list[str]:
    return [source[i].name for i in range(len(source))]


def test_digits_are_split_once_and_for_all():
    train, test = (open_source("digits", split=split) for split in ("train", "test"))
    for source, num in ((train, 400), (test, 100)):
        labels = [source[i].label for i in range(len(source))]
        assert np.bincount(labels).tolist() == [num] * 10
    assert not set(names(train)) & set(names(test))
    assert names(test)[:3] == ["digits/4", "digits/9", "digits/14"]
    image = test[0].image
    assert isinstance(image, np.ndarray)
    assert (image.dtype, image.shape, test[0].label) == (np.uint8, (28, 28), 0)
    # Sums of all pixels: they change if the package's file, or the split, ever does.
    sums = [sum(int(np.asarray(s[i].image).sum()) for i in range(len(s))) for s in (train, test)]
    assert sums == [104848804, 26418298]
    assert train.class_names == tuple("0123456789")
    assert train.fingerprint != test.fingerprint


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("digits", None, "test"), "digits/test"),
        (("tfds/cifar10", "/tfds", "test[:9]"), "tfds/cifar10/test[:9]"),
        (("array_record", "/shards", "all"), "array_record /shards/all"),
        (("folder", "/photos/", "all"), "folder /photos"),
        (("folder", ["/a", "/b"], "test/"), "folder /a,/b/test"),
        (("csv", ("/a", "/b"), "all"), "csv /a,/b/all"),
    ],
)
def test_a_source_has_its_name_before_it_is_opened(arguments, name):
    assert source_name(*arguments) == name


def test_the_name_is_that_of_the_opened_source(tmp_path):
    (tmp_path / "test").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "test/a.png")
    opened = open_source("folder", path=str(tmp_path), split="test")
    assert opened.name == source_name("folder", str(tmp_path), "test") == f"folder {tmp_path}/test"
    assert open_source("digits", split="test").name == source_name("digits", None, "test")


def test_folder_lists_images_of_every_depth_sorted(tmp_path):
    wanted = ["B.JPG", "a/b/c/deep.webp", "a/x y.png", "z <script>\u00fc.tiff"]
    write(tmp_path, *reversed(wanted))
    write(tmp_path, ".hidden.jpg", ".git/x.jpg", "a/._x.jpg", "notes.txt", "a/movie.mp4", "jpg")
    source = open_source("folder", split="all", path=tmp_path)
    assert names(source) == wanted
    assert [source[i].label for i in range(4)] == [-1] * 4
    assert source.class_names == ()
    assert source[0].image == b"x"


def test_folder_is_read_lazily(tmp_path):
    write(tmp_path, "a.jpg", "b.jpg")
    source = open_source("folder", split="all", path=tmp_path)
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(FileNotFoundError):  # a fault of storage, not of the image
        source[0]
    assert name_of(source, 0) == "a.jpg"
    assert source[1].image == b"x"


def test_folder_follows_links_but_not_in_circles(tmp_path):
    write(tmp_path, "root/a/1.jpg", "elsewhere/2.jpg")
    root = tmp_path / "root"
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "self").symlink_to(root / "a" / "self")
    (root / "dangling.jpg").symlink_to(root / "nothing")
    os.mkfifo(root / "pipe.jpg")  # reading it would wait for ever
    source = open_source("folder", split="all", path=str(root))
    assert names(source) == ["a/1.jpg", "linked/2.jpg"]


def test_folders_become_labels_only_if_asked(tmp_path):
    write(tmp_path, "dog/1.jpg", "cat/deep/2.jpg", "cat/3.jpg", "empty/readme.txt")
    source = open_source("folder", split="all", path=tmp_path, labels_from_folders=True)
    assert source.class_names == ("cat", "dog")
    assert [source[i].label for i in range(3)] == [0, 0, 1]
    plain = open_source("folder", split="all", path=tmp_path)
    assert {plain[i].label for i in range(3)} == {-1}
    write(tmp_path, "loose.jpg")
    with pytest.raises(UserError, match=r"'loose\.jpg' lies directly in"):
        open_source("folder", split="all", path=tmp_path, labels_from_folders=True)


def test_split_of_a_folder_is_a_folder_in_it(tmp_path):
    write(tmp_path, "train/cat/1.jpg", "val/cat/2.jpg", "val/dog/3.jpg")
    val = open_source("folder", split="val", path=tmp_path, labels_from_folders=True)
    assert names(val) == ["val/cat/2.jpg", "val/dog/3.jpg"]
    assert val.class_names == ("cat", "dog")
    with pytest.raises(
        UserError, match=r"split='all' takes every .*train, val\. Did you mean 'tra"
    ):
        open_source("folder", split="trian", path=tmp_path)
    for split in ("", "/"):
        with pytest.raises(UserError, match="no folder for split"):
            open_source("folder", split=split, path=tmp_path)


def test_fingerprint_follows_the_list_of_files(tmp_path):
    write(tmp_path, "cat/a.jpg", "dog/b.jpg")
    find = lambda **options: (
        open_source("folder", split="all", path=tmp_path, **options).fingerprint
    )
    first = find()
    assert find() == first
    assert find(labels_from_folders=True) != first
    write(tmp_path, "cat/c.jpg")
    assert find() != first


def test_undecodable_file_names_are_listed(tmp_path):
    with open(os.fsencode(tmp_path) + b"/caf\xe9.jpg", "wb"):
        pass
    source = open_source("folder", split="all", path=tmp_path)
    assert source[0] == Record(b"", -1, "caf\udce9.jpg")
    assert len(source.fingerprint) == 64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "folder"}, "needs a path"),
        ({"name": "folder", "path": "{tmp}/none"}, "none does not exist"),
        ({"name": "folder", "path": "{tmp}/file.txt"}, r"file\.txt is a file"),
        ({"name": "folder", "path": "{tmp}/empty"}, r"looked in all .*\.jpeg.*found no files"),
        ({"name": "folder", "path": "{tmp}"}, r"found 2 \.heic, 1 \.txt\."),
        ({"name": "digits", "path": "/x"}, "leave out path='/x'"),
        ({"name": "digits"}, r"'train' \(4,000\) and 'test' \(1,000\), not 'all'"),
        ({"name": "digits", "labels_from_folders": True}, "labels_from_folders is for"),
        ({"name": "digit"}, r"one of digits, openmoji, .*, tfds/NAME\. Did you mean 'digits'"),
        ({"name": "cifar10"}, "Unknown data set 'cifar10'"),
        ({"name": "tfds/"}, "Unknown data set 'tfds/'"),
    ],
)
def test_names_the_mistake(tmp_path, arguments, message):
    write(tmp_path, "file.txt", "a/1.heic", "a/2.HEIC")
    (tmp_path / "empty").mkdir()
    if "path" in arguments:
        arguments = arguments | {"path": arguments["path"].replace("{tmp}", str(tmp_path))}
    with pytest.raises(UserError, match=message):
        open_source(split="all", **arguments)


@pytest.mark.parametrize(
    ("width", "height", "want"),
    [
        (500, 375, (500, 224)),
        (4000, 3000, (896, 224)),
        (240, 240, (240, 224)),
        (200, 180, (200, 160)),
        (96, 96, (96, 96)),
        (640, 100, (384, 96)),
        (32, 32, (32, 32)),
        (10, 20, (20, 32)),
    ],
)
def test_suggests_sizes_from_headers(tmp_path, width, height, want):
    write(tmp_path, "1.png", "2.png", "3.png", data=png(width, height))
    write(tmp_path, "0.png", data=b"broken")
    assert suggest_sizes(open_source("folder", split="all", path=tmp_path)) == want


def test_suggests_sizes_for_the_digits():
    assert suggest_sizes(open_source("digits", split="train")) == (28, 32)


def test_suggests_nothing_where_nothing_can_be_read(tmp_path):
    write(tmp_path, "1.png", "2.png")
    with pytest.raises(UserError, match=r"None of 2 images .*\.png|None of 2 images looked at"):
        suggest_sizes(open_source("folder", split="all", path=tmp_path))
