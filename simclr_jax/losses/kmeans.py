"""Spherical k-means: clusters of unit rows by their direction.

Caron et al. 2020, https://arxiv.org/abs/2006.09882, Appendix (DeepCluster v2)
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from simclr_jax.losses.similarity import l2_normalize, similarities


def spherical_kmeans(
    tiles: Float[Array, "tiles n d"],
    known: Bool[Array, "tiles n"],
    centroids: Float[Array, "k d"],
    *,
    iterations: int,
) -> tuple[Float[Array, "k d"], Int[Array, "tiles n"]]:
    """Clusters unit rows; one tile at a time is compared with all centroids.

    Each iteration assigns rows to the most similar centroid, and makes the unit mean of its rows
    the new centroid. One without rows stays where it is.

    Args:
      tiles: the rows; what memory a step takes grows with n * k.
      known: whether a row counts.
      centroids: unit rows to start from.
      iterations: number of iterations.

    Returns:
      The centroids, and the number of the most similar one for each row, -1 where it is not known.
    """
    k = centroids.shape[0]

    def assign(rows: Array, centroids: Array) -> Array:
        return jnp.argmax(similarities(rows, centroids), axis=-1)  # [n]

    def improve(_: Array, centroids: Array) -> Array:
        def add(sums: tuple[Array, Array], tile: tuple[Array, Array]) -> tuple[Any, None]:
            rows, counts = tile
            members = jax.nn.one_hot(assign(rows, centroids), k, dtype=rows.dtype)
            members *= counts[:, None]
            total, number = sums
            return (total + similarities(members.T, rows.T), number + members.sum(axis=0)), None

        empty = (jnp.zeros_like(centroids), jnp.zeros(k, centroids.dtype))
        total, number = jax.lax.scan(add, empty, (tiles, known))[0]
        means = total / jnp.maximum(number, 1)[:, None]
        return l2_normalize(jnp.where(number[:, None] > 0, means, centroids))

    centroids = jax.lax.fori_loop(0, iterations, improve, centroids)
    assigned = jax.lax.map(lambda rows: assign(rows, centroids), tiles)
    return centroids, jnp.where(known, assigned, -1)
