"""Instance discrimination: the released code's numbers, and rows that count for nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.losses import instance
from simclr_jax.losses.instance import nce_chance
from tests.helpers import jitted

bank_logits = jitted(instance.bank_logits)
instance_nce = jitted(instance.instance_nce)
instance_softmax = jitted(instance.instance_softmax)
ALL = jnp.ones(8, bool)


def numbers(golden, case):
    prefix = f"{case}/"
    return {k.removeprefix(prefix): v for k, v in golden("instdisc").items() if prefix in k}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("temperature", "case"), [(0.07, "t0.07_m0.5"), (0.1, "t0.1_m0.0")])
@pytest.mark.parametrize("tile", [None, 7])
def test_softmax_is_over_all_images_of_the_bank(golden, close, temperature, case, tile):
    given = numbers(golden, f"softmax/{case}")
    own = given["bank"][given["image"]]

    @jax.jit
    @jax.value_and_grad
    def loss(x):
        settings = {"temperature": temperature, "known": ALL, "tile": tile}
        return instance_softmax(x, own, given["bank"], **settings)

    value, grad = loss(given["x"])
    close(value, given["loss"])
    close(grad, given["grad_x"])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("step", [0, 1, 2])
def test_noise_contrast_is_the_released_one_with_its_constant(golden, close, step):
    given = numbers(golden, f"nce/step{step}")
    log_z = jnp.log(given["z"])

    @jax.jit
    @jax.value_and_grad
    def loss(x):
        logits = bank_logits(x, given["bank"], given["noise"], temperature=0.07)
        return instance_nce(logits - log_z, num_images=24, known=ALL)

    value, grad = loss(given["x"])
    close(value, given["loss"])
    close(grad, given["grad_x"])


def test_rows_without_an_image_and_padding_of_the_bank_count_for_nothing():
    rng = np.random.default_rng(0)
    z, bank = (jnp.asarray(rng.normal(size=(n, 6)), jnp.float32) for n in (4, 10))
    bank = bank / jnp.linalg.norm(bank, axis=1, keepdims=True)
    all_known = instance_softmax(z[:3], bank[:3], bank[:8], temperature=0.1, known=ALL[:3])
    known, mask = jnp.arange(4) < 3, jnp.arange(10) < 8
    some = instance_softmax(z, bank[:4], bank, temperature=0.1, known=known, candidate_mask=mask)
    np.testing.assert_allclose(some, all_known, rtol=1e-6)
    none = instance_softmax(z, bank[:4], bank, temperature=0.1, known=jnp.zeros(4, bool))
    assert none == 0
    ratios = jnp.asarray(rng.normal(size=(4, 6)), jnp.float32)
    few = instance_nce(ratios[:3], num_images=8, known=ALL[:3])
    np.testing.assert_allclose(instance_nce(ratios, num_images=8, known=known), few, rtol=1e-6)


def test_chance_is_the_loss_of_equally_likely_images():
    ratios = jnp.full((4, 6), -jnp.log(8.0))
    value = instance_nce(ratios, num_images=8, known=ALL[:4])
    np.testing.assert_allclose(value, nce_chance(5), rtol=1e-5)
