"""Crop boxes against samples of TensorFlow's, resizing against the official code."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from simclr_jax.augment import crop, geometry

SHAPES = [(32, 32), (224, 224), (200, 300), (375, 500)]
NUM_DRAWS = 20_000
# Two-sample Kolmogorov-Smirnov distance that 20,000 draws of ours and 10,000 of the
# reference's exceed once in 1,000 if they come from one distribution.
KS_BOUND = 1.95 * np.sqrt(1 / 20_000 + 1 / 10_000)

resize = jax.jit(geometry.resize, static_argnames="shape")


@functools.cache
def boxes(height: int, width: int, num: int = NUM_DRAWS, **settings) -> np.ndarray:
    bits = np.random.Philox(key=height)
    drawn = crop.random_crop_boxes(bits, (height, width), num, **settings)
    assert drawn.dtype == np.int32
    return drawn.T.astype(np.int64)


def statistics(box: np.ndarray, height: int, width: int) -> dict[str, np.ndarray]:
    y, x, h, w = box
    tall, wide = h < height, w < width  # the others can only start at zero
    return {
        "area": h * w,
        "height": h,
        "width": w,
        "aspect": w / h,
        "y": y,
        "x": x,
        "relative y": y[tall] / (height - h[tall]),
        "relative x": x[wide] / (width - w[wide]),
    }


def distances(ours: np.ndarray, theirs: np.ndarray, shape: tuple[int, int]) -> dict[str, float]:
    one, other = statistics(ours, *shape), statistics(theirs, *shape)
    compared: dict[str, Any] = {name: stats.ks_2samp(one[name], other[name]) for name in one}
    return {name: result.statistic for name, result in compared.items()}


@pytest.mark.parametrize("shape", SHAPES)
def test_crops_are_distributed_as_the_reference_samples(crop_samples, shape):
    found = distances(boxes(*shape), crop_samples["{}x{}".format(*shape)], shape)
    assert max(found.values()) < KS_BOUND, found


def torchvision_boxes(
    height: int, width: int, *, log_aspect: bool = True, areas: tuple[float, float] = (0.08, 1)
) -> np.ndarray:
    """10,000 draws of torchvision's RandomResizedCrop.get_params, draw by draw."""
    rng, drawn = np.random.default_rng(0), []
    low, high = 3 / 4, 4 / 3
    for _ in range(10_000):
        for _ in range(10):
            area = height * width * rng.uniform(*areas)
            aspect = rng.uniform(low, high)
            if log_aspect:
                aspect = math.exp(rng.uniform(math.log(low), math.log(high)))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                y, x = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
                break
        else:  # the central crop
            w, h = width, height
            if width / height < low:
                h = round(w / low)
            elif width / height > high:
                w = round(h * high)
            y, x = (height - h) // 2, (width - w) // 2
        drawn.append((y, x, h, w))
    return np.array(drawn).T


@pytest.mark.parametrize("shape", [*SHAPES, (20, 60)])  # the last one fits in few draws
@pytest.mark.parametrize("areas", [(0.08, 1.0), (0.05, 0.14)])
def test_area_crops_are_distributed_as_torchvision_samples(shape, areas):
    ours = boxes(*shape, sampler="area", min_area=areas[0], max_area=areas[1])
    found = distances(ours, torchvision_boxes(*shape, areas=areas), shape)
    assert max(found.values()) < KS_BOUND, found


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("log_aspect", [True, False])
def test_the_bound_would_catch_the_sampler_of_torchvision(crop_samples, shape, log_aspect):
    theirs = crop_samples["{}x{}".format(*shape)]
    found = distances(torchvision_boxes(*shape, log_aspect=log_aspect), theirs, shape)
    assert found["area"] > 3 * KS_BOUND
    assert found["height"] > 3 * KS_BOUND


@pytest.mark.parametrize("shape", SHAPES)
def test_crops_obey_the_limits_of_the_reference(shape):
    height, width = shape
    y, x, h, w = boxes(*shape)
    assert (h * w / (height * width)).min() >= 0.1
    assert (h * w / (height * width)).min() < 0.11
    assert min(y.min(), x.min()) == 0
    assert h.max() <= height
    assert w.max() <= width
    # The offset's bound is exclusive: only a crop of full height reaches the last row.
    assert (y + h)[h < height].max() == height - 1
    assert (x + w)[w < width].max() == width - 1


def test_crops_are_no_smaller_than_the_area_asked_for():
    _, _, h, w = boxes(40, 48, min_area=0.5)
    assert 0.5 <= (h * w).min() / (40 * 48) < 0.52


def test_crops_are_no_larger_than_the_area_asked_for():
    _, _, h, w = boxes(40, 48, min_area=0.2, max_area=0.3)
    assert 0.2 <= (h * w).min() / (40 * 48) < 0.22
    assert 0.28 < (h * w).max() / (40 * 48) <= 0.3


@pytest.mark.parametrize("shape", [(1, 1), (10, 200), (200, 10)])
def test_an_image_that_no_allowed_crop_fits_is_taken_whole(shape):
    drawn = boxes(*shape, num=20)  # of 100 attempts each
    np.testing.assert_array_equal(np.unique(drawn, axis=1).T, [[0, 0, *shape]])


@pytest.mark.parametrize(
    ("shape", "box"),
    [((1, 1), (0, 0, 1, 1)), ((10, 200), (0, 93, 10, 13)), ((200, 10), (93, 0, 13, 10))],
)
def test_an_image_that_no_area_crop_fits_is_cut_in_its_centre(shape, box):
    np.testing.assert_array_equal(np.unique(boxes(*shape, sampler="area"), axis=1).T, [box])


@pytest.mark.parametrize("name", ["smooth", "noise"])
@pytest.mark.parametrize("shape", [(24, 20), (64, 64)])
def test_resize_matches_the_official_code(golden, check, name, shape):
    image = jnp.asarray(golden[f"{name}/uint8"])
    got = resize(image, jnp.array(image.shape[:2]), shape=shape)
    check(got, "{}/bicubic_{}x{}".format(name, *shape), 1e-3)


@pytest.mark.parametrize("name", ["smooth", "noise"])
@pytest.mark.parametrize("size", [24, 64])
def test_center_crop_matches_the_official_code(golden, check, name, size):
    image = golden[f"{name}/uint8"]
    y, x, h, w = crop.center_crop_box(image.shape[:2])
    got = resize(jnp.asarray(image[y : y + h, x : x + w]), jnp.array([h, w]), shape=(size, size))
    check(jnp.clip(got, 0, 1), f"{name}/eval_{size}", 1e-3)


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((500, 375), (86, 24, 328, 328)),  # 0.875 * 375 = 328.125
        ((33, 40), (2, 6, 29, 29)),  # 28.875; margins 4 and 11
        ((36, 60), (2, 14, 32, 32)),  # 31.5 goes to the even 32
        ((44, 44), (3, 3, 38, 38)),  # 38.5 goes to the even 38
        ((1, 3), (0, 1, 1, 1)),
    ],
)
def test_center_crop_rounds_as_the_reference_does(size, box):
    np.testing.assert_array_equal(crop.center_crop_box(size), box)


CANVAS = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)


@pytest.mark.parametrize(("h", "w"), [(40, 48), (21, 30), (10, 8), (1, 1)])
def test_equals_a_resize_of_the_cut_alone(h, w):
    got = resize(jnp.asarray(CANVAS), jnp.array([h, w]), shape=(16, 24))
    cut = CANVAS[:h, :w] / np.float32(255)
    want = jax.image.resize(cut, (16, 24, 3), "cubic", antialias=False)
    np.testing.assert_allclose(got, want.transpose(2, 0, 1), atol=1e-5)


def test_sees_nothing_outside_the_cut():
    size = jnp.array([20, 25])
    other = 255 - CANVAS
    other[:20, :25] = CANVAS[:20, :25]
    np.testing.assert_array_equal(
        resize(jnp.asarray(CANVAS), size, shape=(16, 16)),
        resize(jnp.asarray(other), size, shape=(16, 16)),
    )


def test_a_resize_to_the_same_size_changes_no_pixel():
    got = resize(jnp.asarray(CANVAS), jnp.array([40, 48]), shape=(40, 48))
    np.testing.assert_allclose(got, CANVAS.transpose(2, 0, 1) / 255, rtol=1.2e-7)  # one rounding


def test_mirror_swaps_left_and_right():
    one = functools.partial(resize, jnp.asarray(CANVAS), jnp.array([21, 30]))
    plain, mirrored = one(shape=(16, 16)), one(shape=(16, 16), mirror=True)
    np.testing.assert_array_equal(mirrored, plain[:, :, ::-1])


def test_resize_overshoots_and_is_not_clipped():
    edge = np.zeros((8, 8, 3), np.uint8)
    edge[:, 4:] = 255
    got = np.asarray(resize(jnp.asarray(edge), jnp.array([8, 8]), shape=(16, 16)))
    assert got.max() > 1.03
    assert got.min() < -0.03
