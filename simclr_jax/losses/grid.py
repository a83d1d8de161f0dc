"""InfoNCE on a grid of patches: what is below a patch, told from what is above it.

van den Oord et al. 2018, https://arxiv.org/abs/1807.03748 (CPC)
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from simclr_jax.core.types import Scalar
from simclr_jax.losses.similarity import at_least_float32, log_sum_exp, similarities


def grid_info_nce(
    patches: Float[Array, "b rows columns d"],
    context: Float[Array, "b rows columns c"],
    weights: Float[Array, "k c d"],
    *,
    first_distance: int = 1,
    tile: int | None = None,
) -> Scalar:
    """Cross entropy of the patch some rows below each context, among all patches of the batch.

    The context of patch (i, j) predicts patch (i + s, j) by a matrix for each distance s, and the
    candidates are all patches of all images, its own image's too. Similarity is the product as it
    is, without normalisation and temperature.

    Args:
      patches: representations, any scale.
      context: what is known at each patch; it must not have seen the rows that it predicts.
      weights: weights of distances first_distance, first_distance + 1, and so on.
      first_distance: least distance, >= 1.
      tile: candidates at a time, as for `log_sum_exp`.

    Returns:
      Mean over predictions in nats; the log of the number of patches when all products are equal.

    Raises:
      ValueError: if the grid has too few rows.

    Source: Equation 4; Henaff et al. 2019, https://arxiv.org/abs/1905.09272, Equation 2.
    """
    num_rows = patches.shape[1]
    most = first_distance + weights.shape[0] - 1
    if most >= num_rows:
        raise ValueError(
            f"a distance of {most} rows needs a grid of {most + 1} rows; there are {num_rows}."
        )
    patches, context = at_least_float32(patches), at_least_float32(context)
    rows = lambda x: x.reshape(-1, x.shape[-1])
    candidates, losses = rows(patches), []
    for distance, matrix in enumerate(weights, start=first_distance):
        predicted = similarities(rows(context[:, : num_rows - distance]), matrix.T)
        sums = log_sum_exp(predicted, candidates, temperature=1.0, tile=tile)
        losses.append(sums - jnp.sum(predicted * rows(patches[:, distance:]), axis=-1))
    return jnp.concatenate(losses).mean()
