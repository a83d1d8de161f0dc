"""DCL, DCLW and hard negatives: the released codes' numbers, limits, tiles and sharding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from simclr_jax.losses.contrastive import nt_xent
from simclr_jax.losses.negatives import dcl, hard_negatives
from simclr_jax.parallel.mesh import make_mesh
from tests.helpers import hlo

CASES = ("plain", "two_images", "equal_embeddings")
HARD_CASES = ("plain", "clamped", "equal_embeddings")
SETTINGS = ((1.0, 0.1), (0.5, 0.1), (2.0, 0.0), (0.0, 0.1), (0.0, 0.0))
BOTH = {
    "dcl": functools.partial(dcl, temperature=0.1, sigma=0.5),
    "hard_negatives": functools.partial(hard_negatives, temperature=0.5, beta=1.0, class_prior=0.1),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("temperature", "tile"), [(0.1, None), (0.5, 5)])
@pytest.mark.parametrize("sigma", [None, 0.5, 1.0])
def test_dcl_is_lightlys_with_weights_that_get_no_gradient(golden, close, temperature, tile, sigma):
    numbers = golden("dcl")
    loss = lambda z: dcl(z, temperature=temperature, sigma=sigma, tile=tile)
    fn = jax.jit(jax.value_and_grad(loss))
    for case in CASES:
        name = f"{case}/t{temperature}/" + ("dcl" if sigma is None else f"dclw_sigma{sigma}")
        value, grad = fn(numbers[f"{case}/z"])
        close(value, numbers[f"{name}/loss"], name)
        close(grad, numbers[f"{name}/grad_z"], name)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("temperature", "tile"), [(0.1, None), (0.5, 5)])
@pytest.mark.parametrize(("beta", "prior"), SETTINGS)
def test_hard_negatives_are_the_released_ones(golden, close, temperature, tile, beta, prior):
    numbers = golden("hard_negatives")
    loss = lambda z: hard_negatives(
        z, temperature=temperature, beta=beta, class_prior=prior, tile=tile
    )
    fn = jax.jit(jax.value_and_grad(loss))
    for case in HARD_CASES:
        name = f"{case}/t{temperature}/beta{beta}_tau{prior}_hard"
        value, grad = fn(numbers[f"{case}/z"])
        close(value, numbers[f"{name}/loss"], name)
        close(grad, numbers[f"{name}/grad_z"], name)


@pytest.mark.usefixtures("float64")
def test_without_hardness_and_prior_it_is_nt_xent(golden, close):
    z = golden("hard_negatives")["plain/z"]
    close(
        hard_negatives(z, temperature=0.1, beta=0.0, class_prior=0.0),
        np.asarray(nt_xent(z, temperature=0.1)),
    )


def test_cold_and_hard_stays_finite_in_float32():
    """exp(similarity / temperature) ** (1 + beta) is e^120 here."""
    z = jnp.ones((8, 2, 6)) + 0.01 * jax.random.normal(jax.random.key(0), (8, 2, 6))
    loss = lambda z: hard_negatives(z, temperature=0.05, beta=5.0, class_prior=0.1)
    value, grad = jax.jit(jax.value_and_grad(loss))(z)
    assert np.isfinite(value)
    assert np.isfinite(grad).all()


@pytest.mark.parametrize("name", BOTH)
def test_one_image_has_no_negatives(name):
    with pytest.raises(ValueError, match=f"{name} compares the examples of a batch; it needs 2"):
        BOTH[name](jnp.ones((1, 2, 4)))


@pytest.mark.parametrize("name", BOTH)
def test_eight_devices_agree_with_one_and_share_the_rows(name):
    z = jnp.asarray(np.random.default_rng(0).normal(size=(64, 2, 8)), jnp.float32)
    fn = jax.jit(jax.value_and_grad(BOTH[name]))
    sharded = jax.device_put(z, jax.NamedSharding(make_mesh(), P("data")))
    compiled = fn.lower(sharded).compile()
    for got, want in zip(compiled(sharded), fn(z), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    assert "f32[16,128]" in hlo(compiled)
    assert "f32[128,128]" not in hlo(compiled)
