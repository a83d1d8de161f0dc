"""Log-sum-exp over many candidates in tiles: memory O(n), where all similarities take O(n^2).

`log_sum_exp_within` and `log_sum_exp_against` have their own gradients, which compute each tile
of similarities a second time instead of keeping it (as FlashAttention does for softmax, Dao et
al. 2022, https://arxiv.org/abs/2205.14135, Section 3.1). Two loops stand behind them:

- Columns compare all rows with one tile of candidates at a time, [n, tile]. Rows may be sharded:
  they stay where they are, and XLA gathers the candidates.
- Blocks compare one tile of rows with another, [tile, tile], each pair of tiles once for the
  rows and the columns, because similarities are symmetric. That takes two thirds of the
  products, but only one device can do it.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from simclr_jax.core.placement import replicate, shard_batch
from simclr_jax.core.types import Scalar

# Rows of a tile if none is asked for. On a CPU blocks of 512 and of 1024 rows take the same time
# within its noise, and blocks of 256 take 15 % more.
TILE = 512
# Of unit rows the largest logit possible, 1 / temperature, is subtracted, and exponentials are
# summed that may be as small as exp(-2 / temperature): exp(-80) is still a normal float32. What
# is colder, or longer, needs a running maximum, and passes twice over each column.
_COLDEST_BOUNDED = 0.025


class _Loop(NamedTuple):
    """What both passes of a loop need to know before they are traced."""

    temperature: float
    tile: int
    mask_group: int = 0
    bounded: bool = False  # no logit is above 1 / temperature
    blocks: bool = False


def log_sum_exp_within(
    z: Float[Array, "n d"],
    *,
    temperature: float | Scalar,
    mask_group: int = 1,
    candidate_mask: Bool[Array, " n"] | None = None,
    tile: int = TILE,
) -> Float[Array, " n"]:
    """Log of the sum of exp(similarity / temperature) of each row with the others.

    Uses blocks where it knows that z is on a mesh of one device, and columns otherwise.

    Args:
      z: rows of at most unit length.
      temperature: > 0; an array gets a gradient.
      mask_group: rows that follow each other, a divisor of n, and are not compared among
        themselves: 1 masks each row for itself, v also the other views of its image.
      candidate_mask: rows that the others are compared with; None: all.
      tile: rows of a tile, at least 1; it need not divide n.

    Returns:
      [n] in nats; its gradient reaches each row both as a row and as a candidate. -inf, and no
      gradient, for a row without candidates.
    """
    if isinstance(temperature, jax.Array):
        masks = {"mask_group": mask_group, "candidate_mask": candidate_mask}
        return log_sum_exp_against(z, z, temperature=temperature, tile=tile, **masks)
    bounded = temperature >= _COLDEST_BOUNDED
    blocks = bounded and _on_one_device(z)
    tile = min(tile, z.shape[0])
    if blocks:
        tile += -tile % mask_group  # a group lies in one tile
    return _within(z, candidate_mask, _Loop(temperature, tile, mask_group, bounded, blocks))


def log_sum_exp_against(
    z: Float[Array, "n d"],
    candidates: Float[Array, "k d"],
    *,
    temperature: float | Scalar,
    mask_group: int = 0,
    candidate_mask: Bool[Array, " k"] | None = None,
    tile: int = TILE,
) -> Float[Array, " n"]:
    """Log of the sum of exp(similarity / temperature) of each row with all candidates.

    Args:
      z: rows of any length.
      candidates: compared with each row, of any length.
      temperature: > 0; an array gets a gradient.
      mask_group: leaves candidate c out for row r where both have the same index // mask_group:
        with 1 the row's own, with v all views of its image; 0 leaves out none.
      candidate_mask: candidates that are compared; None: all.
      tile: candidates of a tile, at least 1; it need not divide k.

    Returns:
      [n] in nats; its gradient reaches rows and candidates. -inf, and no gradient, for a row
      without candidates.
    """
    if isinstance(temperature, jax.Array):
        z, temperature = z / temperature, 1.0
    return _against(z, candidates, candidate_mask, _Loop(temperature, tile, mask_group))


def top_and_entropy(
    z: Float[Array, "n d"], candidates: Float[Array, "k d"], *, temperature: float, tile: int
) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
    """The most similar candidate of each row, and how undecided its softmax is.

    Args:
      z: rows of any length.
      candidates: compared with each row.
      temperature: > 0.
      tile: candidates of a tile, at least 1; it need not divide k.

    Returns:
      Index of the most similar candidate, the first of equals, and the entropy in nats of the
      softmax over candidates, both [n]. No gradient is meant to pass.
    """
    z, loop = shard_batch(z), _Loop(temperature, tile)

    def add(carry: tuple[Array, ...], column: _Column) -> tuple[Any, None]:
        top, best, total, weighted = carry
        logits = _column_logits(z, column, candidates.shape[0], loop)
        column_top = logits.max(axis=1)
        best = jnp.where(column_top > top, column.first + logits.argmax(axis=1), best)
        new_top = jnp.maximum(top, column_top)
        # Logits relative to the maximum, whose mean under the softmax moves with it.
        below = logits - new_top[:, None]
        p = jnp.exp(below)
        fade = jnp.exp(top - new_top)
        weighted = fade * (weighted + (top - new_top) * total)
        weighted += jnp.where(p > 0, p * below, 0).sum(axis=1)
        return (new_top, best, fade * total + p.sum(axis=1), weighted), None

    columns = _columns(candidates, None, loop)
    zeros = jnp.zeros_like(z[:, 0])
    # Below any cosine over the temperature of unit rows, and finite.
    start = (zeros - 1e30, zeros.astype(columns.first.dtype), zeros, zeros)
    (_, best, total, weighted), _ = jax.lax.scan(add, start, columns)
    return best, jnp.log(total) - weighted / total


def _on_one_device(z: Float[Array, "n d"]) -> bool:
    """Whether z is known to be on one device, also while it is traced.

    Arrays outside a mesh, and shapes compiled ahead of time without shardings, tell nothing:
    blocks on rows that turn out to be sharded would be computed by every device.
    """
    mesh = jax.typeof(z).sharding.mesh
    return not mesh.empty and mesh.size == 1


class _Column(NamedTuple):
    """One tile of candidates, or all tiles along a first dimension that a scan takes away."""

    rows: Array  # [tile, d]
    first: Array  # index of the first
    mask: Array | None  # [tile]


def _columns(candidates: Array, mask: Array | None, loop: _Loop) -> _Column:
    tile = min(loop.tile, candidates.shape[0])
    rows = split_tiles(replicate(candidates), tile)
    mask = None if mask is None else split_tiles(replicate(mask), tile)
    return _Column(rows, tile * jnp.arange(len(rows)), mask)


def _column_logits(z: Array, column: _Column, num_candidates: int, loop: _Loop) -> Array:
    """Returns logits [n, tile] against a column; -inf for candidates left out."""
    logits = _product(z, column.rows.T) / loop.temperature
    indices = column.first + jnp.arange(column.rows.shape[0])[None, :]
    used = indices < num_candidates
    if loop.mask_group:
        used &= _groups(indices, loop) != _groups(jnp.arange(z.shape[0])[:, None], loop)
    if column.mask is not None:
        used &= column.mask[None, :]
    return jnp.where(used, logits, -jnp.inf)


def _sums_by_columns(z: Array, candidates: Array, mask: Array | None, loop: _Loop) -> Array:
    """Returns the log-sum-exp [n] of each row."""
    z, columns = shard_batch(z), _columns(candidates, mask, loop)

    def add_bounded(total: Array, column: _Column) -> tuple[Array, None]:
        logits = _column_logits(z, column, candidates.shape[0], loop)
        return total + jnp.exp(logits - 1 / loop.temperature).sum(axis=1), None

    if loop.bounded:
        total, _ = jax.lax.scan(add_bounded, jnp.zeros_like(z[:, 0]), columns)
        return jnp.log(total) + 1 / loop.temperature

    def add(carry: tuple[Array, Array], column: _Column) -> tuple[Any, None]:
        top, total = carry
        logits = _column_logits(z, column, candidates.shape[0], loop)
        new_top = jnp.maximum(top, logits.max(axis=1))
        new = jnp.exp(logits - new_top[:, None]).sum(axis=1)
        return (new_top, total * jnp.exp(top - new_top) + new), None

    # A finite start, because a first column may hold nothing but what is masked.
    start = jnp.full_like(z[:, 0], jnp.finfo(z.dtype).min)
    (top, total), _ = jax.lax.scan(add, (start, jnp.zeros_like(start)), columns)
    return top + jnp.log(total)


class _Sums(NamedTuple):
    """Log-sum-exps of rows, the gradient that reaches them, and the mask of their candidates."""

    values: Array
    grad: Array
    candidate_mask: Array | None


def _gradient_by_columns(
    z: Array, others: Array, loop: _Loop, *, of_z: _Sums | None, of_others: _Sums | None
) -> Array:
    """Returns the gradient [n, d] of z: as rows of sums, as candidates of others' sums, or both.

    Similarities are symmetric: both need the same logits.
    """
    z, columns = shard_batch(z), _columns(others, of_z and of_z.candidate_mask, loop)
    of_columns = of_others and tuple(_columns(x, None, loop).rows for x in of_others[:2])

    def add(total: Array, part: tuple[_Column, Any]) -> tuple[Array, None]:
        column, of_column = part
        logits = _column_logits(z, column._replace(mask=None), others.shape[0], loop)
        weights = []  # each [n, tile]
        if of_z is not None:
            weights += [_weights(logits, of_z._replace(candidate_mask=column.mask), axis=1)]
        if of_others is not None:
            values, grad = of_column
            of_column = _Sums(values, grad, of_others.candidate_mask)
            weights += [_weights(logits, of_column, axis=0)]
        return total + _product(functools.reduce(jnp.add, weights), column.rows), None

    total, _ = jax.lax.scan(add, jnp.zeros_like(z), (columns, of_columns))
    return total / loop.temperature


def _weights(logits: Array, sums: _Sums, axis: int) -> Array:
    """Returns the gradient of log-sum-exps along `axis` for each similarity."""
    values, grad = (jnp.expand_dims(x, axis) for x in sums[:2])
    weights = grad * jnp.exp(logits - values)
    if sums.candidate_mask is None:
        return weights
    return jnp.where(jnp.expand_dims(sums.candidate_mask, 1 - axis), weights, 0)


def _sums_by_blocks(z: Array, mask: Array | None, loop: _Loop) -> Array:
    """Returns the log-sum-exp [n] of each row over the others."""
    n = z.shape[0]
    used = jnp.ones_like(z[:, 0]) if mask is None else mask.astype(z.dtype)
    z, used = split_tiles(z, loop.tile), split_tiles(used, loop.tile)  # [m, tile, d], [m, tile]

    def add_row(i: Array, sums: Array) -> Array:
        def add(j: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            sums, own = carry
            block = _block(z[i], z[j], loop)
            return sums.at[j].add(_product(used[i], block)), own + _product(block, used[j])

        own = _product(_without_groups(_block(z[i], z[i], loop), loop), used[i])
        sums, own = jax.lax.fori_loop(i + 1, len(z), add, (sums, own))
        return sums.at[i].add(own)

    sums = jax.lax.fori_loop(0, len(z), add_row, jnp.zeros_like(used))
    return jnp.log(sums.reshape(-1)[:n]) + 1 / loop.temperature


def _gradient_by_blocks(z: Array, sums: _Sums, loop: _Loop) -> Array:
    """Returns the gradient [n, d] of z as rows and as candidates."""
    n, d = z.shape
    # Padded rows get no gradient, and being zero they give none. The largest scale is
    # exp(2 / temperature), again a normal float32.
    scale = split_tiles(sums.grad * jnp.exp(1 / loop.temperature - sums.values), loop.tile)
    used = None if sums.candidate_mask is None else split_tiles(sums.candidate_mask, loop.tile)
    z = split_tiles(z, loop.tile)

    def add_row(i: Array, total: Array) -> Array:
        def weights(j: Array) -> Array:
            of_rows, of_others = scale[i][:, None], scale[j][None, :]
            if used is not None:
                of_rows = jnp.where(used[j][None, :], of_rows, 0)
                of_others = jnp.where(used[i][:, None], of_others, 0)
            return _block(z[i], z[j], loop) * (of_rows + of_others)

        def add(j: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            total, own = carry
            w = weights(j)
            return total.at[j].add(_product(w.T, z[i])), own + _product(w, z[j])

        own = _product(_without_groups(weights(i), loop), z[i])
        total, own = jax.lax.fori_loop(i + 1, len(z), add, (total, own))
        return total.at[i].add(own)

    total = jax.lax.fori_loop(0, len(z), add_row, jnp.zeros_like(z))
    return total.reshape(-1, d)[:n] / loop.temperature


def _block(rows: Array, others: Array, loop: _Loop) -> Array:
    """Returns exp(logit - largest logit possible), [tile, tile]."""
    return jnp.exp((_product(rows, others.T) - 1) / loop.temperature)


def _without_groups(block: Array, loop: _Loop) -> Array:
    groups = _groups(jnp.arange(block.shape[0]), loop)
    return jnp.where(groups[:, None] == groups[None, :], 0, block)


def _groups(indices: Array, loop: _Loop) -> Array:
    return jax.lax.div(indices, loop.mask_group)  # of indices >= 0, and free for groups of one


def split_tiles(x: Shaped[Array, "n ..."], tile: int) -> Shaped[Array, "m tile ..."]:
    """Splits [n, ...] into [m, tile, ...], the last tile filled up with zeros."""
    pad = [(0, -x.shape[0] % tile)] + [(0, 0)] * (x.ndim - 1)
    return jnp.pad(x, pad).reshape(-1, tile, *x.shape[1:])


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _within_sums(z: Array, mask: Array | None, loop: _Loop) -> Array:
    return _sums_by_blocks(z, mask, loop) if loop.blocks else _sums_by_columns(z, z, mask, loop)


def _within_forward(z: Array, mask: Array | None, loop: _Loop) -> tuple[Array, Any]:
    sums = _within_sums(z, mask, loop)
    return sums, (z, mask, sums)


def _within_backward(loop: _Loop, kept: Any, grad: Array) -> tuple[Array, None]:
    z, mask, sums = kept
    of_z = _Sums(_no_weight_if_empty(sums), grad, mask)
    if loop.blocks:
        return _gradient_by_blocks(z, of_z, loop), None
    return _gradient_by_columns(z, z, loop, of_z=of_z, of_others=of_z), None


_within = jax.custom_vjp(_within_sums, nondiff_argnums=(2,))
_within.defvjp(_within_forward, _within_backward)


def _against_forward(
    z: Array, candidates: Array, mask: Array | None, loop: _Loop
) -> tuple[Array, Any]:
    sums = _sums_by_columns(z, candidates, mask, loop)
    return sums, (z, candidates, mask, sums)


def _against_backward(loop: _Loop, kept: Any, grad: Array) -> tuple[Array, Array, None]:
    z, candidates, mask, sums = kept
    of_z = _Sums(_no_weight_if_empty(sums), grad, mask)
    return (
        _gradient_by_columns(z, candidates, loop, of_z=of_z, of_others=None),
        _gradient_by_columns(candidates, z, loop, of_z=None, of_others=of_z),
        None,
    )


_against = jax.custom_vjp(_sums_by_columns, nondiff_argnums=(3,))
_against.defvjp(_against_forward, _against_backward)


def _no_weight_if_empty(sums: Array) -> Array:
    """Makes the softmax weights exp(logit - sum) of a row without candidates 0 instead of nan."""
    return jnp.where(jnp.isneginf(sums), jnp.inf, sums)
