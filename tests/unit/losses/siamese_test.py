"""BYOL's loss, and SimSiam's: values and gradients of the released codes, and limits."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.losses.siamese import byol
from simclr_jax.losses.similarity import unit_std

GOLDEN = Path(__file__).parents[2] / "golden/family/byol.npz"


@pytest.mark.parametrize("case", ["plain", "aligned", "opposed"])
def test_matches_the_released_code_which_sums_the_views(case):
    with np.load(GOLDEN) as file, jax.enable_x64(True):
        golden = {name: file[f"{case}/{name}"] for name in ("prediction", "target_projection")}
        value, grad = jax.value_and_grad(byol)(*map(jnp.asarray, golden.values()))
        np.testing.assert_allclose(value, file[f"{case}/mean_over_views"], atol=1e-12)
        np.testing.assert_allclose(2 * value, file[f"{case}/loss"], atol=1e-12)
        np.testing.assert_allclose(2 * grad, file[f"{case}/grad_prediction"], atol=1e-12)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("case", ["loss", "collapsed"])
def test_simsiams_negative_cosine_is_half_of_it_less_one(golden, close, case):
    numbers = golden("simsiam")
    value, grad = jax.value_and_grad(byol)(
        *(numbers[f"{case}/{name}"] for name in ("prediction", "target"))
    )
    close(value / 2 - 1, numbers[f"{case}/loss"])
    close(grad / 2, numbers[f"{case}/grad_prediction"])
    spread = numbers[f"{case}/std_of_unit_projection"]
    close(unit_std(numbers[f"{case}/target"]), spread)


def test_no_gradient_reaches_the_target():
    x = jax.random.normal(jax.random.key(0), (4, 2, 8))
    assert not np.any(jax.grad(byol, argnums=1)(x, x + 1))


def test_names_the_bad_shape():
    with pytest.raises(ValueError, match=r"\[b, 2, d\], got \(4, 3, 8\)"):
        byol(jnp.ones((4, 3, 8)), jnp.ones((4, 3, 8)))
