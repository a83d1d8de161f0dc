"""Reconstruction of masked patches.

He et al. 2021, https://arxiv.org/abs/2111.06377 (MAE)
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from simclr_jax.core.types import Scalar
from simclr_jax.losses.similarity import at_least_float32

_EPSILON = 1e-6  # of a patch's variance


def normalized_patches(patches: Float[Array, "n t pixels"]) -> Float[Array, "n t pixels"]:
    """Returns each patch with a mean of 0 and an unbiased variance of 1, over its pixels."""
    variance = patches.var(axis=-1, ddof=1, keepdims=True)
    return (patches - patches.mean(axis=-1, keepdims=True)) / jnp.sqrt(variance + _EPSILON)


def masked_mean_square(
    prediction: Float[Array, "n t pixels"],
    target: Float[Array, "n t pixels"],
    masked: Float[Array, "n t"],
) -> Scalar:
    """Mean squared error over the pixels of masked patches.

    Args:
      prediction: pixels of all patches.
      target: likewise.
      masked: 1 for patches that were hidden, of which there is at least one, and 0 for others.
    """
    squares = (at_least_float32(prediction) - target) ** 2
    return (squares.mean(axis=-1) * masked).sum() / masked.sum()


def masked_variance(target: Float[Array, "n t pixels"], masked: Float[Array, "n t"]) -> Scalar:
    """Returns `masked_mean_square` of predicting the mean masked patch: the loss at chance."""
    mean = (target * masked[..., None]).sum(axis=(0, 1), keepdims=True) / masked.sum()
    return masked_mean_square(jnp.broadcast_to(mean, target.shape), target, masked)
