"""Whether an encoder serves groups of images alike: means by group, and gaps with intervals."""

import collections
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from simclr_jax.core.errors import UserError
from simclr_jax.losses.similarity import l2_normalize

NEIGHBOURS = 10
CONFIDENCE = 0.95
_ROWS_AT_ONCE = 256


def require_comparable(groups: Sequence[str], where: str = "") -> None:
    """Checks the group of each image.

    Args:
      groups: group of each image.
      where: begins the message, such as "--groups=FILE: ".

    Raises:
      UserError: if a group has one image, or there are no two groups.
    """
    sizes = collections.Counter(groups).values()
    if len(sizes) < 2 or min(sizes) < 2:
        raise UserError(
            f"{where}{len(sizes)} groups, the smallest of {min(sizes, default=0)} images: a "
            "comparison needs two groups or more, of two images or more each."
        )


def measure_images(
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    groups: Sequence[str],
    correct: Mapping[str, Bool[np.ndarray, " n"]],
) -> dict[str, Float[np.ndarray, " n"]]:
    """Returns what is compared between groups, by name, of each image.

    Args:
      features: any scale; only directions matter.
      labels: class of each image.
      groups: group of each image.
      correct: whether an image was classified correctly, by protocol.

    Returns:
      Accuracies as in `correct`; "class purity" and "group purity", the share of the `NEIGHBOURS`
      nearest other images that are of its class or of its group; and "similarity", the mean cosine
      with the other images of its group: the larger, the less the encoder tells them apart.

    Raises:
      UserError: if a group has one image, or there are no two groups.
    """
    require_comparable(groups)
    _, own = np.unique(groups, return_inverse=True)
    sizes = np.bincount(own)
    rows = np.asarray(l2_normalize(jnp.asarray(features, jnp.float32)), np.float64)
    nearest = np.asarray(_nearest(jnp.asarray(rows, jnp.float32), min(NEIGHBOURS, len(rows) - 1)))
    sums = np.zeros((len(sizes), rows.shape[1]))
    np.add.at(sums, own, rows)
    with_others = np.sum(rows * (sums[own] - rows), axis=1)
    return {
        **{name: hits.astype(np.float64) for name, hits in correct.items()},
        "class purity": (labels[nearest] == labels[:, None]).mean(axis=1),
        "group purity": (own[nearest] == own[:, None]).mean(axis=1),
        "similarity": with_others / (sizes[own] - 1),
    }


def compare_groups(
    values: Mapping[str, Float[np.ndarray, " n"]],
    groups: Sequence[str],
    *,
    draws: int = 1000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Returns the mean of each measure in each group, and its gap to all other images.

    Args:
      values: measures of each image, by name.
      groups: group of each image, at least two different ones.
      draws: bootstrap samples; images are drawn with replacement within the group, and within the
        others.
      seed: seed of the samples.

    Returns:
      A row for each group and measure: "group", "measure", "num", "mean", "gap" (the mean less
      that of the others), and "low" and "high", the percentiles of the gap that hold `CONFIDENCE`.
    """
    table = np.stack([*values.values()], axis=1)  # [n, measures]
    names, rng = np.asarray(groups), np.random.default_rng(seed)
    rows = []
    for group in np.unique(names):
        inside, outside = table[names == group], table[names != group]
        sampled = np.stack(
            [_resampled(inside, rng) - _resampled(outside, rng) for _ in range(draws)]
        )
        tail = 50 * (1 - CONFIDENCE)
        low, high = np.percentile(sampled, [tail, 100 - tail], axis=0)
        for j, measure in enumerate(values):
            mean = float(inside[:, j].mean())
            rows.append(
                {
                    "group": str(group),
                    "measure": measure,
                    "num": len(inside),
                    "mean": mean,
                    "gap": mean - float(outside[:, j].mean()),
                    "low": float(low[j]),
                    "high": float(high[j]),
                }
            )
    return rows


def _resampled(rows: Float[np.ndarray, "n m"], rng: np.random.Generator) -> np.ndarray:
    return rows[rng.integers(len(rows), size=len(rows))].mean(axis=0)


@functools.partial(jax.jit, static_argnames="k")
def _nearest(rows: Float[Array, "n d"], k: int) -> Int[Array, "n k"]:
    """Returns the most similar other rows of each."""

    def of_row(i: Array) -> Array:
        cosine = jnp.matmul(rows, rows[i], precision=jax.lax.Precision.HIGHEST)  # [n]
        return jax.lax.top_k(cosine.at[i].set(-jnp.inf), k)[1]

    return jax.lax.map(of_row, jnp.arange(len(rows)), batch_size=min(_ROWS_AT_ONCE, len(rows)))
