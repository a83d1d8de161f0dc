"""SimCLR's loss and its metrics."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simclr_jax.core.placement import replicate
from simclr_jax.core.types import Metrics, Scalar
from simclr_jax.losses.similarity import (
    at_least_float32,
    check_two_views,
    chosen_tile,
    l2_normalize,
    log_sum_exp,
    similarities,
    unit_rows,
)
from simclr_jax.losses.tiled import top_and_entropy


def nt_xent(
    z: Float[Array, "b v d"],
    *,
    temperature: float,
    keys: Float[Array, "_ _ d"] | None = None,
    queue: Float[Array, "k d"] | None = None,
    tile: int | None = None,
) -> Scalar:
    """Normalized temperature-scaled cross entropy over all 2b views (SimCLR, Eq. 1).

    Row 2i + v is view v of image i, so the positive of row r is row r ^ 1, its
    negatives are the other 2b - 2 rows, and it is never compared with itself.

    With `keys`, each row of z is compared in the same pattern with keys instead of rows of
    z: its positive is the key of the other view, and its own view's key is left out. With
    `queue`, every row has k negatives more. Gradients reach z alone, not keys or queue, so
    with keys=z the value is that of the plain loss, but the gradient is not.

    Args:
      z: projections of both views of every image in the global batch, [b, 2, d], any scale.
      temperature: divides the cosine similarity; dimensionless, > 0, 0.1 on ImageNet.
      keys: projections of the same views by a momentum encoder, [b, 2, d], any scale.
      queue: keys of past batches, [k, d], rows of unit length.
      tile: compares with so many candidates at a time, which takes memory in proportion to
        tile * (2b + k) and not to the square of the batch (see `tiled`); the same value and
        gradient but for rounding. None: all at once up to `MAX_DENSE_ROWS` rows of z, if no device
        holds more similarities than the square of that, those with the queue included; otherwise in
        tiles of a good size.

    Returns:
      Mean loss per view in nats; log(2b - 1 + k) when all similarities are equal.
      The official TF code sums the two views instead, so it reports twice this
      value (google-research/simclr, tf2/objective.py); it has neither keys nor queue.

    Raises:
      ValueError: if z is not [b, 2, d], keys have another shape, or the tile is below 1.

    Source: Chen et al. 2020, https://arxiv.org/abs/2002.05709, Section 2.1. Keys and queue:
    He et al. 2019, https://arxiv.org/abs/1911.05722, Eq. 1, here with the keys of this
    batch among the negatives.
    """
    check_two_views(z, "nt_xent")
    if keys is not None and keys.shape != z.shape:
        raise ValueError(f"nt_xent needs keys of the shape of z, {z.shape}, got {keys.shape}.")
    rows = unit_rows(z)  # [n, d]
    others = None if keys is None else jax.lax.stop_gradient(unit_rows(keys))
    num_candidates = rows.shape[0] + (0 if queue is None else queue.shape[0])
    settings = {"temperature": temperature, "tile": chosen_tile(tile, rows, num_candidates)}
    sums = log_sum_exp(rows, others, mask_group=1, **settings)
    if queue is not None:
        # Joined to one [n, 2b + k] the logits would be split by rows, and every device would need
        # the whole queue. Apart, a sharded queue stays where it is; z, its gradient and sums of
        # [n] travel.
        past = log_sum_exp(rows, jax.lax.stop_gradient(queue), **settings)
        sums = jnp.logaddexp(sums, past)
    pairs = rows.reshape(z.shape)
    partners = (pairs if others is None else others.reshape(z.shape))[:, ::-1]
    positives = jnp.sum(pairs * partners, axis=-1).reshape(-1) / temperature
    return (sums - positives).mean()


def contrastive_metrics(
    z: Float[Array, "b v d"], *, temperature: float, tile: int | None = None
) -> Metrics:
    """How well the first view of each image finds its second among all b second views.

    As the official code measures it: one direction, b candidates, views of the same
    side never compared (tf2/metrics.py).

    Args:
      z: projections, [b, 2, d], as for `nt_xent`.
      temperature: divides the cosine similarity.
      tile: candidates at a time, as for `nt_xent`.

    Returns:
      "contrastive_accuracy": share of images whose own second view is the most similar,
      in [0, 1]; "contrastive_entropy": mean entropy in nats of the softmax over
      candidates, log(b) when it cannot tell them apart.

    Raises:
      ValueError: if z is not [b, 2, d], or the tile is below 1.
    """
    check_two_views(z, "contrastive_metrics")
    z = jax.lax.stop_gradient(l2_normalize(at_least_float32(z)))
    tile = chosen_tile(tile, z.reshape(-1, z.shape[-1]), 2 * z.shape[0])
    if tile is not None:
        # All rows, as `nt_xent` gathers them: on a TPU XLA then does it once for both.
        candidates = replicate(z.reshape(-1, z.shape[-1])).reshape(z.shape)[:, 1]
        best, entropy = top_and_entropy(z[:, 0], candidates, temperature=temperature, tile=tile)
        accuracy = (best == jnp.arange(z.shape[0])).mean()
        return {"contrastive_accuracy": accuracy, "contrastive_entropy": entropy.mean()}
    logits = similarities(z[:, 0], z[:, 1]) / temperature  # [b, b]
    log_p = jax.nn.log_softmax(logits)
    accuracy = (jnp.argmax(logits, axis=-1) == jnp.arange(z.shape[0])).mean()
    return {
        "contrastive_accuracy": accuracy,
        "contrastive_entropy": -(jnp.exp(log_p) * log_p).sum(-1).mean(),
    }
