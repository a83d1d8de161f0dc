"""The photographs that exports are compared on, and the measure."""

import numpy as np
import pytest

from simclr_jax.interop.parity import difference, photographs


def test_photographs_are_eight_different_real_images():
    images = photographs(24)
    assert images.shape == (8, 24, 24, 3)
    assert images.dtype == np.float32
    assert 0 <= images.min() < 0.1 < 0.9 < images.max() <= 1
    rows = images.reshape(8, -1)
    apart = np.abs(rows[:, None] - rows[None]).mean(axis=-1)
    assert (apart + np.eye(8) > 0.05).all(), "two crops show nearly the same"
    neighbours = np.abs(np.diff(images, axis=1)).mean()
    assert neighbours < apart[apart > 0].mean() / 2, "photographs are smooth, noise is not"


def test_photographs_are_the_same_every_time():
    np.testing.assert_array_equal(photographs(8), photographs(8))


def test_difference_is_that_of_the_worst_feature():
    want = np.array([[1.0, -4.0], [0.0, 2.0]], np.float32)
    got = want + np.array([[0.0, 0.5], [-0.25, 0.0]], np.float32)
    assert difference(got, want, "sounds") == (0.5, 0.125)


def test_a_difference_of_nan_is_not_small():
    want = np.ones((2, 3), np.float32)
    assert not difference(want * np.nan, want, "sounds").relative <= 1e9


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_an_encoder_that_puts_out_nothing_cannot_be_compared(value):
    features = np.full((8, 3), value, np.float32)
    with pytest.raises(ValueError, match=rf"on 8 sounds is {value}: there is nothing"):
        difference(features, features, "sounds")
