"""Colour as a class: bins of the ab plane of Lab, soft targets, and a loss that favours rare bins.

Zhang et al. 2016, https://arxiv.org/abs/1603.08511
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from simclr_jax.core.types import Scalar
from simclr_jax.losses.similarity import at_least_float32

# Linear sRGB to XYZ (IEC 61966-2-1), and white of D65 for an observer of 2 degrees.
_TO_XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
_WHITE = (0.95047, 1.0, 1.08883)
_STEP = 10  # side of a bin in a and b
_GAMUT_SAMPLES = 52  # of each of red, green and blue: every fifth of 256 levels
NUM_NEIGHBOURS, SIGMA = 10, 5.0  # of a soft target
UNIFORM_SHARE = 0.5  # lambda of Equation 4
LEAST_COLOUR = 5.0  # an image without a larger |a| or |b| is grey


def rgb_to_lab(rgb: Float[Array, "*b 3"]) -> Float[Array, "*b 3"]:
    """Returns CIE Lab: L in [0, 100], a and b in about [-110, 110].

    Args:
      rgb: sRGB in [0, 1].
    """
    return _lab(at_least_float32(rgb), jnp)


def _lab(rgb: Any, numpy: Any) -> Any:
    """Returns CIE Lab, computed by NumPy or by JAX."""
    rgb = numpy.maximum(rgb, 0)
    linear = numpy.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    channels = [linear[..., i] for i in range(3)]
    # Sums, and no product of matrices, which is rounded on a TPU.
    xyz = [sum(w * x for w, x in zip(row, channels, strict=True)) for row in _TO_XYZ]
    ratios = [value / white for value, white in zip(xyz, _WHITE, strict=True)]
    bend = lambda t: numpy.where(t > 0.008856, numpy.cbrt(t), 7.787 * t + 16 / 116)
    x, y, z = map(bend, ratios)
    return numpy.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


@functools.cache
def colour_bins() -> Float[np.ndarray, "bins 2"]:
    """Returns the a and b of the bins: points of a grid with step 10 nearest to colours of sRGB.

    They are 260. The released code has 313, in a file whose making is not described.
    """
    levels = np.linspace(0, 1, _GAMUT_SAMPLES)
    cube = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1)
    return np.unique(np.round(_lab(cube.reshape(-1, 3), np)[:, 1:] / _STEP) * _STEP, axis=0)


def soft_bins(ab: Float[Array, "*b 2"]) -> Float[Array, "*b bins"]:
    """Returns a distribution over the bins: a Gaussian of the distance, over the ten nearest.

    Args:
      ab: a and b of each pixel.

    Source: Section 2.1.
    """
    bins = jnp.asarray(colour_bins(), ab.dtype).reshape((1,) * (ab.ndim - 1) + (-1, 2))
    squares = jnp.sum((ab[..., None, :] - bins) ** 2, axis=-1)
    near = squares <= _smallest(NUM_NEIGHBOURS, squares)  # of equals, all
    return jax.nn.softmax(jnp.where(near, -squares / (2 * SIGMA**2), -jnp.inf), axis=-1)


def _smallest(k: int, x: Float[Array, "*b n"]) -> Float[Array, "*b 1"]:
    """Returns the k-th smallest of each row of numbers >= 0.

    On a CPU `top_k` takes ten times as long.
    """

    def up(_: Any, found: tuple[Array, Array]) -> tuple[Array, Array]:
        value, count = found  # so many are at most `value`
        larger = jnp.where(x > value, x, jnp.inf).min(axis=-1, keepdims=True)
        value = jnp.where(count < k, larger, value)
        return value, (x <= value).sum(axis=-1, keepdims=True)

    start = jnp.full_like(x[..., :1], -1)
    return jax.lax.fori_loop(0, k, up, (start, jnp.zeros_like(start, int)))[0]


def bin_weights(prior: Float[Array, " bins"]) -> Float[Array, " bins"]:
    """Returns how much a pixel of each bin counts: 1 on average over the prior, rare ones more.

    Args:
      prior: how many pixels of the data each bin has, at any scale; a bin without pixels has no
        weight.

    Source: Equation 4.
    """
    present = prior > 0
    prior = jnp.where(present, prior, 0) / jnp.where(present, prior, 0).sum()
    mixed = (1 - UNIFORM_SHARE) * prior + UNIFORM_SHARE / present.sum()
    weights = jnp.where(present, 1 / mixed, 0)
    return weights / (prior * weights).sum()


def is_coloured(ab: Float[Array, "b h w 2"]) -> Bool[Array, " b"]:
    """Returns which images have a colour at all; the others cannot teach any."""
    return (jnp.abs(ab) > LEAST_COLOUR).any(axis=(1, 2, 3))


def colour_loss(
    logits: Float[Array, "n bins"],
    targets: Float[Array, "n bins"],
    weights: Float[Array, " bins"],
    known: Bool[Array, " n"],
) -> Scalar:
    """Cross entropy of each pixel, weighted by the most probable bin of its target.

    Args:
      logits: one row for each pixel.
      targets: distributions, see `soft_bins`; no gradient reaches them.
      weights: weights of the bins, see `bin_weights`.
      known: pixels that count.

    Returns:
      Mean in nats over the pixels that count, 0 if there are none. It is not divided by the
      weights. The released code reports it without weights, which act on its gradient only.

    Source: Equations 2 and 3.
    """
    targets = jax.lax.stop_gradient(targets)
    losses = -jnp.sum(targets * jax.nn.log_softmax(at_least_float32(logits)), axis=-1)
    losses *= weights[jnp.argmax(targets, axis=-1)]
    return jnp.where(known, losses, 0).sum() / jnp.maximum(known.sum(), 1)


def annealed_mean(
    logits: Float[Array, "*b bins"], temperature: float = 0.38
) -> Float[Array, "*b 2"]:
    """Returns the a and b that logits say, between their mode and their mean.

    Args:
      logits: logits of the bins.
      temperature: 0 is the mode, 1 the mean.

    Source: Equation 5.
    """
    shares = jax.nn.softmax(logits / temperature, axis=-1)
    bins = jnp.asarray(colour_bins(), logits.dtype)
    return jnp.matmul(shares, bins, precision=jax.lax.Precision.HIGHEST)
