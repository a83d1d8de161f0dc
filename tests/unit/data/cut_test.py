"""Cuts of an image: the pixels themselves up to the size of a view, a resize in float64 above."""

import numpy as np
import pytest

from simclr_jax.data.cut import cut

PIXELS = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)


def keys_cubic(image: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Cubic convolution along an axis, output pixel by output pixel, in float64."""
    image = np.moveaxis(image.astype(np.float64), axis, 0)
    out = []
    for i in range(length):
        center = (i + 0.5) * len(image) / length - 0.5
        first = int(np.floor(center)) - 1
        total, weights = 0.0, 0.0
        for j in range(max(first, 0), min(first + 4, len(image))):
            t = abs(center - j)
            near, far = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
            weight = near if t <= 1 else far
            total, weights = total + weight * image[j], weights + weight
        out.append(total / weights)
    return np.moveaxis(np.array(out), 0, axis)


@pytest.mark.parametrize("box", [(0, 0, 32, 32), (38, 58, 32, 32), (5, 6, 1, 1), (9, 0, 20, 31)])
def test_a_box_up_to_the_size_of_a_view_gives_its_own_pixels(box):
    y, x, h, w = box
    np.testing.assert_array_equal(cut(PIXELS, np.array(box), 32), PIXELS[y : y + h, x : x + w])


@pytest.mark.parametrize(
    "box", [(0, 0, 70, 90), (3, 5, 61, 33), (3, 5, 33, 61), (20, 1, 50, 20), (60, 7, 9, 80)]
)
def test_a_longer_axis_is_resized_to_the_view_without_antialiasing(box):
    y, x, h, w = box
    want = PIXELS[y : y + h, x : x + w]
    for axis, length in enumerate((h, w)):
        want = keys_cubic(want, min(length, 32), axis)
    got = cut(PIXELS, np.array(box), 32)
    assert got.dtype == np.uint8
    np.testing.assert_allclose(got, want.clip(0, 255), atol=0.501)
    assert want.min() < 0  # noise overshoots, so clipping was seen
    assert want.max() > 255


def test_a_grey_image_stays_grey_to_the_last_bit():
    grey = np.full((500, 300, 3), 77, np.uint8)
    assert (cut(grey, np.array([0, 0, 500, 300]), 64) == 77).all()
