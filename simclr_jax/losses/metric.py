"""Losses of Euclidean distances between rows of the same and of different classes.

Hadsell et al. 2006, http://yann.lecun.com/exdb/publis/pdf/hadsell-chopra-lecun-06.pdf (margin)
Schroff et al. 2015, https://arxiv.org/abs/1503.03832 (triplets, semi-hard)
Hermans et al. 2017, https://arxiv.org/abs/1703.07737 (batch-hard)
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from simclr_jax.core.types import Metrics, Scalar
from simclr_jax.losses.similarity import similarities

MINING = ("all", "semi_hard", "batch_hard", "batch_hard_soft")


def margin_loss(
    x: Float[Array, "n d"], classes: Int[Array, " n"], *, margin: float
) -> tuple[Scalar, Metrics]:
    """Draws pairs of a class together, and others apart up to a margin.

    Mean over all pairs of D^2 / 2 if they are of one class, and max(0, margin - D)^2 / 2 if not.

    Args:
      x: rows, at the scale at which the margin is meant.
      classes: the same number for rows of the same class; -1 where unknown, which takes the row
        out of the loss.
      margin: distance at which rows of different classes are left alone, > 0.

    Returns:
      The mean, 0 if there is no pair; and the means over pairs of one and of different classes,
      "positive_term" and "negative_term".

    Source: Hadsell et al., Equation 4.
    """
    same, different = _pairs(classes)
    once = jnp.triu(jnp.ones_like(same), 1)
    squares = _squared_distances(x)
    terms = {
        "positive_term": (same & once, squares / 2),
        "negative_term": (different & once, jax.nn.relu(margin - _root(squares)) ** 2 / 2),
    }
    sums = [jnp.where(pairs, values, 0).sum() for pairs, values in terms.values()]
    counts = [pairs.sum() for pairs, _ in terms.values()]
    means = [total / jnp.maximum(n, 1) for total, n in zip(sums, counts, strict=True)]
    loss = (sums[0] + sums[1]) / jnp.maximum(counts[0] + counts[1], 1)
    return loss, dict(zip(terms, means, strict=True))


def triplet_loss(
    x: Float[Array, "n d"], classes: Int[Array, " n"], *, margin: float, mining: str
) -> Scalar:
    """Pulls every anchor nearer to rows of its class than to others, by a margin.

    With D_ap and D_an the distances of anchor a to a row p of its class and to a row n of another:

    - "all": mean of D_ap - D_an + margin over the triplets where that is positive.
    - "semi_hard": the same over those with 0 < D_an - D_ap <= margin.
    - "batch_hard": mean of max(0, D_ap - D_an + margin) over anchors, each with its farthest p
      and its nearest n.
    - "batch_hard_soft": log(1 + exp(D_ap - D_an)) in its place; there is no margin.

    "all" and "semi_hard" look at n^3 triplets, which are summed as they are made.

    Args:
      x: rows, at the scale at which the margin is meant.
      classes: the same number for rows of the same class; -1 where unknown, which takes the row
        out of the loss.
      margin: margin, > 0.
      mining: one of `MINING`.

    Returns:
      The mean, 0 and without gradient if there is no such triplet. When all rows are equal it is
      the margin, but for "batch_hard_soft", log 2, and "semi_hard", 0.

    Raises:
      ValueError: if the mining is unknown.

    Source: Schroff et al., Equations 2 to 4, with distances that are not squared; Hermans et al.,
      Equation 5.
    """
    if mining not in MINING:
        raise ValueError(f"mining={mining!r} is unknown; it must be one of {MINING}.")
    same, different = _pairs(classes)
    distances = _root(_squared_distances(x))
    if mining.startswith("batch_hard"):
        farthest = jnp.where(same, distances, -jnp.inf).max(axis=1)
        nearest = jnp.where(different, distances, jnp.inf).min(axis=1)
        anchors = same.any(axis=1) & different.any(axis=1)
        excess = jnp.where(anchors, farthest - nearest, 0.0)
        soft = mining == "batch_hard_soft"
        losses = jax.nn.softplus(excess) if soft else jax.nn.relu(excess + margin)
        return jnp.where(anchors, losses, 0.0).sum() / jnp.maximum(anchors.sum(), 1)

    @jax.checkpoint
    def mean(distances: Array) -> Array:
        gaps = distances[:, None, :] - distances[:, :, None]  # [a, p, n]
        used = same[:, :, None] & different[:, None, :] & (gaps < margin)
        if mining == "semi_hard":
            used &= gaps > 0
        number = used.sum(dtype=distances.dtype)  # which an int32 may not hold
        return jnp.where(used, margin - gaps, 0.0).sum() / jnp.maximum(number, 1)

    return mean(distances)


def _pairs(classes: Array) -> tuple[Bool[Array, "n n"], Bool[Array, "n n"]]:
    """Returns which pairs of different rows are of one class, and which of two."""
    known = classes >= 0
    both = known[:, None] & known[None, :]
    equal = classes[:, None] == classes[None, :]
    return both & equal & ~jnp.eye(classes.shape[0], dtype=bool), both & ~equal


def _squared_distances(x: Array) -> Float[Array, "n n"]:
    lengths = jnp.sum(x * x, axis=-1)
    squares = lengths[:, None] + lengths[None, :] - 2 * similarities(x, x)
    return jnp.maximum(squares, 0.0)


def _root(squares: Array) -> Array:
    """Returns the square root, whose gradient at 0 is 0."""
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1.0)), 0.0)
