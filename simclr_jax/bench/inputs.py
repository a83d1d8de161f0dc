"""What both sides of a comparison are given, from NumPy alone."""

import numpy as np

NUM_CLASSES = 10
K, TEMPERATURE = 200, 0.1  # of kNN; the loss has the same temperature
L2 = 1e-3  # of the linear probe, on rows of a mean squared norm of 100
MEAN_SQUARED_NORM = 100.0


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
