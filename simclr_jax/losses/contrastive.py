"""Contrastive losses on global arrays.

Each loss is a pure function of embeddings. None knows of devices: under `jit`,
rows stay sharded along the batch and XLA gathers the one [n, d] operand that
every row must see.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from simclr_jax.core.placement import replicate
from simclr_jax.core.types import Metrics, Scalar
from simclr_jax.losses.tiled import (
    TILE,
    log_sum_exp_against,
    log_sum_exp_within,
    top_and_entropy,
)

# More rows than this are contrasted in tiles, and so are fewer that have a long queue if a device
# would hold more similarities than those of so many rows: at 8192, the batch of 4096 that the
# papers train with, they are 256 MB in float32, and sharded they are little beside activations.
MAX_DENSE_ROWS = 8192


def l2_normalize(x: Float[Array, "*b d"], eps: float = 1e-12) -> Float[Array, "*b d"]:
    """Scales each row to unit length; a row shorter than sqrt(eps) stays short and finite."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), eps))


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
        gradient but for rounding. None: all at once up to `MAX_DENSE_ROWS` rows of z, if with
        the queue no device holds more than the square of that, and in tiles of a good size above.

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
    _check_two_views(z, "nt_xent")
    if keys is not None and keys.shape != z.shape:
        raise ValueError(f"nt_xent needs keys of the shape of z, {z.shape}, got {keys.shape}.")
    z = _unit_rows(z)  # [n, d]
    keys = None if keys is None else jax.lax.stop_gradient(_unit_rows(keys))
    queue = None if queue is None else jax.lax.stop_gradient(queue)
    tile = _chosen_tile(tile, z, 0 if queue is None else queue.shape[0])
    if tile is not None:
        return _tiled_nt_xent(z, keys, queue, temperature, tile)
    candidates = z if keys is None else keys
    logits = _similarities(z, candidates) / temperature  # [n, n]
    logits = jnp.where(jnp.eye(z.shape[0], dtype=bool), -jnp.inf, logits)
    positives = jnp.arange(z.shape[0]) ^ 1
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, positives)
    if queue is not None:
        past = _similarities(z, queue) / temperature  # [n, k]
        # log(A + B) = log A + softplus(log B - log A). Joined to one [n, 2b + k] the logits
        # would be split by rows, and every device would need the whole queue. Apart, a
        # sharded queue stays where it is; z, its gradient and sums of [n] travel.
        more = jax.nn.logsumexp(past, axis=-1) - jax.nn.logsumexp(logits, axis=-1)
        losses = losses + jax.nn.softplus(more)
    return losses.mean()


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
    _check_two_views(z, "contrastive_metrics")
    z = jax.lax.stop_gradient(l2_normalize(_at_least_float32(z)))
    tile = _chosen_tile(tile, z.reshape(-1, z.shape[-1]))
    if tile is not None:
        # All rows, as `nt_xent` gathers them: on a TPU XLA then does it once for both.
        candidates = replicate(z.reshape(-1, z.shape[-1])).reshape(z.shape)[:, 1]
        best, entropy = top_and_entropy(z[:, 0], candidates, temperature=temperature, tile=tile)
        accuracy = (best == jnp.arange(z.shape[0])).mean()
        return {"contrastive_accuracy": accuracy, "contrastive_entropy": entropy.mean()}
    logits = _similarities(z[:, 0], z[:, 1]) / temperature  # [b, b]
    log_p = jax.nn.log_softmax(logits)
    accuracy = (jnp.argmax(logits, axis=-1) == jnp.arange(z.shape[0])).mean()
    return {
        "contrastive_accuracy": accuracy,
        "contrastive_entropy": -(jnp.exp(log_p) * log_p).sum(-1).mean(),
    }


def _tiled_nt_xent(
    z: Float[Array, "n d"],
    keys: Float[Array, "n d"] | None,
    queue: Float[Array, "k d"] | None,
    temperature: float,
    tile: int,
) -> Scalar:
    pairs = z.reshape(-1, 2, z.shape[-1])
    partners = (pairs if keys is None else keys.reshape(pairs.shape))[:, ::-1]
    positives = jnp.sum(pairs * partners, axis=-1).reshape(-1) / temperature
    settings = {"temperature": temperature, "tile": tile}
    if keys is None:
        sums = log_sum_exp_within(z, **settings)
    else:
        sums = log_sum_exp_against(z, keys, skip_own=True, **settings)
    if queue is not None:
        sums = jnp.logaddexp(sums, log_sum_exp_against(z, queue, skip_own=False, **settings))
    return (sums - positives).mean()


def _chosen_tile(tile: int | None, z: Float[Array, "n d"], num_past: int = 0) -> int | None:
    if tile is None:
        num_rows, mesh = z.shape[0], jax.typeof(z).sharding.mesh
        on_a_device = num_rows * (num_rows + num_past) // (1 if mesh.empty else mesh.size)
        large = num_rows > MAX_DENSE_ROWS or on_a_device > MAX_DENSE_ROWS**2
        return TILE if large else None
    if tile < 1:
        raise ValueError(f"tile={tile}; it must be at least 1, or None to choose by size.")
    return tile


def _check_two_views(z: Float[Array, "..."], name: str) -> None:
    if z.ndim != 3 or z.shape[1] != 2:
        raise ValueError(f"{name} needs z of shape [b, 2, d], got {z.shape}.")


def _unit_rows(z: Float[Array, "b v d"]) -> Float[Array, "n d"]:
    return l2_normalize(_at_least_float32(z)).reshape(-1, z.shape[-1])


def _similarities(z: Float[Array, "n d"], candidates: Float[Array, "k d"]) -> Float[Array, "n k"]:
    return jnp.matmul(z, candidates.T, precision=jax.lax.Precision.HIGHEST)


def _at_least_float32(z: Float[Array, "..."]) -> Float[Array, "..."]:
    return z.astype(jnp.promote_types(z.dtype, jnp.float32))
