"""What every method promises to the train step; a new one is tested by being in METHODS."""

import functools

import jax
import numpy as np
import optax
import pytest

from simclr_jax.augment.policies import POLICIES
from simclr_jax.methods import METHODS
from simclr_jax.models.heads import Projector
from simclr_jax.models.ssl import SSLModel
from simclr_jax.parallel.mesh import make_mesh
from simclr_jax.parallel.sharding import batch_sharding, replicated
from simclr_jax.train.step import init_state, make_train_step

ROOT = jax.random.key(0)
TX = optax.adam(1e-2)
pytestmark = pytest.mark.parametrize("name", METHODS)


@pytest.fixture
def method(name, tiny_encoder):
    model = SSLModel(encoder=tiny_encoder, projector=Projector(num_layers=2, output_dim=8))
    return METHODS[name](model, POLICIES["simclr"](size=16, color_strength=0.0, blur=False))


def test_init_runs_without_a_device_and_puts_the_encoder_in_its_place(method, batch):
    shapes = jax.eval_shape(functools.partial(init_state, method, TX, ROOT), batch)
    assert shapes.params["encoder"]["conv"]["kernel"].shape == (3, 3, 3, 8)
    assert shapes.batch_stats["encoder"]["norm"]["mean"].shape == (8,)


def test_step_keeps_the_structure_of_the_state(method, batch):
    init = functools.partial(init_state, method, TX, ROOT)
    before = jax.eval_shape(init, batch)
    after, _ = jax.eval_shape(make_train_step(method, TX, ROOT), before, batch)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), before) == jax.tree.map(
        lambda x: (x.shape, x.dtype), after
    )


def test_gradient_reaches_the_encoder(method, batch):
    state = init_state(method, TX, ROOT, batch)
    views = method.augment(ROOT, batch)
    loss = lambda params: method.loss(params, state, views, batch["label"], ROOT)[0]
    grads = jax.jit(jax.grad(loss))(state.params)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads["encoder"]))


def test_eight_devices_take_the_step_of_one(method, batch):
    step = make_train_step(method, optax.sgd(1.0), ROOT)  # SGD shows a wrong gradient scale
    init = functools.partial(init_state, method, optax.sgd(1.0), ROOT)
    results = []
    for mesh in (make_mesh(jax.devices()[:1]), make_mesh()):
        shardings = (replicated(mesh), batch_sharding(mesh))
        placed = jax.device_put(batch, batch_sharding(mesh))
        state = jax.jit(init, out_shardings=replicated(mesh))(batch)
        results.append(jax.device_get(jax.jit(step, in_shardings=shardings)(state, placed)))
    for one, eight in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(eight, one, rtol=2e-4, atol=2e-5 * max(1.0, np.abs(one).max()))


def test_thirty_steps_lower_the_loss(method, batch):
    step = jax.jit(make_train_step(method, TX, ROOT))
    state = jax.jit(functools.partial(init_state, method, TX, ROOT))(batch)
    losses = []
    for _ in range(30):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.1
    assert int(state.step) == 30
