"""The bank of instance discrimination: which rows change, and the released code's steps."""

import re
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.core.errors import UserError
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.state import TrainState
from simclr_jax.losses.instance import instance_softmax
from simclr_jax.methods.bank import num_bank_rows, read_bank, write_bank
from simclr_jax.methods.instdisc import instdisc
from simclr_jax.models.heads import MLP
from simclr_jax.models.ssl import SSLModel
from simclr_jax.parallel.mesh import make_mesh
from simclr_jax.parallel.sharding import batch_sharding, replicated
from tests.helpers import hlo

GOLDEN = Path(__file__).parents[2] / "golden/family/instdisc.npz"


def facts(num_images, batch_size=8):
    return RunFacts(num_steps=10, num_images=num_images, num_classes=0, batch_size=batch_size)


def test_a_bank_has_whole_batches_of_rows_so_that_any_mesh_of_the_run_can_split_it():
    assert [num_bank_rows(facts(n)) for n in (8, 24, 25, 31)] == [8, 24, 32, 32]


def test_no_image_is_dropped_and_the_last_of_two_rows_of_an_image_is_kept():
    bank = {"rows": jnp.zeros((5, 2)), "views": jnp.zeros(5, jnp.int32)}
    ids = jnp.asarray([3, -1, 0, 3])
    rows = {"rows": jnp.arange(1.0, 9.0).reshape(4, 2), "views": jnp.arange(1, 5)}
    after = jax.jit(write_bank)(bank, ids, rows)
    np.testing.assert_array_equal(after["views"], [3, 0, 0, 4, 0])
    np.testing.assert_array_equal(after["rows"][3], [7, 8])
    np.testing.assert_array_equal(read_bank(after, ids)["views"][jnp.array([0, 2])], [4, 3])


def test_each_device_keeps_its_rows_and_no_other():
    mesh = make_mesh(jax.devices())
    num_rows, d, b = 512, 12, 16

    def step(bank, z, ids):
        own, known = read_bank(bank, ids), ids >= 0
        loss = lambda z: instance_softmax(z, own, bank, temperature=0.1, known=known)
        return jax.value_and_grad(loss)(z), write_bank(bank, ids, z)

    place = lambda *shape, dtype="float32": jax.ShapeDtypeStruct(
        shape, dtype, sharding=batch_sharding(mesh)
    )
    arrays = place(num_rows, d), place(b, d), place(b, dtype="int32")
    rows = batch_sharding(mesh)
    jitted = jax.jit(step, out_shardings=((replicated(mesh), rows), rows))
    text = hlo(jitted.lower(*arrays).compile())
    held = {shape.split(",")[0] for shape in re.findall(r"f32\[(\d+,[\d,]+)\]", text)}
    assert str(num_rows // 8) in held
    assert str(num_rows) not in held


class Pixels(nn.Module):
    """Returns the pixels."""

    @nn.compact
    def __call__(self, images, *, train):
        del train
        return images.reshape(len(images), -1)


@pytest.fixture
def build():
    """Returns what builds the method on views that are the projections, and its first state."""
    head = MLP(num_layers=1, output_dim=6, last_norm="none", dtype="float64")

    def build(views, num_images=24, **settings):
        augment = lambda key, batch: batch["views"]
        method = instdisc(SSLModel(Pixels(), head), augment, facts(num_images), **settings)
        variables = jax.jit(method.init)(jax.random.key(0), views)
        params = {"projector": {"dense1": {"kernel": jnp.eye(6)}}}
        return method, TrainState(
            jnp.int32(0), params, variables.batch_stats, (), variables.method_state
        )

    with jax.enable_x64(True):
        yield build


def golden(case):
    with np.load(GOLDEN, allow_pickle=False) as arrays:
        prefix = f"{case}/"
        return {k.removeprefix(prefix): jnp.asarray(arrays[k]) for k in arrays if prefix in k}


@pytest.mark.parametrize(("temperature", "momentum"), [(0.07, 0.5), (0.1, 0.0)])
def test_a_step_has_the_released_loss_and_leaves_the_released_bank(build, temperature, momentum):
    given = golden(f"softmax/t{temperature}_m{momentum}")
    views = given["x"].reshape(8, 1, 1, 1, 6)
    method, state = build(views, temperature=temperature, bank_momentum=momentum)
    state = state.replace(method_state={"bank": given["bank"]})
    batch = {"id": given["image"]}
    value, out = jax.jit(method.loss)(state.params, state, views, batch, jax.random.key(0))
    np.testing.assert_allclose(value, given["loss"], rtol=1e-9)
    after = method.after_update(state.replace(step=jnp.int32(1)), out.carry)
    np.testing.assert_allclose(after["bank"], given["bank_after"], rtol=1e-9, atol=1e-12)


def test_the_constant_of_the_noise_contrast_is_that_of_the_first_batch(build):
    """A bank of one direction tells its value: the mean of equals, for each of 24 images."""
    views = jnp.asarray(np.random.default_rng(0).normal(size=(8, 1, 1, 1, 6)))
    method, state = build(views, num_noise=5, temperature=0.5)
    direction = jnp.eye(6)[0]
    bank = jnp.tile(direction, (24, 1))
    state = state.replace(method_state={**state.method_state, "bank": bank})
    batch = {"id": jnp.arange(8)}
    _, out = jax.jit(method.loss)(state.params, state, views, batch, jax.random.key(0))
    after = method.after_update(state.replace(step=jnp.int32(1)), out.carry)
    rows = views.reshape(8, 6)
    cosines = rows[:, 0] / jnp.linalg.norm(rows, axis=1)
    want = np.log(24 * np.exp(cosines / 0.5).mean())
    np.testing.assert_allclose(after["log_normalizer"], want, rtol=1e-9)
    later = state.replace(step=jnp.int32(1), method_state={**after, "bank": bank})
    _, out = jax.jit(method.loss)(state.params, later, 2 - views, batch, jax.random.key(1))
    kept = method.after_update(later.replace(step=jnp.int32(2)), out.carry)
    np.testing.assert_allclose(kept["log_normalizer"], want, rtol=1e-9)


def test_a_first_step_that_does_not_count_leaves_the_constant_to_the_next(build):
    """Such a step is counted, and the rest of the state put back."""
    views = jnp.asarray(np.random.default_rng(0).normal(size=(8, 1, 1, 1, 6)))
    method, state = build(views, num_noise=5)
    loss, constants = jax.jit(method.loss), []
    for step in (0, 1):
        state, batch = state.replace(step=jnp.int32(step)), {"id": jnp.arange(8)}
        value, out = loss(state.params, state, views, batch, jax.random.key(0))
        constants.append(method.after_update(state, out.carry)["log_normalizer"])
    assert np.isfinite(value)
    assert constants[1] == constants[0] > 0


def test_more_noise_than_images_is_refused(build):
    with pytest.raises(
        UserError, match=r"24 images, and config.method.num_noise=24 .* use num_noise=0"
    ):
        build(jnp.zeros((8, 1, 1, 1, 6)), num_noise=24)
