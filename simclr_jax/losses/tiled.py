"""Log-sum-exp over many candidates in tiles: memory O(n), where all similarities take O(n^2).

`log_sum_exp_within` and `log_sum_exp_against` have their own gradients, which compute each tile
of similarities a second time instead of keeping it (as FlashAttention does for softmax, Dao et
al. 2022, https://arxiv.org/abs/2205.14135, Section 3.1). Two loops stand behind them:

- Strips compare all rows with one tile of candidates at a time, [n, tile]. Rows may be sharded:
  they stay where they are, and XLA gathers the candidates.
- Squares compare one tile of rows with another, [tile, tile], each pair of tiles once for the
  rows and the columns, because similarities are symmetric. That takes two thirds of the
  products, but only one device can do it.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from simclr_jax.core.placement import replicate, shard_batch

# Rows of a tile if none is asked for. On a CPU squares of 512 and of 1024 rows take the same time
# within its noise, and squares of 256 take 15 % more.
TILE = 512
# Of unit rows the largest logit possible, 1 / temperature, is subtracted, and exponentials are
# summed that may be as small as exp(-2 / temperature): exp(-80) is still a normal float32. What
# is colder, or longer, needs a running maximum, and passes twice over each strip.
_COLDEST_BOUNDED = 0.025


def log_sum_exp_within(
    z: Float[Array, "n d"], *, temperature: float, tile: int = TILE
) -> Float[Array, " n"]:
    """Log of the sum of exp(similarity / temperature) of each row with all other rows.

    Uses squares where it knows that z is on a mesh of one device, and strips otherwise.

    Args:
      z: rows of at most unit length.
      temperature: > 0.
      tile: rows of a tile, at least 1; it need not divide n.

    Returns:
      [n] in nats; its gradient reaches each row both as a row and as a candidate.
    """
    tile = min(tile, z.shape[0])
    squares = _on_one_device(z) and temperature >= _COLDEST_BOUNDED
    return _within(z, temperature, tile, squares)


def log_sum_exp_against(
    z: Float[Array, "n d"],
    candidates: Float[Array, "k d"],
    *,
    temperature: float,
    skip_own: bool,
    tile: int = TILE,
) -> Float[Array, " n"]:
    """Log of the sum of exp(similarity / temperature) of each row with all candidates.

    Args:
      z: rows of any length.
      candidates: compared with each row; no gradient reaches them.
      temperature: > 0.
      skip_own: leaves candidate r out for row r.
      tile: candidates of a tile, at least 1; it need not divide k.

    Returns:
      [n] in nats.
    """
    tile = min(tile, candidates.shape[0])
    return _against(z, jax.lax.stop_gradient(candidates), temperature, tile, skip_own)


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
    z = shard_batch(z)

    def add(carry: tuple[Array, ...], strip: tuple[Array, Array]) -> tuple[Any, None]:
        top, best, total, weighted = carry
        logits = _strip_logits(z, *strip, candidates.shape[0], temperature, skip_own=False)
        strip_top = logits.max(axis=1)
        best = jnp.where(strip_top > top, strip[1] + logits.argmax(axis=1), best)
        new_top = jnp.maximum(top, strip_top)
        # Logits relative to the maximum, whose mean under the softmax moves with it.
        below = logits - new_top[:, None]
        p = jnp.exp(below)
        fade = jnp.exp(top - new_top)
        weighted = fade * (weighted + (top - new_top) * total)
        weighted += jnp.where(p > 0, p * below, 0).sum(axis=1)
        return (new_top, best, fade * total + p.sum(axis=1), weighted), None

    tile = min(tile, candidates.shape[0])
    strips = _tiles(replicate(candidates), tile)
    firsts = tile * jnp.arange(len(strips))
    zeros = jnp.zeros_like(z[:, 0])
    # Below any cosine over the temperature of unit rows, and finite.
    start = (zeros - 1e30, zeros.astype(firsts.dtype), zeros, zeros)
    (_, best, total, weighted), _ = jax.lax.scan(add, start, (strips, firsts))
    return best, jnp.log(total) - weighted / total


def _on_one_device(z: Float[Array, "n d"]) -> bool:
    """Whether z is known to have one device, also while it is traced.

    Arrays outside a mesh, and shapes compiled ahead of time without shardings, tell nothing:
    squares on rows that turn out to be sharded would be computed by every device.
    """
    mesh = jax.typeof(z).sharding.mesh
    return not mesh.empty and mesh.size == 1


def _sums_by_strips(
    z: Array,
    candidates: Array,
    temperature: float,
    tile: int,
    skip_own: bool,
    bounded: bool = False,
) -> Array:
    """Returns the log-sum-exp [n] of each row; `bounded` if no logit is above 1 / temperature."""
    z = shard_batch(z)
    strips = _tiles(replicate(candidates), tile)
    firsts = tile * jnp.arange(len(strips))

    def add_bounded(total: Array, strip: tuple[Array, Array]) -> tuple[Array, None]:
        logits = _strip_logits(z, *strip, candidates.shape[0], temperature, skip_own)
        return total + jnp.exp(logits - 1 / temperature).sum(axis=1), None

    if bounded:
        total, _ = jax.lax.scan(add_bounded, jnp.zeros_like(z[:, 0]), (strips, firsts))
        return jnp.log(total) + 1 / temperature

    def add(carry: tuple[Array, Array], strip: tuple[Array, Array]) -> tuple[Any, None]:
        top, total = carry
        logits = _strip_logits(z, *strip, candidates.shape[0], temperature, skip_own)
        new_top = jnp.maximum(top, logits.max(axis=1))
        new = jnp.exp(logits - new_top[:, None]).sum(axis=1)
        return (new_top, total * jnp.exp(top - new_top) + new), None

    # A finite start, because a first strip may hold nothing but the row itself.
    start = jnp.full_like(z[:, 0], jnp.finfo(z.dtype).min)
    (top, total), _ = jax.lax.scan(add, (start, jnp.zeros_like(start)), (strips, firsts))
    return top + jnp.log(total)


def _gradient_by_strips(
    z: Array,
    candidates: Array,
    sums: Array,
    grad: Array,
    temperature: float,
    tile: int,
    *,
    skip_own: bool,
    both: bool = False,
) -> Array:
    """Returns the gradient [n, d] of z as rows, and with `both` as candidates too.

    Row r is candidate r of every other row, and similarities are symmetric: what the gradient
    of z as candidates needs are the same logits, less the sums of the candidates.
    """
    z = shard_batch(z)

    def add(total: Array, part: tuple[Array, ...]) -> tuple[Array, None]:
        strip, first, *of_strip = part
        logits = _strip_logits(z, strip, first, candidates.shape[0], temperature, skip_own)
        weights = grad[:, None] * jnp.exp(logits - sums[:, None])  # [n, tile]
        if both:
            strip_sums, strip_grad = of_strip
            weights += strip_grad[None, :] * jnp.exp(logits - strip_sums[None, :])
        return total + _product(weights, strip), None

    strips = _tiles(replicate(candidates), tile)
    firsts = tile * jnp.arange(len(strips))
    of_strips = tuple(_tiles(replicate(x), tile) for x in (sums, grad)) if both else ()
    total, _ = jax.lax.scan(add, jnp.zeros_like(z), (strips, firsts, *of_strips))
    return total / temperature


def _strip_logits(
    z: Array,
    strip: Array,
    first: Array,
    num_candidates: int,
    temperature: float,
    skip_own: bool,
) -> Array:
    """Returns logits [n, tile] against candidates `first` and up; -inf for those left out."""
    logits = _product(z, strip.T) / temperature
    columns = first + jnp.arange(strip.shape[0])[None, :]
    used = columns < num_candidates
    if skip_own:
        used &= columns != jnp.arange(z.shape[0])[:, None]
    return jnp.where(used, logits, -jnp.inf)


def _sums_by_squares(z: Array, temperature: float, tile: int) -> Array:
    """Returns the log-sum-exp [n] of each row over all other rows."""
    n = z.shape[0]
    z, real = _tiles(z, tile), _tiles(jnp.ones_like(z[:, 0]), tile)  # [m, tile, d], [m, tile]

    def add_row(i: Array, sums: Array) -> Array:
        def add(j: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            sums, own = carry
            square = _square(z[i], z[j], temperature)
            return sums.at[j].add(_product(real[i], square)), own + _product(square, real[j])

        own = _product(_without_diagonal(_square(z[i], z[i], temperature)), real[i])
        sums, own = jax.lax.fori_loop(i + 1, len(z), add, (sums, own))
        return sums.at[i].add(own)

    sums = jax.lax.fori_loop(0, len(z), add_row, jnp.zeros_like(real))
    return jnp.log(sums.reshape(-1)[:n]) + 1 / temperature


def _gradient_by_squares(
    z: Array, sums: Array, grad: Array, temperature: float, tile: int
) -> Array:
    """Returns the gradient [n, d] of z as rows and as candidates."""
    n, d = z.shape
    # Padded rows get no gradient, and being zero they give none. The largest scale is
    # exp(2 / temperature), again a normal float32.
    z, scale = _tiles(z, tile), _tiles(grad * jnp.exp(1 / temperature - sums), tile)

    def add_row(i: Array, total: Array) -> Array:
        weights = lambda j: (
            _square(z[i], z[j], temperature) * (scale[i][:, None] + scale[j][None, :])
        )

        def add(j: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            total, own = carry
            w = weights(j)
            return total.at[j].add(_product(w.T, z[i])), own + _product(w, z[j])

        own = _product(_without_diagonal(weights(i)), z[i])
        total, own = jax.lax.fori_loop(i + 1, len(z), add, (total, own))
        return total.at[i].add(own)

    total = jax.lax.fori_loop(0, len(z), add_row, jnp.zeros_like(z))
    return total.reshape(-1, d)[:n] / temperature


def _square(rows: Array, columns: Array, temperature: float) -> Array:
    """Returns exp(logit - largest logit possible), [tile, tile]."""
    return jnp.exp((_product(rows, columns.T) - 1) / temperature)


def _without_diagonal(square: Array) -> Array:
    return jnp.where(jnp.eye(square.shape[0], dtype=bool), 0, square)


def _tiles(x: Array, tile: int) -> Array:
    """Splits [n, ...] into [m, tile, ...], the last tile filled up with zeros."""
    pad = [(0, -x.shape[0] % tile)] + [(0, 0)] * (x.ndim - 1)
    return jnp.pad(x, pad).reshape(-1, tile, *x.shape[1:])


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _within_sums(z: Array, temperature: float, tile: int, squares: bool) -> Array:
    if squares:
        return _sums_by_squares(z, temperature, tile)
    bounded = temperature >= _COLDEST_BOUNDED
    return _sums_by_strips(z, z, temperature, tile, skip_own=True, bounded=bounded)


def _within_forward(
    z: Array, temperature: float, tile: int, squares: bool
) -> tuple[Array, tuple[Array, Array]]:
    sums = _within_sums(z, temperature, tile, squares)
    return sums, (z, sums)


def _within_backward(
    temperature: float, tile: int, squares: bool, kept: tuple[Array, Array], grad: Array
) -> tuple[Array]:
    z, sums = kept
    if squares:
        return (_gradient_by_squares(z, sums, grad, temperature, tile),)
    return (_gradient_by_strips(z, z, sums, grad, temperature, tile, skip_own=True, both=True),)


_within = jax.custom_vjp(_within_sums, nondiff_argnums=(1, 2, 3))
_within.defvjp(_within_forward, _within_backward)


def _against_sums(
    z: Array, candidates: Array, temperature: float, tile: int, skip_own: bool
) -> Array:
    return _sums_by_strips(z, candidates, temperature, tile, skip_own)


def _against_forward(
    z: Array, candidates: Array, temperature: float, tile: int, skip_own: bool
) -> tuple[Array, tuple[Array, Array, Array]]:
    sums = _sums_by_strips(z, candidates, temperature, tile, skip_own)
    return sums, (z, candidates, sums)


def _against_backward(
    temperature: float,
    tile: int,
    skip_own: bool,
    kept: tuple[Array, Array, Array],
    grad: Array,
) -> tuple[Array, Array]:
    z, candidates, sums = kept
    grad = _gradient_by_strips(z, candidates, sums, grad, temperature, tile, skip_own=skip_own)
    return grad, jnp.zeros_like(candidates)


_against = jax.custom_vjp(_against_sums, nondiff_argnums=(2, 3, 4))
_against.defvjp(_against_forward, _against_backward)
