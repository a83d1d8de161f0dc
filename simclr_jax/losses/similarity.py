"""Cosine similarities, and their log-sum-exp over candidates: all at once, or in tiles.

The contrastive losses share it. Nothing here knows of devices: under `jit`, rows stay sharded
along the batch and XLA gathers the one [n, d] operand that every row must see.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from simclr_jax.core.types import Scalar
from simclr_jax.losses.tiled import TILE, log_sum_exp_against, log_sum_exp_within

# More rows than this are contrasted in tiles, and so are fewer that have many candidates if a
# device would hold more similarities than those of so many rows: at 8192, the batch of 4096 that
# the papers train with, they are 256 MB in float32, and sharded they are little beside activations.
MAX_DENSE_ROWS = 8192


def l2_normalize(x: Float[Array, "*b d"], eps: float = 1e-12) -> Float[Array, "*b d"]:
    """Scales each row to unit length; a row shorter than sqrt(eps) stays short and finite."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), eps))


def unit_rows(z: Float[Array, "*b d"]) -> Float[Array, "n d"]:
    """Returns all rows of z at unit length, in float32 or better: row i * v + j is view j."""
    return l2_normalize(at_least_float32(z)).reshape(-1, z.shape[-1])


def similarities(z: Float[Array, "n d"], candidates: Float[Array, "k d"]) -> Float[Array, "n k"]:
    """Returns the product of each row with each candidate, in full precision on a TPU too."""
    return jnp.matmul(z, candidates.T, precision=jax.lax.Precision.HIGHEST)


def at_least_float32(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns x in float32, or as it is if that is more precise."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def numbered(labels: Int[Array, " b"]) -> Int[Array, " b"]:
    """Numbers the labels of this batch from 0, so that there are at most b of them."""
    _, numbers = jnp.unique(labels, size=labels.shape[0], return_inverse=True)
    return numbers


def unit_std(z: Float[Array, "*b d"]) -> Scalar:
    """Returns how far apart rows point: the mean over dimensions of the deviation of unit rows.

    0 when all have one direction, as after a collapse, and at most 1 / sqrt(d).
    """
    return unit_rows(z).std(axis=0).mean()


def log_sum_exp(
    z: Float[Array, "n d"],
    candidates: Float[Array, "k d"] | None = None,
    *,
    temperature: float | Scalar,
    mask_group: int = 0,
    candidate_mask: Bool[Array, " k"] | None = None,
    tile: int | None = None,
) -> Float[Array, " n"]:
    """Log of the sum of exp(similarity / temperature) of each row with its candidates.

    Args:
      z: rows of at most unit length.
      candidates: what each row is compared with; None: the rows of z.
      temperature: > 0; an array gets a gradient.
      mask_group: leaves candidate c out for row r where both have the same index // mask_group:
        with 1 the row's own, with v all views of its image; 0 leaves out none.
      candidate_mask: candidates that are compared; None: all.
      tile: candidates at a time, which takes memory in proportion to tile * (n + k) and not to
        n * k; the same value and gradients but for rounding. None: all at once, or in tiles of a
        good size for more rows than `MAX_DENSE_ROWS` or more similarities on a device than the
        square of that.

    Returns:
      [n] in nats; its gradient reaches rows and candidates. -inf, and no gradient, for a row
      without candidates.

    Raises:
      ValueError: if the tile is below 1.
    """
    masks = {"mask_group": mask_group, "candidate_mask": candidate_mask}
    tile = chosen_tile(tile, z, z.shape[0] if candidates is None else candidates.shape[0])
    if tile is None:
        others = z if candidates is None else candidates
        return _dense_log_sum_exp(z, others, temperature=temperature, **masks)
    if candidates is None:
        return log_sum_exp_within(z, temperature=temperature, tile=tile, **masks)
    return log_sum_exp_against(z, candidates, temperature=temperature, tile=tile, **masks)


def chosen_tile(tile: int | None, z: Float[Array, "n d"], num_candidates: int) -> int | None:
    """Returns the tile asked for, or a good one for so many rows and candidates; None: no tiles.

    Raises:
      ValueError: if the tile is below 1.
    """
    if tile is None:
        num_rows, mesh = z.shape[0], jax.typeof(z).sharding.mesh
        on_a_device = num_rows * num_candidates // (1 if mesh.empty else mesh.size)
        large = num_rows > MAX_DENSE_ROWS or on_a_device > MAX_DENSE_ROWS**2
        return TILE if large else None
    if tile < 1:
        raise ValueError(f"tile={tile}; it must be at least 1, or None to choose by size.")
    return tile


def check_two_views(z: Float[Array, "..."], name: str) -> None:
    """Checks the shape of projections.

    Raises:
      ValueError: if z is not [b, 2, d].
    """
    if z.ndim != 3 or z.shape[1] != 2:
        raise ValueError(f"{name} needs z of shape [b, 2, d], got {z.shape}.")


def check_other_images(num_images: int, name: str) -> None:
    """Checks that each image has others in its batch.

    Raises:
      ValueError: if there is one image only.
    """
    if num_images < 2:
        raise ValueError(f"{name} compares the examples of a batch; it needs 2 or more.")


def _dense_log_sum_exp(
    z: Array,
    candidates: Array,
    *,
    temperature: float | Array,
    mask_group: int,
    candidate_mask: Array | None,
) -> Array:
    logits = similarities(z, candidates) / temperature  # [n, k]
    if mask_group:
        groups = [jnp.arange(x.shape[0]) // mask_group for x in (z, candidates)]
        logits = jnp.where(groups[0][:, None] == groups[1][None, :], -jnp.inf, logits)
    if candidate_mask is None:
        return jax.nn.logsumexp(logits, axis=-1)
    logits = jnp.where(candidate_mask[None, :], logits, -jnp.inf)
    some = jnp.any(logits > -jnp.inf, axis=-1)
    # The gradient of log(0) would be nan, also where nothing uses it.
    sums = jax.nn.logsumexp(jnp.where(some[:, None], logits, 0.0), axis=-1)
    return jnp.where(some, sums, -jnp.inf)
