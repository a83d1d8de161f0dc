"""Golden numbers of the official TF2 code (google-research/simclr at 383d414).

augment.npz holds two uint8 images, "smooth" (40 x 56) and "noise" (32 x 32), and what the
reference makes of them, as float32 [h, w, 3]; outputs wider than 24 pixels are stored
with every third row and column, which still meets every phase of a resize.
crop_samples.npz holds boxes of tf.image.sample_distorted_bounding_box as the reference
calls it: (y, x, height, width) for 10,000 draws, by image shape.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture(scope="session")
def golden() -> Mapping[str, np.ndarray]:
    with np.load(GOLDEN / "augment.npz") as file:
        return dict(file)


@pytest.fixture(scope="session")
def crop_samples() -> Mapping[str, np.ndarray]:
    with np.load(GOLDEN / "crop_samples.npz") as file:
        return {shape: file[shape].astype(np.int64) for shape in file}


@pytest.fixture(scope="session")
def planar(golden) -> Callable[[str], jnp.ndarray]:
    """Returns a golden input by name, as float32 [3, h, w] in [0, 1]."""
    return lambda name: jnp.asarray(golden[f"{name}/uint8"].transpose(2, 0, 1) / np.float32(255))


@pytest.fixture(scope="session")
def check(golden) -> Callable[..., None]:
    """Compares a planar result with a golden output by name."""

    def compare(got, name: str, atol: float) -> None:
        got, want = np.asarray(got).transpose(1, 2, 0), golden[name]
        stride = 1 if got.shape[0] <= 24 else 3
        np.testing.assert_allclose(got[::stride, ::stride], want, rtol=0, atol=atol)

    return compare
