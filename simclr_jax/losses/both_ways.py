"""Log-sum-exp of the similarities of two sets of rows, both ways at once and in tiles.

What a symmetric InfoNCE needs: for each row of the first set the sum over the second, and for each
row of the second the sum over the first. Both see the same similarities, so one product for each
tile serves both, and two more in the gradient, which computes the tile anew instead of keeping it
(as `losses.tiled` does). Four products of n^2 d in all, where keeping all similarities takes six.

The first rows stay on their devices. The second are gathered once, and what the devices add up
for them is kept apart until the loop is over: there are no messages within it.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from simclr_jax.core.placement import replicate, shard_batch
from simclr_jax.losses.tiled import TILE, split_tiles

_HIGHEST = jax.lax.Precision.HIGHEST


def log_sum_exp_both_ways(
    first: Float[Array, "n d"],
    second: Float[Array, "n d"],
    *,
    ids: Int[Array, " n"] | None = None,
    tile: int | None = None,
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Log of the sum of exp(product) of each row with all rows of the other set.

    Row i of the one set and row i of the other are a pair.

    Args:
      first: rows of any length; a scale or a temperature is multiplied in before.
      second: likewise.
      ids: equal numbers mark pairs that mean the same; such rows are left out of each other's
        sums, and only their own pair stays. None: nothing is left out.
      tile: rows of the second set at a time, at least 1; it need not divide n. None: a good size.

    Returns:
      Sums of the first rows and of the second, [n] in nats; gradients reach both sets.

    Raises:
      ValueError: if the tile is below 1.
    """
    if tile is not None and tile < 1:
        raise ValueError(f"tile={tile}; it must be at least 1, or None for a good size.")
    return _both_ways(first, second, ids, min(tile or TILE, second.shape[0]))


class _Tile(NamedTuple):
    """One tile of the second set, or all tiles along a first dimension that a scan takes away."""

    rows: Array  # [tile, d]
    indices: Array  # [tile], of the rows
    ids: Array | None  # [tile]


class _Parts(NamedTuple):
    """The first set, split into the parts that lie on the p devices."""

    rows: Array  # [p, n / p, d]
    indices: Array  # [p, n / p]
    ids: Array | None  # [p, n / p]


def _parts(first: Array, ids: Array | None) -> _Parts:
    n, mesh = first.shape[0], jax.typeof(first).sharding.mesh
    num_parts = 1 if mesh.empty or n % mesh.size else mesh.size
    split = lambda x: shard_batch(x.reshape(num_parts, n // num_parts, *x.shape[1:]))
    return _Parts(split(first), split(jnp.arange(n)), None if ids is None else split(ids))


def _tiles(second: Array, ids: Array | None, tile: int) -> _Tile:
    rows = split_tiles(replicate(second), tile)
    indices = jnp.arange(rows.shape[0] * tile).reshape(-1, tile)
    return _Tile(rows, indices, None if ids is None else split_tiles(replicate(ids), tile))


def _logits(parts: _Parts, tile: _Tile, n: int) -> Array:
    """Returns the products [p, n / p, tile]; -inf for those left out."""
    logits = jnp.einsum("pid,jd->pij", parts.rows, tile.rows, precision=_HIGHEST)
    used = (tile.indices < n)[None, None, :]
    if parts.ids is not None and tile.ids is not None:
        own = parts.indices[..., None] == tile.indices[None, None, :]
        used &= own | (parts.ids[..., None] != tile.ids[None, None, :])
    return jnp.where(used, logits, -jnp.inf)


def _sums(first: Array, second: Array, ids: Array | None, tile: int) -> tuple[Array, Array]:
    n, parts = first.shape[0], _parts(first, ids)

    def add(carry: tuple[Array, Array], column: _Tile) -> tuple[Any, Array]:
        top, total = carry
        logits = _logits(parts, column, n)
        new_top = jnp.maximum(top, logits.max(axis=2))
        new = jnp.exp(logits - new_top[..., None]).sum(axis=2)
        # Of the second rows, what each device adds: [p, tile].
        return (new_top, total * jnp.exp(top - new_top) + new), jax.nn.logsumexp(logits, axis=1)

    # A finite start, because all of a first tile may be left out.
    start = jnp.full_like(parts.rows[..., 0], jnp.finfo(first.dtype).min)
    columns = _tiles(second, ids, tile)
    (top, total), partial = jax.lax.scan(add, (start, jnp.zeros_like(start)), columns)
    of_second = jax.nn.logsumexp(partial, axis=1)  # over the devices
    return (top + jnp.log(total)).reshape(n), of_second.reshape(-1)[:n]


def _forward(first: Array, second: Array, ids: Array | None, tile: int) -> tuple[Any, Any]:
    sums = _sums(first, second, ids, tile)
    return sums, (first, second, ids, sums)


def _backward(tile: int, kept: Any, grads: tuple[Array, Array]) -> tuple[Array, Array, None]:
    first, second, ids, sums = kept
    n, parts = first.shape[0], _parts(first, ids)
    values, grad = (x.reshape(parts.indices.shape)[..., None] for x in (sums[0], grads[0]))
    of_columns = [split_tiles(replicate(x), tile) for x in (sums[1], grads[1])]

    def add(total: Array, part: tuple[_Tile, list[Array]]) -> tuple[Array, Array]:
        column, (column_values, column_grad) = part
        logits = _logits(parts, column, n)
        weights = grad * jnp.exp(logits - values)
        weights += column_grad[None, None, :] * jnp.exp(logits - column_values[None, None, :])
        total += jnp.einsum("pij,jd->pid", weights, column.rows, precision=_HIGHEST)
        of_second = jnp.einsum("pij,pid->pjd", weights, parts.rows, precision=_HIGHEST)
        return total, shard_batch(of_second)

    columns = _tiles(second, ids, tile)
    of_first, partial = jax.lax.scan(add, jnp.zeros_like(parts.rows), (columns, of_columns))
    of_second = partial.sum(axis=1).reshape(-1, second.shape[1])[:n]
    return of_first.reshape(first.shape), shard_batch(of_second), None


_both_ways = jax.custom_vjp(_sums, nondiff_argnums=(3,))
_both_ways.defvjp(_forward, _backward)
