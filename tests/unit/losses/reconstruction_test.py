"""The masked error of MAE: the released code's numbers, and the error of the mean patch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.losses.reconstruction import (
    masked_mean_square,
    masked_variance,
    normalized_patches,
)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("ratio", [0.5, 0.75])
@pytest.mark.parametrize("kind", ["normalised", "pixels"])
def test_the_error_is_that_of_masked_patches(golden, close, ratio, kind):
    given = golden("mae")
    masked, patches = given[f"masking/ratio{ratio}/mask"], given["input/patches"]
    target = normalized_patches(patches) if kind == "normalised" else patches
    case = f"loss/ratio{ratio}_{kind}"
    loss = lambda prediction: masked_mean_square(prediction, target, masked)
    value, grad = jax.jit(jax.value_and_grad(loss))(given[f"{case}/prediction"])
    close(value, given[f"{case}/loss"])
    close(grad, given[f"{case}/grad_prediction"])


def test_a_patch_of_one_colour_is_nothing_to_tell():
    assert not np.asarray(normalized_patches(jnp.full((1, 2, 12), 0.5))).any()


def test_chance_is_the_error_of_the_mean_masked_patch():
    rng = np.random.default_rng(0)
    target = rng.normal(size=(2, 5, 4)).astype(np.float32)
    masked = np.array([[1, 1, 0, 1, 0], [0, 1, 1, 0, 1]], np.float32)
    want = target[masked == 1].var(axis=0).mean()
    np.testing.assert_allclose(
        masked_variance(jnp.asarray(target), jnp.asarray(masked)), want, rtol=1e-5
    )
