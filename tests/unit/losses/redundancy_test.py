"""Barlow Twins and VICReg: the released codes' numbers and terms, limits, and sharding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from simclr_jax.losses.redundancy import barlow_twins, vicreg
from simclr_jax.parallel.mesh import make_mesh
from tests.helpers import hlo

CASES = ("plain", "small_variance", "identical_views", "dead_dimension")


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("weight", [0.005, 0.0051])
def test_barlow_twins_is_the_released_loss(golden, close, weight):
    numbers = golden("redundancy")
    loss = lambda z: barlow_twins(z, off_diagonal_weight=weight)
    fn = jax.jit(jax.value_and_grad(loss, has_aux=True))
    for case in CASES:
        name = f"{case}/barlow_lambda{weight}"
        (value, terms), grad = fn(numbers[f"{case}/z"])
        close(value, numbers[f"{name}/loss"], name)
        close(grad, numbers[f"{name}/grad_z"], name)
        squares = numbers[f"{name}/cross_correlation"] ** 2
        others = squares.sum() - np.diag(squares).sum()
        close(terms["off_diagonal"], others, name)
        close(value, np.asarray(terms["on_diagonal"] + weight * terms["off_diagonal"]), name)


@pytest.mark.usefixtures("float64")
def test_vicreg_is_the_released_loss(golden, close):
    numbers = golden("redundancy")
    fn = jax.jit(jax.value_and_grad(vicreg, has_aux=True))
    for case in CASES:
        (value, terms), grad = fn(numbers[f"{case}/z"])
        close(value, numbers[f"{case}/vicreg/loss"], case)
        close(grad, numbers[f"{case}/vicreg/grad_z"], case)
        for term, got in terms.items():
            close(got, numbers[f"{case}/vicreg/{term}"], term)


def test_each_weight_of_vicreg_is_of_its_term():
    z = jnp.asarray(np.random.default_rng(0).normal(size=(8, 2, 4)), jnp.float32)
    _, terms = vicreg(z)
    for name in ("invariance", "variance", "covariance"):
        weights = {f"{term}_weight": 3.0 * (term == name) for term in terms}
        value, _ = vicreg(z, **weights)
        np.testing.assert_allclose(value, 3 * terms[name], rtol=1e-6)


def test_barlow_twins_of_collapsed_views_is_the_number_of_dimensions():
    value, terms = barlow_twins(jnp.ones((8, 2, 6)))
    np.testing.assert_allclose(value, 6)
    assert terms["off_diagonal"] == 0


@pytest.mark.parametrize("loss", [barlow_twins, vicreg])
def test_one_image_has_no_statistics(loss):
    with pytest.raises(ValueError, match="compares the examples of a batch; it needs 2 or more"):
        loss(jnp.ones((1, 2, 6)))


@pytest.mark.parametrize("loss", [barlow_twins, vicreg])
def test_eight_devices_agree_with_one_and_share_the_matrix(loss):
    z = jnp.asarray(np.random.default_rng(0).normal(size=(48, 2, 64)), jnp.float32)
    fn = jax.jit(jax.value_and_grad(loss, has_aux=True))
    sharded = jax.device_put(z, jax.NamedSharding(make_mesh(), P("data")))
    compiled = fn.lower(sharded).compile()
    same = lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    jax.tree.map(same, compiled(sharded), fn(z))
    assert "f32[8,64]" in hlo(compiled)
    assert "f32[64,64]" not in hlo(compiled)
