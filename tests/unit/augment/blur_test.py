"""Gaussian blur against the official code, a direct sum, and its odds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.augment import blur

gaussian_blur = jax.jit(blur.gaussian_blur, static_argnames="radius")


@pytest.mark.parametrize("name", ["smooth", "noise"])
@pytest.mark.parametrize("kernel_size", [3, 22])
@pytest.mark.parametrize("sigma", ["0.1", "0.5", "1.0", "2.0"])
def test_matches_the_official_code(check, planar, name, kernel_size, sigma):
    got = gaussian_blur(planar(name), float(sigma), radius=kernel_size // 2)
    check(got, f"{name}/blur_k{kernel_size}/{sigma}", 1e-5)


def test_spreads_one_bright_pixel_as_the_normalised_kernel():
    image = jnp.zeros((1, 9, 9)).at[0, 4, 4].set(1.0)
    got = gaussian_blur(image, 1.3, radius=2)[0]
    kernel = np.exp(-(np.arange(-2, 3) ** 2) / (2 * 1.3**2))
    kernel /= kernel.sum()
    want = np.zeros((9, 9))
    want[2:7, 2:7] = np.outer(kernel, kernel)
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_darkens_the_border_and_keeps_the_inside_of_a_white_image():
    got = np.asarray(gaussian_blur(jnp.ones((3, 16, 20)), 2.0, radius=3))
    np.testing.assert_allclose(got[:, 3:-3, 3:-3], 1, rtol=1e-6)
    assert (got[:, 0] < 0.7).all()


def test_blurs_half_of_the_views_each_with_its_own_sigma():
    image = jnp.zeros((1, 7, 7)).at[0, 3, 3].set(1.0)
    keys = jax.random.split(jax.random.key(0), 10_000)
    views = jax.jit(jax.vmap(lambda key: blur.random_blur(key, image, radius=3)))(keys)
    centers = np.asarray(views[:, 0, 3, 3])
    # sigma below 0.25 leaves the image as it is to 1e-3: 0.5 + 0.5 * 0.15 / 1.9 of them.
    assert abs((centers > 0.998).mean() - 0.539) < 0.02  # 4 standard errors
    # Half of the blurred ones have sigma above 1.05, where the centre keeps 0.145.
    kernel = np.exp(-(np.arange(-3, 4) ** 2) / (2 * 1.05**2))
    assert abs((centers < kernel.sum() ** -2).mean() - 0.25) < 0.0175
    assert len(np.unique(centers)) > 4000
