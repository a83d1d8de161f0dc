"""Measures of a representation that need no labels."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from simclr_jax.core.types import Scalar
from simclr_jax.losses.similarity import l2_normalize


@jax.jit
def effective_rank(features: Float[Array | np.ndarray, "n d"]) -> Scalar:
    """How many directions the features use: the exponential of their spectrum's entropy.

    Args:
      features: encoder outputs, as they are (neither centred nor normalised).

    Returns:
      In [1, min(n, d)] up to rounding; 1 when all rows are multiples of one vector.

    Source: RankMe, Garrido et al. 2023, https://arxiv.org/abs/2210.02885, Equation 1.
    """
    spectrum = jnp.linalg.svd(jnp.asarray(features, jnp.float32), compute_uv=False)
    share = spectrum / jnp.maximum(spectrum.sum(), jnp.finfo(jnp.float32).tiny) + 1e-7
    return jnp.exp(-jnp.sum(share * jnp.log(share)))


@jax.jit
def uniformity(features: Float[Array | np.ndarray, "n d"]) -> Scalar:
    """How evenly the feature directions cover the sphere: lower is more even.

    Args:
      features: at least two rows, any scale.

    Returns:
      log mean exp(-2 |x - y|^2) over pairs of different rows of unit length, in
      [-8, 0]; 0 when all rows point the same way.

    Source: Wang and Isola 2020, https://arxiv.org/abs/2005.10242, Section 4.1.2.
    """
    x = l2_normalize(jnp.asarray(features, jnp.float32))
    n = len(x)
    if n < 2:
        raise ValueError(f"uniformity compares pairs of rows and needs at least 2, got {n}.")

    def potential(i: Array) -> Scalar:
        cosine = jnp.matmul(x, x[i], precision=jax.lax.Precision.HIGHEST)  # [n]
        # |x - y|^2 = 2 - 2 cosine between rows of unit length.
        others = jnp.exp(-4 * (1 - cosine)).at[i].set(0)
        return others.sum() / (n - 1)

    # In chunks: the whole [n, n] matrix of a large data set would not fit.
    return jnp.log(jax.lax.map(potential, jnp.arange(n), batch_size=min(n, 256)).mean())
