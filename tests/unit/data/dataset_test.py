"""Training and test images of one data set: none in both, and labels that mean the same."""

import numpy as np
import pytest

from simclr_jax.core.errors import UserError
from simclr_jax.data.dataset import Dataset
from simclr_jax.data.folder import Folder
from simclr_jax.data.records import count_shared


def write(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def dataset(path=None, **settings):
    name = "digits" if path is None else "folder"
    defaults = {"batch_size": 2, "canvas": 28, "split": "train", "test_split": "test"}
    return Dataset(**(defaults | {"name": name, "path": path and str(path)} | settings))


def open_both(data):
    train = data.open_train()
    test = data.open_test(train)
    assert test is not None
    return train, test


def open_folder(path, **settings):
    source = dataset(path, **settings).open("all")
    assert isinstance(source, Folder)
    return source


def labels(source):
    return [source[i].label for i in range(len(source))]


def test_splits_that_share_nothing_are_opened():
    train, test = open_both(dataset())
    assert (len(train), len(test)) == (4000, 1000)
    assert dataset(test_split=None).open_test(train) is None


@pytest.mark.parametrize("settings", [{"split": "test"}, {"split": "test", "fraction": 0.1}])
def test_test_images_among_the_training_images_are_counted_and_refused(settings):
    data = dataset(**settings)
    shared = 1000 if "fraction" not in settings else 100
    with pytest.raises(UserError, match=rf"{shared} of the 1000 test images \(digits/test\) are"):
        open_both(data)


def test_a_folder_that_lies_in_the_training_folder_is_refused(tmp_path):
    write(tmp_path, "train/1.jpg", "test/2.jpg", "test/3.jpg")
    with pytest.raises(UserError, match=r"2 of the 2 test images .*config\.data\.split=train"):
        open_both(dataset(tmp_path, split="all"))
    open_both(dataset(tmp_path))


def test_links_to_training_images_are_training_images(tmp_path):
    write(tmp_path, "train/a/1.jpg", "train/a/2.jpg", "test/3.jpg", "pool/4.jpg")
    (tmp_path / "test/again.jpg").symlink_to(tmp_path / "train/a/2.jpg")
    with pytest.raises(UserError, match="1 of the 2 test images"):
        open_both(dataset(tmp_path))
    (tmp_path / "test/again.jpg").unlink()
    (tmp_path / "test/folder").symlink_to(tmp_path / "train/a")
    with pytest.raises(UserError, match="2 of the 3 test images"):
        open_both(dataset(tmp_path))


def test_the_same_file_has_one_key_from_any_root_and_another_file_another(tmp_path):
    write(tmp_path, "train/1.jpg", "test/1.jpg")
    whole = open_folder(tmp_path, split="all")
    below = open_folder(tmp_path / "train")
    assert count_shared(whole, below) == 1
    assert len(set(whole.image_keys().tolist())) == 2


def test_labels_of_a_test_split_are_those_of_the_training_split_by_name(tmp_path):
    write(tmp_path, *(f"train/{name}/1.jpg" for name in "abc"), "test/c/2.jpg", "test/a/3.jpg")
    train, test = open_both(dataset(tmp_path, labels_from_folders=True))
    assert labels(train) == [0, 1, 2]
    assert labels(test) == [0, 2]
    assert test.class_names == ("a", "b", "c")


def test_a_test_class_that_was_not_trained_on_is_refused(tmp_path):
    write(tmp_path, "train/a/1.jpg", "train/b/2.jpg", "test/a/3.jpg", "test/c/4.jpg")
    with pytest.raises(UserError, match=r"'c', that are none of the 2 expected ones, 'a', 'b'"):
        open_both(dataset(tmp_path, labels_from_folders=True))


def test_other_classes_than_those_asked_for_are_refused():
    names = tuple("abcdefghij")
    with pytest.raises(UserError, match=r"digits/train has the 10 classes '0'.* asked for, 'a'"):
        dataset(class_names=names).open("train")


def test_splits_are_not_taken_for_classes(tmp_path):
    write(tmp_path, "train/a/1.jpg", "Val/a/2.jpg")
    with pytest.raises(UserError, match=r"'Val', 'train' look like splits.*config\.data\.split="):
        dataset(tmp_path, split="all", labels_from_folders=True).open("all")
    assert dataset(tmp_path, labels_from_folders=None).open("all").class_names == ()


def test_classes_are_looked_for_only_if_every_image_is_in_one(tmp_path):
    write(tmp_path, "a/1.jpg", "b/2.jpg")
    find = lambda: open_folder(tmp_path, labels_from_folders=None)
    assert find().class_names == ("a", "b")
    write(tmp_path, "loose.jpg")
    assert find().class_names == ()
    np.testing.assert_array_equal(find().labels, [-1, -1, -1])


def test_the_name_of_a_folder_says_which_split(tmp_path):
    write(tmp_path, "train/1.jpg")
    assert dataset(tmp_path).open("train").name == f"folder {tmp_path}/train"
    assert dataset(tmp_path).open("all").name == f"folder {tmp_path}"
