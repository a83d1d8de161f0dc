"""Which images --data, --path and splits mean."""

import pytest

from simclr_jax.core.errors import UserError
from simclr_jax.data.dataset import Dataset
from simclr_jax.trained.images import choose_images

TFDS = Dataset("tfds/a", 16, 32, "train[:50%]", "validation", "/tfds", class_names=("x", "y"))
FOLDER = Dataset("folder", 16, 32, "train", "test", "/photos", class_names=("x", "y"))
NOTHING = dict.fromkeys(("data", "path", "split", "test_split"))


def choose(own, *needed, **given):
    return choose_images(own, **(NOTHING | given), needed=needed)


def where(dataset):
    return dataset.name, dataset.path, dataset.split, dataset.test_split, dataset.class_names


@pytest.mark.parametrize("own", [TFDS, FOLDER])
def test_without_flags_they_are_those_of_the_run(own):
    assert choose(own, "split", "test_split") == own


def test_a_split_alone_is_one_of_the_same_images():
    chosen = choose(FOLDER, "split", "test_split", test_split="new")
    assert where(chosen) == ("folder", "/photos", "train", "new", ("x", "y"))


@pytest.mark.parametrize("given", [{"path": "/disk"}, {"path": "/disk", "data": "tfds/a"}])
def test_the_runs_data_set_may_lie_elsewhere(given):
    chosen = choose(TFDS, "split", "test_split", **given)
    assert where(chosen) == ("tfds/a", "/disk", "train[:50%]", "validation", ("x", "y"))


@pytest.mark.parametrize("given", [{"path": "/b"}, {"path": "/b", "data": "folder"}])
def test_another_folder_inherits_neither_splits_nor_classes(given):
    assert where(choose(FOLDER, **given)) == ("folder", "/b", "all", None, None)
    with pytest.raises(
        UserError, match=r"/b is another .*: give --split=train and --test_split=test"
    ):
        choose(FOLDER, "split", "test_split", **given)
    chosen = choose(FOLDER, "split", "test_split", split="s", test_split="t", **given)
    assert where(chosen) == ("folder", "/b", "s", "t", None)


def test_another_data_set_inherits_nothing(tmp_path):
    with pytest.raises(UserError, match=r"tfds/b is another data set.*give --split=train, or"):
        choose(TFDS, "split", "test_split", data="tfds/b", test_split="test")
    chosen = choose(TFDS, "test_split", data="tfds/b", test_split="test")
    assert where(chosen) == ("tfds/b", None, "test", "test", None)


def test_a_relative_path_is_one_from_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = Dataset("folder", 16, 32, "train", path=str(tmp_path / "photos"))
    assert choose(own, "split", path="photos") == own


def test_images_are_read_as_asked_their_own_as_others():
    reading = {"outage_seconds": 3, "image_column": "photo"}
    for given in ({}, {"data": "csv", "path": "/t.csv"}):
        chosen = choose(FOLDER, reading=reading, **given)
        assert (chosen.outage_seconds, chosen.image_column) == (3.0, "photo")
    assert choose(FOLDER, reading={}) == FOLDER
    with pytest.raises(UserError, match=r"config\.data\.outage_seconds=-1"):
        choose(FOLDER, reading={"outage_seconds": -1.0})
