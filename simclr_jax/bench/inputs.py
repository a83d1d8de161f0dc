"""What both sides of a comparison are given, from NumPy alone."""

from collections.abc import Callable

import numpy as np

NUM_CLASSES = 10
K, TEMPERATURE = 200, 0.1  # of kNN; the loss has the same temperature
L2 = 1e-3  # of the linear probe, on rows of a mean squared norm of 100
MEAN_SQUARED_NORM = 100.0
GAP = 1e-3  # how far above its minimum both sides may leave the probe's objective, relatively
_TOLERANCES = tuple(10.0 ** (-i / 2) for i in range(2, 15))  # half a decade apart, to 1e-7


def projections(pairs: int) -> np.ndarray:
    """Returns [pairs, 2, 128]; second views resemble the first."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((pairs, 2, 128), np.float32)
    z[:, 1] += z[:, 0]
    return z


def pixels(images: int, height: int, width: int) -> np.ndarray:
    """Returns uint8 [images, height, width, 3]."""
    return np.random.default_rng(0).integers(0, 256, (images, height, width, 3), np.uint8)


def features(rows: int, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns rows around a centre for each class, [rows, dim], and their classes."""
    centres = np.random.default_rng(0).standard_normal((NUM_CLASSES, dim), np.float32)
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, NUM_CLASSES, rows)
    noise = rng.standard_normal((rows, dim), np.float32)
    return 0.3 * centres[labels] + noise, labels


def standardised(x: np.ndarray) -> np.ndarray:
    """Returns centred rows of the mean squared norm that a linear probe gives them."""
    x = x - x.mean(0)
    return x / np.sqrt((x**2).sum() / len(x) / MEAN_SQUARED_NORM)


def loosest(
    fit: Callable[[float], tuple[np.ndarray, np.ndarray]], x: np.ndarray, labels: np.ndarray
) -> float:
    """Returns the loosest tolerance with which a probe comes within `GAP` of the minimum.

    Tolerances of two programs mean different things; this is where both are as good.

    Args:
      fit: from a tolerance to weights [num_classes, dim] and bias.
      x: rows that it is fitted to.
      labels: their classes.
    """
    enough = (1 + GAP) * _objective(x, labels, *fit(_TOLERANCES[-1]))
    return next(t for t in _TOLERANCES if _objective(x, labels, *fit(t)) <= enough)


def _objective(x: np.ndarray, labels: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> float:
    logits = x @ weights.T.astype(np.float64) + bias
    logits -= logits.max(1, keepdims=True)
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]
    return losses.mean() + L2 / 2 * np.square(weights, dtype=np.float64).sum()
