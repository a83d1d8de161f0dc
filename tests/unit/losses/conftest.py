"""Golden numbers of the released codes in golden/family/NAME.npz, float64 and int32.

Inputs, values and gradients of each loss, made by the authors' code where there is one: supcon
(HobbitLong/SupContrast), dcl (lightly), hard_negatives (joshr17/HCL), moco, moco_v3, simsiam,
swav, barlowtwins, vicreg, dino, mae (facebookresearch), byol (deepmind-research), deepcluster
(facebookresearch/swav), instdisc (zhirongw/lemniscate.pytorch), nnclr (solo-learn), margin and
triplet (pytorch-metric-learning), mochi (davidsvy/hard-negative-mixing), infonce (formula),
pretext (RotNet, VISSL, scikit-image). The losses agree with them at another scale where their
docstrings say so.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

FAMILY = Path(__file__).parents[2] / "golden/family"


@pytest.fixture
def golden():
    """Reads one of the files; in float32 without the fixture `float64`."""

    def read(name):
        with np.load(FAMILY / f"{name}.npz", allow_pickle=False) as arrays:
            return {key: jnp.asarray(array) for key, array in arrays.items()}

    return read


@pytest.fixture
def close():
    """Compares in float64: what may differ is the order of sums."""

    def compare(got, want, name=""):
        got, want = np.asarray(got), np.asarray(want)
        assert got.dtype == np.float64, name
        atol = 1e-9 * max(1.0, np.abs(want).max())
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=atol, err_msg=name)

    return compare


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield
