"""Gaussian blur of one planar image, as two products with a banded matrix.

A convolution with another kernel for each image is a grouped convolution, which XLA runs
35 times slower on a CPU; sums of shifted images are faster there, but a TPU has to move
them across lanes, where the products use its matrix unit.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simclr_jax.augment.separable import apply_separably
from simclr_jax.core.types import PRNGKey, Scalar

SIGMA_RANGE = (0.1, 2.0)
BLUR_PROBABILITY = 0.5


def gaussian_blur(
    image: Float[Array, "c h w"], sigma: Scalar | float, *, radius: int
) -> Float[Array, "c h w"]:
    """Convolves with a Gaussian of 2 * radius + 1 taps that sum to one.

    Args:
      image: planar floats.
      sigma: standard deviation in pixels, positive.
      radius: taps on either side of the centre.

    Returns:
      The blurred image, of the same shape. Outside the image is zero, so borders darken,
      as in the official code.
    """
    rows = _band(sigma, radius, image.shape[1])
    columns = _band(sigma, radius, image.shape[2])
    return apply_separably(rows, image, columns, image.dtype)


def _band(sigma: Scalar | float, radius: int, num_pixels: int) -> Float[Array, "n n"]:
    """Returns the symmetric matrix that convolves `num_pixels` pixels with the kernel."""

    def density(x):
        return jnp.exp(-(x**2) / (2 * sigma**2))

    total = jnp.sum(density(jnp.arange(-radius, radius + 1.0)))
    pixel = jnp.arange(float(num_pixels))
    distance = jnp.abs(pixel[:, None] - pixel[None, :])
    return jnp.where(distance <= radius, density(distance) / total, 0.0)


def random_blur(
    key: PRNGKey,
    image: Float[Array, "c h w"],
    *,
    radius: int,
    probability: Scalar | float = BLUR_PROBABILITY,
) -> Float[Array, "c h w"]:
    """Blurs one view at random, with sigma uniform in [0.1, 2.0] pixels.

    Source: Chen et al. 2020, https://arxiv.org/abs/2002.05709, Appendix A. The official code
    (google-research/simclr, tf2/data_util.py) draws one sigma for all images of a device;
    here each image and view has its own, as the paper's text has it, so that results do
    not depend on the number of devices.
    """
    unit = jax.random.uniform(key, (2,))
    low, high = SIGMA_RANGE
    blurred = gaussian_blur(image, low + unit[0] * (high - low), radius=radius)
    return jnp.where(unit[1] < probability, blurred, image)
