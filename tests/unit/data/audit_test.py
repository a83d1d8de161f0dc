"""The audit of a data set: what is counted, what is found twice, and what storage refuses."""

import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from simclr_jax.data.audit import audit, facts, splits_of
from simclr_jax.data.dataset import Dataset
from simclr_jax.data.reading import OutageError
from simclr_jax.data.records import Record
from simclr_jax.data.survey import survey


def picture(seed, height=80, width=120):
    """Coloured tiles of several sizes, as a photograph has details of all sizes."""
    rng = np.random.default_rng(seed)
    out = np.zeros((height, width, 3))
    for power in range(2, 5):
        tiles = Image.fromarray(rng.integers(0, 256, (2**power, 2**power, 3), np.uint8))
        scaled = tiles.resize((width, height), Image.Resampling.BICUBIC)
        out += np.asarray(scaled, float) / 3
    return Image.fromarray(out.astype(np.uint8))


@pytest.fixture
def folder(tmp_path):
    """Two splits of two classes, with a fault of every kind."""
    for split, numbers in (("train", range(8)), ("test", range(20, 24))):
        for i in numbers:
            place = tmp_path / split / ("cat" if i % 2 else "dog")
            place.mkdir(parents=True, exist_ok=True)
            picture(i).save(place / f"{i}.png")
    train, test = tmp_path / "train", tmp_path / "test"
    picture(7).convert("L").save(train / "dog/grey.png")
    Image.fromarray(np.full((40, 30), 9, np.uint16)).save(train / "dog/deep.png")
    (train / "dog/cut.png").write_bytes((train / "dog/2.png").read_bytes()[:500])
    (train / "dog/note.txt").write_text("x")
    shutil.copy(train / "dog/0.png", train / "cat/copy.png")
    shutil.copy(train / "dog/4.png", test / "dog/leak.png")
    picture(5).resize((60, 40)).save(test / "cat/small.jpg", quality=80)
    return tmp_path


def dataset_of(path, split, **settings):
    return Dataset("folder", 1, 64, split, path=str(path), labels_from_folders=None, **settings)


@pytest.fixture
def found(folder):
    datasets = [dataset_of(folder, split) for split in splits_of(str(folder))]
    return audit(datasets, [dataset.open(dataset.split) for dataset in datasets])


def test_counts_formats_sides_classes_and_what_is_left_out(found):
    test, train = facts(found)["parts"]
    assert test["name"].endswith("/test"), "in the order of their names"
    assert (test["images"], train["images"]) == (6, 12)
    assert train["formats"] == {
        "PNG, 3 channels, 8 bits": 9,
        "PNG, 1 channel, 8 bits": 1,
        "PNG, 1 channel, 16 bits": 1,
    }
    assert {k: n for k, n in train["sides"]["shorter"].items() if n} == {
        "0 to 31": 1,
        "64 to 95": 10,
    }
    assert train["classes"] == {"cat": 5, "dog": 6}
    assert train["left_out"] == {".txt": 1}
    (bad,) = train["unreadable"]
    assert bad["name"] == "train/dog/cut.png"
    assert "broken PNG data" in bad["reason"]
    assert json.loads(json.dumps(facts(found))) == facts(found)


def test_copies_similar_images_and_leaks_are_named(found):
    said = facts(found)
    names = lambda groups: [{one["name"] for one in group} for group in groups]
    leak = {"train/dog/4.png", "test/dog/leak.png"}
    assert sorted(names(said["copies"]), key=sorted) == [
        leak,
        {"train/cat/copy.png", "train/dog/0.png"},
    ]
    small = {"train/cat/5.png", "test/cat/small.jpg"}
    assert sorted(names(said["similar"]), key=sorted) == [
        small,
        {"train/cat/7.png", "train/dog/grey.png"},
    ]
    assert names(said["leaks"]) == [leak, small]
    (note,) = [note for note in said["notes"] if "another part" in note]
    assert note.startswith("2 of the 12 images of")


def test_sizes_are_those_that_a_recipe_would_choose(found):
    assert facts(found)["suggested"] == {"canvas": 120, "size": 64}


def test_settings_are_advised_for_each_part(tmp_path):
    values = np.random.default_rng(0).integers(0, 4096, (4, 40, 40)).astype(np.uint16)
    for i, pixels in enumerate(values):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    dataset = dataset_of(tmp_path, "all")
    notes = audit([dataset], [dataset.open("all")]).notes
    assert any("--config.data.value_range=0:4095" in note for note in notes)


def test_digits_are_audited_as_arrays():
    datasets = [Dataset("digits", 1, 28, split) for split in ("train", "test")]
    sources = [dataset.open(dataset.split) for dataset in datasets]
    said = facts(audit(datasets, sources))
    assert [part["formats"] for part in said["parts"]] == [
        {"array, 1 channel, 8 bits": count} for count in (4000, 1000)
    ]
    assert said["parts"][1]["classes"] == {str(digit): 100 for digit in range(10)}
    assert said["copies"] == []
    alike = [one for group in said["similar"] for one in group]
    assert len(alike) <= 10, "only some digits 1 are as alike as two files of one picture"


def test_a_folder_is_split_only_if_all_its_folders_are_splits(folder):
    assert splits_of(str(folder)) == ["test", "train"]
    (folder / "more").mkdir()
    assert splits_of(str(folder)) == ["all"]
    assert splits_of(str(folder / "nowhere")) == ["all"]


class Refusing:
    """A source of which storage refuses some."""

    name, class_names, fingerprint = "refusing", (), "x"

    def __init__(self, refused):
        self.refused = refused

    def __len__(self):
        return 20

    def __getitem__(self, index):
        if index in self.refused:
            raise PermissionError(13, "Permission denied")
        file = io.BytesIO()
        picture(index).save(file, "PNG")
        return Record(file.getvalue(), -1, str(index))


def test_a_file_that_storage_refuses_is_unreadable_and_many_are_an_outage():
    dataset = Dataset("digits", 1, 64, "train", outage_seconds=0.0)
    seen = survey(dataset, Refusing({3, 12}), np.arange(20), max_outages=2)
    assert seen.rows["id"].tolist() == [i for i in range(20) if i not in (3, 12)]
    assert [(bad.id, bad.reason) for bad in seen.unreadable] == [
        (i, "storage refuses it: Permission denied") for i in (3, 12)
    ]
    with pytest.raises(OutageError, match="Permission denied"):
        survey(dataset, Refusing({3, 12, 13}), np.arange(20), max_outages=2)
