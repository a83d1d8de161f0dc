"""Which images to label next, from their features alone; and what their labels would be worth."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from simclr_jax.core.errors import UserError, did_you_mean
from simclr_jax.data.order import permutation
from simclr_jax.evals.features import Features
from simclr_jax.evals.linear import linear_probe, predict
from simclr_jax.losses.kmeans import spherical_kmeans
from simclr_jax.losses.similarity import l2_normalize, similarities

METHODS = ("coreset", "cluster", "random")
_ITERATIONS = 25  # of k-means; from spread centres it has settled before
_TILE = 4096  # rows that k-means compares with all centres at a time


def choose(
    features: Float[np.ndarray, "n d"],
    count: int,
    *,
    method: str = "coreset",
    seed: int = 0,
    known: Sequence[int] = (),
) -> Int[np.ndarray, " count"]:
    """Returns which images to label.

    Args:
      features: one row for each image, any scale; only directions matter.
      count: how many.
      method: "coreset", greedy k-center, which takes the image farthest from all that have been
        taken (Sener and Savarese 2018, https://arxiv.org/abs/1708.00489, Algorithm 1), in
        O(n * count * d) and without a matrix of distances; "cluster", the image nearest to each
        centre of spherical k-means, which starts from a coreset; or "random".
      seed: seed of a random choice, and of a coreset's first image where none is known.
      known: images that have a label already, which are not taken again; a coreset keeps its
        distance from them.

    Returns:
      Indices into `features`: of a coreset in the order in which they were taken, so that a
      shorter choice is the beginning of a longer one.

    Raises:
      UserError: if there is no such method, or there are not so many images.
    """
    require_method(method)
    rest = np.setdiff1d(np.arange(len(features)), np.asarray(known, np.int64))
    require_count(count, len(rest), len(features))
    if method == "random":
        return rest[permutation(len(rest), seed, 0)[:count]]
    rows = l2_normalize(jnp.asarray(features, jnp.float32))
    first = int(permutation(len(rest), seed, 0)[0])
    if method == "coreset":
        distances = _distances(rows, np.asarray(known, np.int64), rest)
        return rest[np.asarray(_cover(rows[rest], distances, first, count))]
    rows = rows[rest]
    start = rows[_cover(rows, jnp.full(len(rest), jnp.inf), first, count)]
    return rest[_nearest(np.asarray(rows), np.asarray(_centres(rows, start)))]


def require_method(method: str) -> None:
    """Raises a UserError if there is no such method."""
    if method not in METHODS:
        raise UserError(
            f"--method={method} is none of {', '.join(METHODS)}.{did_you_mean(method, METHODS)}"
        )


def require_count(count: int, num_free: int, num_images: int) -> None:
    """Raises a UserError if so many images cannot be chosen of those that have no label yet."""
    if not 1 <= count <= num_free:
        raise UserError(
            f"--count={count}: {num_free} of {num_images} images have no label yet; ask for 1 "
            f"to {num_free}."
        )


def require_counts(counts: Sequence[int], num_images: int) -> None:
    """Raises a UserError if a point of a learning curve has more labels than there are images."""
    if too_many := [count for count in counts if not 1 <= count <= num_images]:
        raise UserError(
            f"--curve={','.join(map(str, counts))}: {too_many[0]} labels of {num_images} images; "
            f"ask for 1 to {num_images} each."
        )


def learning_curve(
    train: Features,
    test: Features,
    counts: Sequence[int],
    *,
    method: str,
    num_classes: int,
    draws: int = 5,
) -> list[dict[str, Any]]:
    """Returns the accuracy of a linear probe on chosen labels, beside that on random ones.

    Args:
      train: what is chosen from; all with labels.
      test: what is judged on.
      counts: how many labels.
      method: one of `METHODS`.
      num_classes: number of classes.
      draws: choices of each kind, with the seeds 0, 1, ...

    Returns:
      A row for each count and kind: "count", "method", "top1" and "top1_std" over the draws.

    Raises:
      UserError: if a label is unknown, or there are not so many images.
    """
    for what, labels in (("to choose from", train.labels), ("to judge on", test.labels)):
        if (labels < 0).any():
            raise UserError(f"--curve: {(labels < 0).sum()} of the images {what} have no label.")
    require_counts(counts, len(train.features))
    rows = []
    for count in counts:
        for kind in dict.fromkeys((method, "random")):
            top1 = []
            for seed in range(draws):
                chosen = choose(train.features, count, method=kind, seed=seed)
                probe = linear_probe(
                    train.features[chosen], train.labels[chosen], num_classes=num_classes, seed=seed
                )
                top1.append(np.mean(np.asarray(predict(probe, test.features)) == test.labels))
            what = {"count": count, "method": kind, "draws": draws}
            rows.append({**what, "top1": float(np.mean(top1)), "top1_std": float(np.std(top1))})
    return rows


def _distances(
    rows: Float[Array, "n d"], known: Int[np.ndarray, " k"], rest: Int[np.ndarray, " m"]
) -> Float[Array, " m"]:
    """Returns how far each row of the rest is from the nearest known one; infinite without any."""
    nearest = jnp.full(len(rest), -jnp.inf)
    for start in range(0, len(known), _TILE):
        tile = rows[known[start : start + _TILE]]
        nearest = jnp.maximum(nearest, similarities(rows[rest], tile).max(axis=1))
    return 1 - nearest


@functools.partial(jax.jit, static_argnames="count")
def _cover(
    rows: Float[Array, "m d"],
    distances: Float[Array, " m"],
    first: Int[Array, ""] | int,
    count: int,
) -> Int[Array, " count"]:
    """Returns rows that are each the farthest from those before; `first` if nothing is known."""
    nothing_known = jnp.isinf(distances).all()

    def take(distances: Array, i: Array) -> tuple[Array, Array]:
        farthest = jnp.argmax(distances)
        taken = jnp.where((i == 0) & nothing_known, first, farthest)
        cosine = jnp.matmul(rows, rows[taken], precision=jax.lax.Precision.HIGHEST)  # [m]
        # Copies of what is taken have a distance of 0, what is taken itself less than any.
        distances = jnp.minimum(distances, jnp.maximum(1 - cosine, 0)).at[taken].set(-jnp.inf)
        return distances, taken

    return jax.lax.scan(take, distances, jnp.arange(count))[1]


def _centres(rows: Float[Array, "m d"], start: Float[Array, "k d"]) -> Float[Array, "k d"]:
    tiles = -(-len(rows) // _TILE)
    size = -(-len(rows) // tiles)
    padded = jnp.zeros((tiles * size, rows.shape[1])).at[: len(rows)].set(rows)
    known = jnp.arange(tiles * size).reshape(tiles, size) < len(rows)
    by_tile = padded.reshape(tiles, size, -1)
    return spherical_kmeans(by_tile, known, start, iterations=_ITERATIONS)[0]


def _nearest(
    rows: Float[np.ndarray, "m d"], centres: Float[np.ndarray, "k d"]
) -> Int[np.ndarray, " k"]:
    """Returns the row nearest to each centre that no centre before it has taken."""
    taken = np.zeros(len(rows), bool)
    for centre in centres:
        taken[np.argmax(np.where(taken, -np.inf, rows @ centre))] = True
    return np.flatnonzero(taken)
