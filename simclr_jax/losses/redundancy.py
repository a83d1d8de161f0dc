"""Losses on the statistics of each dimension over the global batch, without negatives.

Zbontar et al. 2021, https://arxiv.org/abs/2103.03230 (Barlow Twins)
Bardes et al. 2022, https://arxiv.org/abs/2105.04906 (VICReg)
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simclr_jax.core.placement import replicate, shard_batch
from simclr_jax.core.types import Metrics, Scalar
from simclr_jax.losses.similarity import at_least_float32, check_other_images, check_two_views


def barlow_twins(
    z: Float[Array, "b 2 d"], *, off_diagonal_weight: float = 0.0051
) -> tuple[Scalar, Metrics]:
    """Makes the cross-correlation of both views the identity.

    sum_i (1 - C_ii)^2 + off_diagonal_weight sum_{i != j} C_ij^2, where C [d, d] correlates
    dimension i of view 1 with dimension j of view 2 over the global batch, each dimension
    normalised with its mean and biased variance, 1e-5 added, over the images of its view.

    Args:
      z: projections of both views of every image, [b, 2, d], any scale.
      off_diagonal_weight: lambda; 0.0051 in the released code.

    Returns:
      The loss, O(d) large: d when views are unrelated; and the two sums, "on_diagonal" and
      "off_diagonal".

    Raises:
      ValueError: if there is one image only, or z is not [b, 2, d].

    Source: Equations 1 and 2; https://github.com/facebookresearch/barlowtwins, main.py.
    """
    check_two_views(z, "barlow_twins")
    check_other_images(z.shape[0], "barlow_twins")
    z = at_least_float32(z)
    z = (z - z.mean(axis=0)[None]) * jax.lax.rsqrt(z.var(axis=0)[None] + 1e-5)
    correlation = _products(z[:, 0], z[:, 1]) / z.shape[0]
    diagonal = jnp.diagonal(correlation)
    on_diagonal = jnp.sum((1 - diagonal) ** 2)
    off_diagonal = jnp.sum(_off_diagonal(correlation) ** 2)
    loss = on_diagonal + off_diagonal_weight * off_diagonal
    return loss, {"on_diagonal": on_diagonal, "off_diagonal": off_diagonal}


def vicreg(
    z: Float[Array, "b 2 d"],
    *,
    invariance_weight: float = 25.0,
    variance_weight: float = 25.0,
    covariance_weight: float = 1.0,
) -> tuple[Scalar, Metrics]:
    """Variance, invariance and covariance regularisation.

    - invariance: mean over images and dimensions of (z_1 - z_2)^2;
    - variance: mean over views and dimensions of max(0, 1 - sqrt(var + 1e-4));
    - covariance: sum over views and pairs of different dimensions of cov^2, divided by d.

    Variance and covariance are unbiased, over the images of the global batch.

    Args:
      z: projections of both views of every image, [b, 2, d]; their scale matters.
      invariance_weight: weight of the first term.
      variance_weight: weight of the second.
      covariance_weight: weight of the third.

    Returns:
      The weighted sum, and the three terms before they are weighted.

    Raises:
      ValueError: if there is one image only, or z is not [b, 2, d].

    Source: https://github.com/facebookresearch/vicreg, main_vicreg.py. Equations 1 to 6 of the
      paper sum the squared distance over dimensions and the variance terms over both views; the
      published numbers were made with these means.
    """
    check_two_views(z, "vicreg")
    check_other_images(z.shape[0], "vicreg")
    z = at_least_float32(z)
    b, _, d = z.shape
    invariance = jnp.mean((z[:, 0] - z[:, 1]) ** 2)
    variance = jax.nn.relu(1 - jnp.sqrt(z.var(axis=0, ddof=1) + 1e-4)).mean()
    centred = z - z.mean(axis=0)[None]
    covariances = [_products(centred[:, v], centred[:, v]) / (b - 1) for v in (0, 1)]
    covariance = jnp.stack([jnp.sum(_off_diagonal(c) ** 2) for c in covariances]).sum() / d
    loss = (
        invariance_weight * invariance + variance_weight * variance + covariance_weight * covariance
    )
    return loss, {"invariance": invariance, "variance": variance, "covariance": covariance}


def _products(x: Float[Array, "b d"], y: Float[Array, "b d"]) -> Float[Array, "d d"]:
    """Returns x^T y, of which each device computes its own rows.

    At d = 8192 it takes 256 MB. From its own images a device could compute only a part of every
    sum.
    """
    columns = shard_batch(x.T)
    return jnp.matmul(columns, replicate(y), precision=jax.lax.Precision.HIGHEST)


def _off_diagonal(x: Float[Array, "d d"]) -> Float[Array, "d d"]:
    return jnp.where(jnp.eye(x.shape[0], dtype=bool), 0, x)
