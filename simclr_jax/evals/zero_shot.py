"""Zero-shot: images told apart by the names of their classes alone."""

import numpy as np
from jaxtyping import Float, Int


def class_rows(templates: Float[np.ndarray, "k t d"]) -> Float[np.ndarray, "k d"]:
    """Returns a unit row for each class: the direction of the mean of its captions' directions.

    Args:
      templates: rows of t captions of each of k classes, any length.

    Source: Radford et al. 2021, https://arxiv.org/abs/2103.00020, Section 3.1.4.
    """
    return unit(unit(templates).mean(axis=1))


def predict(
    images: Float[np.ndarray, "n d"], classes: Float[np.ndarray, "k d"]
) -> Int[np.ndarray, "n k"]:
    """Returns the classes of each image, the one with the largest cosine first.

    Args:
      images: a row for each image, any length.
      classes: as of `class_rows`.
    """
    return np.argsort(-(images @ classes.T), axis=1, kind="stable")


def unit(rows: Float[np.ndarray, "*n d"]) -> Float[np.ndarray, "*n d"]:
    """Returns rows of length 1; a row of zeros stays one."""
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
