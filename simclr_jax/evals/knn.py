"""Weighted k-nearest-neighbour classification: judges features without training anything."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from simclr_jax.evals.features import check_labels
from simclr_jax.losses.similarity import l2_normalize

# Similarities held at a time, which bounds memory: 2^25 float32 are 128 MiB.
_MAX_SIMILARITIES = 2**25


def knn_predict(
    train_features: Float[Array | np.ndarray, "n d"],
    train_labels: Int[np.ndarray, " n"],
    test_features: Float[Array | np.ndarray, "m d"],
    *,
    num_classes: int,
    k: int = 200,
    temperature: float = 0.1,
) -> Int[Array, " m"]:
    """Lets the k most similar training rows vote, each with weight exp(cosine / temperature).

    Args:
      train_features: any scale; only directions matter.
      train_labels: labels of the training rows, in [0, num_classes).
      test_features: rows to classify.
      num_classes: number of classes.
      k: voters for each test row, in [1, n].
      temperature: > 0; the smaller it is, the more the nearest neighbours decide.

    Returns:
      The class with the most votes for each test row.

    Raises:
      ValueError: if k, temperature or a label is out of range.

    Source: Wu et al. 2018, https://arxiv.org/abs/1805.01978, Section 3.4, which uses k = 200
      and temperature 0.07 on ImageNet; 0.1 here, SimCLR's own temperature.
    """
    n = len(train_features)
    if not 1 <= k <= n:
        raise ValueError(f"k={k} neighbours out of n={n} training rows; k must be in [1, {n}].")
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be above 0, such as 0.1.")
    return _predict(
        jnp.asarray(train_features),
        jnp.asarray(check_labels(train_labels, num_classes)),
        jnp.asarray(test_features),
        jnp.float32(temperature),
        num_classes=num_classes,
        k=k,
    )


@functools.partial(jax.jit, static_argnames=("num_classes", "k"))
def _predict(
    train: Float[Array, "n d"],
    labels: Int[Array, " n"],
    test: Float[Array, "m d"],
    temperature: Float[Array, ""],
    *,
    num_classes: int,
    k: int,
) -> Int[Array, " m"]:
    train = l2_normalize(train.astype(jnp.float32))

    def predict_row(row: Float[Array, " d"]) -> Int[Array, ""]:
        row = l2_normalize(row.astype(jnp.float32))
        cosine = jnp.matmul(train, row, precision=jax.lax.Precision.HIGHEST)  # [n]
        nearest, index = jax.lax.top_k(cosine, k)
        # Relative to the nearest one, no weight overflows at any temperature.
        weights = jnp.exp((nearest - nearest[0]) / temperature)
        votes = jnp.zeros(num_classes).at[labels[index]].add(weights)
        return jnp.argmax(votes)

    rows_at_once = max(1, _MAX_SIMILARITIES // len(train))
    return jax.lax.map(predict_row, test, batch_size=min(rows_at_once, len(test)))
