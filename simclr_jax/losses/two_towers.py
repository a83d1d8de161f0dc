"""Losses of two towers: pairs of rows, such as an image and its caption, among all of the batch.

Row i of the first tower and row i of the second are a pair. Rows may have any length: only
directions count, times a scale exp(log_scale) that is learned. A method keeps it below 100 by
clipping the parameter after each update: a bound within the loss would have no gradient beyond it.

Radford et al. 2021, https://arxiv.org/abs/2103.00020 (CLIP)
Zhai et al. 2023, https://arxiv.org/abs/2303.15343 (SigLIP)
Yang et al. 2022, https://arxiv.org/abs/2204.03610 (UniCL)
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from simclr_jax.core.types import Metrics, Scalar
from simclr_jax.losses.both_ways import log_sum_exp_both_ways
from simclr_jax.losses.similarity import (
    check_other_images,
    numbered,
    similarities,
    unit_rows,
)
from simclr_jax.losses.tiled import TILE, split_tiles

DUPLICATES = ("ignore", "multi_positive", "plain")
EXCHANGES = ("ring", "gather")


class BothWays(NamedTuple):
    """A symmetric loss and its halves, in nats.

    A gap between the halves says that the rows of one tower have a direction in common.
    """

    loss: Scalar
    first_to_second: Scalar
    second_to_first: Scalar


def symmetric_info_nce(
    first: Float[Array, "n d"],
    second: Float[Array, "n d"],
    *,
    log_scale: Scalar,
    ids: Int[Array, " n"] | None = None,
    duplicates: str = "ignore",
    tile: int | None = None,
) -> BothWays:
    """Cross entropy of each row's partner among all rows of the other tower, in both directions.

    Args:
      first: one row for each pair of the global batch, any length.
      second: likewise.
      log_scale: logarithm of what multiplies the cosines; ln(1 / 0.07) at the start of CLIP.
      ids: equal numbers mark pairs that mean the same, as those with one caption do; None if no
        two do.
      duplicates: part that a row's duplicates in the other tower play: they are left out
        ("ignore"); positives with equal shares ("multi_positive"), which does not help where their
        rows are equal, too; or negatives ("plain").
      tile: rows compared at a time, which takes memory in proportion to n * (d + tile) and not
        to n^2; the same value and gradients but for rounding. None: a good size.

    Returns:
      The mean of both halves, each a mean over n in nats; log(n) when all cosines are equal and
      no row is left out. Gradients reach both towers and the scale.

    Raises:
      ValueError: if there is one pair only, `duplicates` is none of these, or the tile is below 1.

    Source: Radford et al., Figure 3; multi-positive: Yang et al., Equations 2 to 4.
    """
    if duplicates not in DUPLICATES:
        raise ValueError(f"duplicates must be one of {[*DUPLICATES]}, got {duplicates!r}.")
    check_other_images(first.shape[0], "symmetric_info_nce")
    first, second = jnp.exp(log_scale) * unit_rows(first), unit_rows(second)
    ignored = ids if duplicates == "ignore" else None
    sums = log_sum_exp_both_ways(first, second, ids=ignored, tile=tile)
    partners = (second, first)
    if ids is not None and duplicates == "multi_positive":
        partners = tuple(_mean_of_equals(x, ids) for x in partners)
    halves = [
        (total - jnp.sum(rows * partner, axis=-1)).mean()
        for total, rows, partner in zip(sums, (first, second), partners, strict=True)
    ]
    return BothWays((halves[0] + halves[1]) / 2, halves[0], halves[1])


def sigmoid_pairs(
    first: Float[Array, "n d"],
    second: Float[Array, "n d"],
    *,
    log_scale: Scalar,
    bias: Scalar,
    ids: Int[Array, " n"] | None = None,
    exchange: str = "ring",
    tile: int | None = None,
) -> Scalar:
    """Binary cross entropy of "is this a pair?" for each row of one tower with each of the other.

    sum_ij softplus(-y_ij z_ij) / n with logits z = scale * cosine + bias, where y is 1 for a pair
    and -1 otherwise. Divided by n, and not by n^2.

    Args:
      first: one row for each pair of the global batch, any length.
      second: likewise.
      log_scale: logarithm of the scale, ln(10) at the start.
      bias: added to each logit; -10 at the start in the paper. -log(n - 1) is the logarithm of
        the odds in a batch of n, from which a small batch learns at once.
      ids: equal numbers mark rows that are pairs, too; None if only rows i and i are.
      exchange: way in which devices see the second rows of the others: "ring", each passes them
        on to the next until all have seen them, or "gather", all at once. The value is the same.
      tile: rows compared at a time; None: a good size.

    Returns:
      Mean over n in nats. Gradients reach both towers, the scale and the bias.

    Raises:
      ValueError: if `exchange` is none of these or the tile is below 1.

    Source: Equation 1, Algorithm 1 and Section 3.3.
    """
    if exchange not in EXCHANGES:
        raise ValueError(f"exchange must be one of {[*EXCHANGES]}, got {exchange!r}.")
    if tile is not None and tile < 1:
        raise ValueError(f"tile={tile}; it must be at least 1, or None for a good size.")
    n, mesh = first.shape[0], jax.typeof(first).sharding.mesh
    first, second = jnp.exp(log_scale) * unit_rows(first), unit_rows(second)
    ids = jnp.arange(n) if ids is None else ids
    tile = tile or TILE
    if mesh.empty or n % mesh.size:
        return _sigmoid_sum(_Rows(first, ids), _Rows(second, ids), bias, tile) / n

    axes, num_devices = mesh.axis_names, mesh.size
    passed_on = [(i, (i + 1) % num_devices) for i in range(num_devices)]

    def on_a_device(first: Array, second: Array, ids: Array, bias: Array) -> Array:
        rows, others = _Rows(first, ids), _Rows(second, ids)
        if exchange == "gather":
            others = _Rows(*(jax.lax.all_gather(x, axes, tiled=True) for x in others))
            return jax.lax.psum(_sigmoid_sum(rows, others, bias, tile), axes)

        def step(others: _Rows, _: None) -> tuple[_Rows, Array]:
            others = _Rows(*(jax.lax.ppermute(x, axes, passed_on) for x in others))
            return others, _sigmoid_sum(rows, others, bias, tile)

        own = _sigmoid_sum(rows, others, bias, tile)
        _, sums = jax.lax.scan(step, others, length=num_devices - 1)
        return jax.lax.psum(own + sums.sum(), axes)

    split, whole = PartitionSpec(axes), PartitionSpec()
    total = jax.shard_map(
        on_a_device, mesh=mesh, in_specs=(split, split, split, whole), out_specs=whole
    )
    return total(first, second, ids, bias) / n


def pair_metrics(
    first: Float[Array, "n d"], second: Float[Array, "n d"], ids: Int[Array, " n"] | None = None
) -> Metrics:
    """Returns how pairs lie on the sphere.

    Args:
      first: one row for each pair, any length.
      second: likewise.
      ids: equal numbers mark pairs that mean the same.

    Returns:
      "positive_cosine" and "negative_cosine", means over the pairs and over all other
      combinations; "modality_gap", the distance in [0, 2] between the mean rows of the towers
      (Liang et al. 2022, https://arxiv.org/abs/2203.02053); with ids "duplicates", the share of
      pairs that mean the same as an earlier one.
    """
    first, second = unit_rows(first), unit_rows(second)
    n = first.shape[0]
    positives = jnp.sum(first * second)
    all_cosines = jnp.sum(first.sum(axis=0) * second.sum(axis=0))
    gap = jnp.linalg.norm(first.mean(axis=0) - second.mean(axis=0))
    metrics = {
        "positive_cosine": positives / n,
        "negative_cosine": (all_cosines - positives) / (n * max(n - 1, 1)),
        "modality_gap": gap,
    }
    if ids is not None:
        distinct = jnp.max(numbered(ids)) + 1
        metrics["duplicates"] = 1 - distinct / n
    return metrics


def _mean_of_equals(rows: Array, ids: Array) -> Array:
    """Returns for each row the mean of the rows with its id."""
    groups, n = numbered(ids), rows.shape[0]
    sums = jax.ops.segment_sum(rows, groups, num_segments=n)
    sizes = jax.ops.segment_sum(jnp.ones_like(rows[:, 0]), groups, num_segments=n)
    return (sums / jnp.maximum(sizes, 1)[:, None])[groups]


class _Rows(NamedTuple):
    """Rows of a tower, and the ids of their pairs."""

    rows: Array
    ids: Array


def _sigmoid_sum(first: _Rows, second: _Rows, bias: Any, tile: int) -> Array:
    """Returns the sum of the losses of all combinations."""
    num_rows = second.rows.shape[0]
    tile = min(tile, num_rows)
    used = split_tiles(jnp.ones(num_rows, bool), tile)

    @jax.checkpoint  # the gradient computes the tile anew
    def of_tile(part: tuple[Array, Array, Array]) -> Array:
        rows, ids, used = part
        logits = similarities(first.rows, rows) + bias
        signed = jnp.where(first.ids[:, None] == ids[None, :], -logits, logits)
        return jnp.where(used[None, :], jax.nn.softplus(signed), 0).sum()

    return jax.lax.map(of_tile, (*(split_tiles(x, tile) for x in second), used)).sum()
