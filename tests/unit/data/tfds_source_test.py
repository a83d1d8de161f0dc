"""Prepared TFDS directories: written here by hand, read back without TensorFlow or network."""

import io
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from simclr_jax.core.errors import UserError
from simclr_jax.data.decode import UnreadableImageError, decode
from simclr_jax.data.records import count_shared, image_keys, read_records
from simclr_jax.data.sources import open_source
from tests.tfds_directory import write_tfds

FEATURES = {
    "image": tfds.features.Image(shape=(4, 6, 3), encoding_format="png"),
    "label": tfds.features.ClassLabel(names=["cat", "dog"]),
    "thumbnail": tfds.features.Image(shape=(1, 1, 3), encoding_format="png"),
}


def pixels(i: int) -> np.ndarray:
    return np.random.default_rng(i).integers(0, 256, (4, 6, 3), np.uint8)


def example(i: int) -> dict:
    file = io.BytesIO()
    Image.fromarray(pixels(i)).save(file, "PNG")
    return {"image": file.getvalue(), "label": i % 2, "thumbnail": b"never decoded"}


def prepare(data_dir, *, version="1.0.0", features=FEATURES, file_format="array_record", count=10):
    """Writes data_dir/pets/VERSION with a train and a test split."""
    readable = all(FEATURES.get(key) is feature for key, feature in features.items())

    def kept(i):
        return {key: value for key, value in example(i).items() if key in features}

    splits = {
        split: [kept(i) if readable else b"" for i in numbers]
        for split, numbers in {"train": range(count), "test": range(count, count + 2)}.items()
    }
    write_tfds(data_dir, "pets", features, splits, version=version, file_format=file_format)
    return data_dir


def test_reads_encoded_images_and_labels_lazily(tmp_path):
    source = open_source("tfds/pets", split="train", path=prepare(tmp_path))
    assert len(source) == 10
    assert source.class_names == ("cat", "dog")
    assert isinstance(source[3].image, bytes)
    np.testing.assert_array_equal(decode(source[3].image, canvas=6).pixels, pixels(3))
    assert (source[3].label, source[3].name) == (1, "tfds/pets/train/3")
    assert read_records(source, np.array([3, 0])) == [source[3], source[0]]
    assert "tensorflow" not in sys.modules


def test_understands_parts_and_sums_of_splits(tmp_path):
    prepare(tmp_path)
    half = open_source("tfds/pets", split="train[50%:]+test", path=str(tmp_path))
    got = [decode(half[i].image, canvas=6).pixels for i in range(len(half))]
    np.testing.assert_array_equal(got, [pixels(i) for i in range(5, 12)])
    whole = open_source("tfds/pets", split="train", path=tmp_path)
    assert half.fingerprint != whole.fingerprint


def test_takes_the_newest_version_or_the_one_asked_for(tmp_path):
    for version, count in (("1.9.0", 9), ("1.10.0", 10)):
        prepare(tmp_path, version=version, count=count)
    sizes = [
        len(open_source(name, split="train", path=tmp_path))
        for name in ("tfds/pets", "tfds/pets:1.9.0")
    ]
    assert sizes == [10, 9]


def test_images_without_labels_are_unlabelled(tmp_path):
    features = {"image": FEATURES["image"]}
    source = open_source("tfds/pets", split="train", path=prepare(tmp_path, features=features))
    assert source[0].label == -1
    assert source.class_names == ()


def test_names_the_splits(tmp_path):
    prepare(tmp_path)
    for split in ("trian", "train[:0]", "train[:"):
        with pytest.raises(UserError, match=r"'train' \(10\), 'test' \(2\), and parts"):
            open_source("tfds/pets", split=split, path=tmp_path)
    with pytest.raises(UserError, match="Did you mean 'train'"):
        open_source("tfds/pets", split="trian", path=tmp_path)


@pytest.mark.parametrize("name", ["pets", "pets:2.0.0", "pets/small"])
def test_missing_data_set_gives_the_command_that_prepares_it(tmp_path, name):
    command = f"tfds build {name} --data_dir={tmp_path} --file_format=array_record"
    with pytest.raises(UserError, match=command):
        open_source(f"tfds/{name}", split="train", path=tmp_path)
    prepare(tmp_path)
    if name != "pets":
        with pytest.raises(UserError, match=command):
            open_source(f"tfds/{name}", split="train", path=tmp_path)


def test_missing_directory_is_not_made(tmp_path):
    with pytest.raises(UserError, match="Nothing is downloaded unasked"):
        open_source("tfds/mnist", split="train", path=tmp_path / "none")
    assert not list(tmp_path.iterdir())


def test_another_format_gives_the_command_that_converts_it(tmp_path):
    prepare(tmp_path, file_format="riegeli")
    directory = tmp_path / "pets" / "1.0.0"
    command = f"convert_format --dataset_version_dir={directory} --out_file_format=array_record"
    with pytest.raises(UserError, match=f"as riegeli, (.|\n)*{command}"):
        open_source("tfds/pets", split="train", path=tmp_path)


def crc32c(data):
    """CRC-32C bit by bit (RFC 3720, appendix B.4), masked as TFRecord does it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF).to_bytes(4, "little")


def prepare_tfrecord(data_dir):
    """Writes data_dir/pets as TFRecord; returns the file of its training split."""
    prepare(data_dir, file_format="tfrecord")
    serialize = tfds.features.FeaturesDict(FEATURES).serialize_example
    for split, numbers in {"train": range(10), "test": range(10, 12)}.items():
        data = b""
        for record in map(serialize, map(example, numbers)):
            length = len(record).to_bytes(8, "little")
            data += length + crc32c(length) + record + crc32c(record)
        (data_dir / f"pets/1.0.0/pets-{split}.tfrecord-00000-of-00001").write_bytes(data)
    return data_dir / "pets/1.0.0/pets-train.tfrecord-00000-of-00001"


def test_tfrecord_is_read_at_random(tmp_path):
    prepare_tfrecord(tmp_path)
    source = open_source("tfds/pets", split="train[3:]+test", path=tmp_path)
    assert len(source) == 9
    got = [decode(source[i].image, canvas=6).pixels for i in range(9)]
    np.testing.assert_array_equal(got, [pixels(i) for i in range(3, 12)])
    assert (source[1].label, source[1].name) == (0, "tfds/pets/train[3:]+test/1")
    assert read_records(source, np.array([8, 0])) == [source[8], source[0]]
    with pytest.raises(UserError, match="Did you mean 'train'"):
        open_source("tfds/pets", split="trian", path=tmp_path)
    assert "tensorflow" not in sys.modules


def test_damage_to_tfrecord_is_told(tmp_path):
    file = prepare_tfrecord(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[:40] + bytes([whole[40] ^ 1]) + whole[41:])
    source = open_source("tfds/pets", split="train", path=tmp_path)
    assert source[1].label == 1
    with pytest.raises(UnreadableImageError, match=r"checksum in .* is wrong, at byte 0"):
        source[0]
    for data, message in (
        (whole[:-1], "ends within a record"),
        (whole[:5], "ends within a record"),
        (b"\x1f\x8b" + whole, "is no TFRecord file from byte 0 on, or is compressed"),
    ):
        file.write_bytes(data)
        with pytest.raises(UserError, match=message):
            open_source("tfds/pets", split="train", path=tmp_path)
    file.unlink()
    with pytest.raises(UserError, match="cannot be read: No such file"):
        open_source("tfds/pets", split="train", path=tmp_path)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"label": FEATURES["label"]}, "no single image feature"),
        ({"a": FEATURES["image"], "b": FEATURES["image"]}, "its features: a, b"),
        ({"image": tfds.features.Image(shape=(4, 6, 1), dtype=np.float32)}, "are float32"),
    ],
)
def test_refuses_features_that_it_would_misread(tmp_path, features, message):
    with pytest.raises(UserError, match=message):
        open_source("tfds/pets", split="train", path=prepare(tmp_path, features=features))


@pytest.mark.parametrize(
    ("split", "other", "shared"),
    [
        ("train", "test", 0),
        ("train[:6]", "train[4:]", 2),
        ("train[:50%]", "train[50%:]", 0),
        ("all", "test", 2),
        ("train[2:5]+test", "all", 5),
    ],
)
def test_splits_know_how_many_images_they_share(tmp_path, split, other, shared):
    prepare(tmp_path)
    here, there = (open_source("tfds/pets", split=s, path=tmp_path) for s in (split, other))
    assert count_shared(here, there) == shared
    keys = image_keys(here)
    assert keys is not None
    assert len(set(keys.tolist())) == len(here)
