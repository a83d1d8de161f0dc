"""InfoNCE where the nearest neighbour of a view in a queue stands for the view.

Dwibedi et al. 2021, https://arxiv.org/abs/2104.14548 (NNCLR)
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from simclr_jax.core.types import Scalar
from simclr_jax.losses.momentum import cross_view_info_nce
from simclr_jax.losses.similarity import similarities, unit_rows


def nearest(z: Float[Array, "b v d"], queue: Float[Array, "k d"]) -> Int[Array, "b v"]:
    """Returns which row of the queue is the most similar to each projection.

    Args:
      z: projections of any scale.
      queue: rows of unit length.
    """
    return jnp.argmax(similarities(unit_rows(z), queue), axis=-1).reshape(z.shape[:2])


def nnclr(
    prediction: Float[Array, "b 2 d"],
    neighbour: Float[Array, "b 2 d"],
    *,
    temperature: float,
    tile: int | None = None,
) -> Scalar:
    """InfoNCE of the nearest neighbours of each view with the predictions of the other view.

    The candidates of a neighbour are the b predictions of the other view.

    Args:
      prediction: predictions of both views of every image of the global batch, any scale.
      neighbour: for each view, the row of the queue that is `nearest` to its projection; no
        gradient reaches it.
      temperature: divides the cosine similarity; > 0, 0.1 in the paper.
      tile: candidates at a time, as for `log_sum_exp`.

    Returns:
      Mean over both views in nats; log(b) when all similarities are equal.

    Raises:
      ValueError: if there is one image only, there are not two views, or the tile is below 1.

    Source: Equations 2 and 3. lightly contrasts with the predictions of both views instead.
    """
    neighbour = jax.lax.stop_gradient(neighbour)
    return cross_view_info_nce(neighbour, prediction, temperature=temperature, tile=tile)
