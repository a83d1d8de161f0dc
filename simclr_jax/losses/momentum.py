"""InfoNCE of queries with the keys of a momentum encoder and with a queue of past keys.

van den Oord et al. 2018, https://arxiv.org/abs/1807.03748 (InfoNCE)
He et al. 2019, https://arxiv.org/abs/1911.05722 (MoCo)
Chen et al. 2021, https://arxiv.org/abs/2104.02057 (MoCo v3)
Gao et al. 2021, https://arxiv.org/abs/2104.08821 (SimCSE: sentences with dropout as views)
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simclr_jax.core.types import Scalar
from simclr_jax.losses.similarity import (
    check_other_images,
    check_two_views,
    log_sum_exp,
    unit_rows,
)


def info_nce(
    query: Float[Array, "n d"],
    key: Float[Array, "n d"],
    *,
    temperature: float | Scalar,
    queue: Float[Array, "k d"] | None = None,
    in_batch: bool = True,
    own_negatives: Float[Array, "n m d"] | None = None,
    hard_negatives: Float[Array, "h d"] | None = None,
    tile: int | None = None,
) -> Scalar:
    """Cross entropy of each query's own key among the candidates, in one direction.

    Args:
      query: one row for each image of the global batch, any scale.
      key: row i is the positive of query i, any scale.
      temperature: divides the cosine similarity; > 0, 0.07 in MoCo, 0.2 in MoCo v2. An array
        gets a gradient.
      queue: keys of past batches, rows of unit length: negatives of every query. No gradient
        reaches them.
      in_batch: whether the keys of other images are negatives. In MoCo they are not.
      own_negatives: m negatives of each query alone, of unit length. No gradient reaches them.
      hard_negatives: more negatives of every query, any scale, such as sentences that contradict
        those of the batch.
      tile: candidates at a time, as for `log_sum_exp`.

    Returns:
      Mean in nats; log of the number of candidates when all similarities are equal: n + k with
      `in_batch`, 1 + k otherwise, and m + h more. Its gradient reaches query, key and hard
      negatives: stop it at keys that are targets.

    Raises:
      ValueError: if there is one image and no queue, no negative at all, or the tile is below 1.

    Source: van den Oord et al., Equation 4; He et al., Equation 1; hard negatives: Gao et al.,
      Equation 5.
    """
    if queue is None:
        if not in_batch:
            raise ValueError("info_nce needs a queue where in_batch=False: nothing is negative.")
        check_other_images(query.shape[0], "info_nce")
    query, key = unit_rows(query), unit_rows(key)
    positives = jnp.sum(query * key, axis=-1) / temperature
    settings = {"temperature": temperature, "tile": tile}
    sums = log_sum_exp(query, key, **settings) if in_batch else positives
    if queue is not None:
        # Apart from the batch, so that a sharded queue stays where it is: joined with the keys,
        # logits would be split by rows, and every device would need the whole queue.
        past = log_sum_exp(query, jax.lax.stop_gradient(queue), **settings)
        sums = jnp.logaddexp(sums, past)
    if own_negatives is not None:
        rows = jax.lax.stop_gradient(own_negatives)
        own = jnp.einsum("nd,nmd->nm", query, rows, precision=jax.lax.Precision.HIGHEST)
        sums = jnp.logaddexp(sums, jax.nn.logsumexp(own / temperature, axis=-1))
    if hard_negatives is not None:
        sums = jnp.logaddexp(sums, log_sum_exp(query, unit_rows(hard_negatives), **settings))
    return (sums - positives).mean()


def moco_v3(
    prediction: Float[Array, "b 2 d"],
    key: Float[Array, "b 2 d"],
    *,
    temperature: float,
    tile: int | None = None,
) -> Scalar:
    """InfoNCE of the predictions of each view with the keys of the other view.

    The candidates of a prediction are the b keys of the other view, and none of its own view.

    Args:
      prediction: predictions of both views of every image of the global batch, any scale.
      key: projections of the same views by the momentum encoder, any scale; no gradient
        reaches them.
      temperature: divides the cosine similarity; > 0, 1 for ResNets, 0.2 for ViTs.
      tile: candidates at a time, as for `log_sum_exp`.

    Returns:
      Mean over both views in nats; log(b) when all similarities are equal. The released code
      sums the views and multiplies by 2 temperature: its value is 4 temperature times this one.

    Raises:
      ValueError: if there is one image only, there are not two views, or the tile is below 1.

    Source: Equation 1 and Algorithm 1; https://github.com/facebookresearch/moco-v3, builder.py.
    """
    key = jax.lax.stop_gradient(key)
    return cross_view_info_nce(prediction, key, temperature=temperature, tile=tile)


def cross_view_info_nce(
    query: Float[Array, "b 2 d"],
    key: Float[Array, "b 2 d"],
    *,
    temperature: float,
    tile: int | None = None,
) -> Scalar:
    """Mean of `info_nce` of each view's queries with the other view's keys."""
    check_two_views(query, "cross_view_info_nce")
    settings = {"temperature": temperature, "tile": tile}
    first, second = (info_nce(query[:, v], key[:, 1 - v], **settings) for v in (0, 1))
    return (first + second) / 2
