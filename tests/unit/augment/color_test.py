"""Colour operations against the official code, and the odds of their random composition."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.augment import color

IMAGES = ["smooth", "noise"]

scale_contrast = jax.jit(color.scale_contrast)
scale_saturation = jax.jit(color.scale_saturation)
rotate_hue = jax.jit(color.rotate_hue)
color_jitter = jax.jit(color.color_jitter, static_argnames="jitter")


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("factor", ["0.2", "0.63", "1.8"])
def test_contrast_matches_the_official_code(check, planar, name, factor):
    check(scale_contrast(planar(name), float(factor)), f"{name}/contrast/{factor}", 1e-5)


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("factor", ["0.2", "0.63", "1.8"])
def test_saturation_matches_the_official_code(check, planar, name, factor):
    got = scale_saturation(planar(name), float(factor))
    check(got, f"{name}/saturation/{factor}", 1e-5)


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("turns", ["-0.2", "0.13"])
def test_hue_matches_the_official_code(check, planar, name, turns):
    check(rotate_hue(planar(name), float(turns)), f"{name}/hue/{turns}", 1e-5)


@pytest.mark.parametrize("name", IMAGES)
def test_gray_matches_the_official_code(check, planar, name):
    check(color.to_gray(planar(name)), f"{name}/gray", 1e-5)


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("draw", range(3))
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_jitter_matches_the_official_code(golden, check, planar, name, draw, version):
    key = f"{name}/jitter{draw}/simclr{version}"
    order, amounts = np.split(golden[f"{key}/params"], 2)
    jitter = color.Jitter(jnp.asarray(order, jnp.int32), jnp.asarray(amounts))
    check(color_jitter(planar(name), jitter, jitter=version), key, 1e-5)


def clipped_jitter(image: np.ndarray, order, amounts) -> np.ndarray:
    """Brightness and contrast only, in float64, with a clip after each operation."""
    for index in order:
        if index == 0:
            image = image * amounts[0]
        if index == 1:
            mean = image.mean(axis=(1, 2), keepdims=True)
            image = mean + amounts[1] * (image - mean)
        image = np.clip(image, 0, 1)
    return image


@pytest.mark.parametrize("order", list(itertools.permutations(range(4)))[::5])
def test_jitter_clips_after_each_operation_in_any_order(planar, order):
    amounts = np.array([1.7, 1.6, 1.0, 0.0], np.float32)  # neutral saturation and hue
    image = planar("noise")
    got = color_jitter(image, color.Jitter(jnp.array(order), jnp.asarray(amounts)))
    want = clipped_jitter(np.asarray(image, np.float64), order, amounts)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_saturation_zero_leaves_the_largest_channel_everywhere(planar):
    image = planar("noise")
    got = scale_saturation(image, 0.0)
    np.testing.assert_allclose(got, np.broadcast_to(image.max(0), image.shape), atol=1e-6)


def test_a_third_of_a_turn_exchanges_the_channels(planar):
    image = planar("smooth")
    got = rotate_hue(image, 1 / 3)
    np.testing.assert_allclose(got, image[jnp.array([2, 0, 1])], atol=1e-5)


@pytest.mark.parametrize("value", [-0.1, 0.0, 0.5, 1.1])
def test_gray_pixels_keep_their_value_under_saturation_and_hue(value):
    image = jnp.full((3, 2, 2), value)
    np.testing.assert_allclose(scale_saturation(image, 1.8), image, rtol=1e-6)
    np.testing.assert_allclose(rotate_hue(image, 0.2), image, rtol=1e-6)


@pytest.fixture(scope="module")
def draws():
    keys = jax.random.split(jax.random.key(0), 24_000)
    return jax.jit(jax.vmap(lambda key: color.draw_jitter(key, strength=0.5)))(keys)


def test_draws_every_order_equally_often(draws):
    _, counts = np.unique(np.asarray(draws.order), axis=0, return_counts=True)
    assert len(counts) == 24
    chi_square = np.sum((counts - 1000.0) ** 2 / 1000)
    assert chi_square < 49.7  # 0.1 % point at 23 degrees of freedom


def test_draws_amounts_uniformly_within_the_ranges_of_the_strength(draws):
    amounts = np.asarray(draws.amounts)
    center, width = np.array([1, 1, 1, 0]), 0.5 * np.array([0.8, 0.8, 0.8, 0.2])
    unit = (amounts - center) / width
    assert (np.abs(unit) <= 1 + 1e-6).all()
    np.testing.assert_allclose(unit.mean(0), 0, atol=0.015)  # 4 standard errors
    np.testing.assert_allclose((unit**2).mean(0), 1 / 3, atol=0.01)
    off_diagonal = np.corrcoef(unit.T) - np.eye(4)
    assert np.abs(off_diagonal).max() < 0.03


def test_v1_draws_brightness_around_zero():
    keys = jax.random.split(jax.random.key(1), 1000)
    draw = jax.vmap(lambda key: color.draw_jitter(key, strength=1.0, jitter="v1"))
    brightness = np.asarray(jax.jit(draw)(keys).amounts[:, 0])
    assert -0.8 <= brightness.min() < -0.75
    assert 0.75 < brightness.max() <= 0.8


def test_jitters_four_fifths_and_grays_a_fifth_independently():
    image = jnp.array([0.5, 0.3, 0.6])[:, None, None] * jnp.array([1.0, 0.9])[None, None, :]
    keys = jax.random.split(jax.random.key(0), 20_000)
    apply = jax.vmap(lambda key: color.random_color(key, image, strength=0.3))
    views = np.asarray(jax.jit(apply)(keys))
    is_gray = (np.ptp(views, axis=1) < 1e-6).all(axis=(1, 2))
    plain = np.where(is_gray[:, None, None, None], color.to_gray(image), image)
    is_plain = np.abs(views - plain).max(axis=(1, 2, 3)) < 1e-6
    # Four standard errors of a frequency over 20,000 draws: below 0.012.
    assert abs(is_gray.mean() - 0.2) < 0.012
    assert abs(is_plain.mean() - 0.2) < 0.012
    assert abs((is_gray & is_plain).mean() - 0.04) < 0.006


def test_jitters_all_or_none_if_asked():
    image = jnp.array([0.5, 0.3, 0.6])[:, None, None] * jnp.ones((1, 2, 2))
    keys = jax.random.split(jax.random.key(0), 200)

    def as_it_was(probability):
        apply = lambda key: color.random_color(key, image, strength=0.5, probability=probability)
        views = np.asarray(jax.jit(jax.vmap(apply))(keys))
        return np.isclose(views, image).all(axis=(1, 2, 3)).mean()

    assert as_it_was(1.0) == 0
    assert as_it_was(0.0) > 0.7  # the others are grey
