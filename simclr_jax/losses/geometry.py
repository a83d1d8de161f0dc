"""How projections lie on the sphere: signs of health or collapse, whatever the loss."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simclr_jax.core.types import Metrics
from simclr_jax.losses.similarity import similarities, unit_rows

# Images whose pairs uniformity is a mean over: a million pairs, and a cost that does not grow.
MAX_IMAGES = 1024


def geometry(z: Float[Array, "b v d"]) -> Metrics:
    """Returns where projections point; no gradient passes.

    Args:
      z: projections of two or more views of two or more images, any scale. Beside their sums, one
        [d, d] and one [m, m] product are computed, of m = min(b, `MAX_IMAGES`) images.

    Returns:
      "positive_similarity", "negative_similarity": mean cosine of the first two views of an image,
      and of a first and a second view of two different images, in [-1, 1].
      "alignment": mean squared distance of the first two views, in [0, 4]; small is good.
      "uniformity": log of the mean of exp(-2 * squared distance) of a first and a second view of
      two of the first m images, in [-8, 0]; small is good, and 0 is a collapse.
      "participation_ratio": how many directions are used, in [1, d]; 1 is a collapse. It is
      tr(C)^2 / tr(C^2), the participation ratio of the eigenvalues of C, which is Z^T Z of unit
      rows.

    Source: alignment and uniformity with its t = 2: Wang and Isola 2020,
    https://arxiv.org/abs/2005.10242, Section 4.1. RankMe, https://arxiv.org/abs/2210.02885, takes
    the exponential of the entropy of singular values instead, which have to be found first.
    """
    rows = jax.lax.stop_gradient(unit_rows(z))  # [n, d]
    first, second = jnp.moveaxis(rows.reshape(z.shape)[:, :2], 1, 0)  # [b, d] each
    b = first.shape[0]
    positive = jnp.sum(first * second, axis=-1).mean()
    # Of all pairs of images at once: a sum of products is a product of sums.
    negative = (jnp.sum(first.sum(0) * second.sum(0)) - b * positive) / float(b * (b - 1))
    m = min(b, MAX_IMAGES)
    distances = 2 - 2 * similarities(first[:m], second[:m])  # [m, m], squared
    others = jnp.where(jnp.eye(m, dtype=bool), -jnp.inf, -2 * distances)
    moments = rows.T @ rows  # [d, d]; three digits will do
    return {
        "positive_similarity": positive,
        "negative_similarity": negative,
        "alignment": jnp.sum((first - second) ** 2, axis=-1).mean(),
        "uniformity": jax.nn.logsumexp(others) - jnp.log(m * (m - 1.0)),
        "participation_ratio": jnp.trace(moments) ** 2 / jnp.sum(moments**2),
    }
