"""What every method promises to the train step; a new one is tested by being in METHODS."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simclr_jax.augment.policies import POLICIES
from simclr_jax.methods import METHODS
from simclr_jax.methods.distill import Teacher
from simclr_jax.models.heads import Projector, classifier
from simclr_jax.models.ssl import SSLModel
from simclr_jax.parallel.sharding import PRESETS, Layout, batch_sharding
from simclr_jax.train.step import init_state, make_train_step

ROOT = jax.random.key(0)
TX = optax.adam(1e-2)
pytestmark = pytest.mark.parametrize("name", METHODS)


# What a method needs beside a model and views, by its name.
MODEL = {
    "simclr": dict(projector=Projector(num_layers=2, output_dim=8)),
    "supervised": dict(classifier=classifier(num_classes=4, zero_init=False)),
    "distill": dict(classifier=classifier(num_classes=4, zero_init=False)),
}


@pytest.fixture
def method(name, tiny_encoder):
    model = SSLModel(encoder=tiny_encoder, **MODEL[name])
    settings = {}
    if name == "distill":
        images = jnp.zeros((1, 16, 16, 3))
        shapes = jax.eval_shape(lambda: model.init(ROOT, images, train=False))
        settings["teacher"] = Teacher(model, shapes)
    policy = POLICIES["simclr"](size=16, color_strength=0.0, blur=False)
    return METHODS[name](model, policy.augment, **settings)


@pytest.fixture
def batch(batch):
    return {**batch, "label": jnp.arange(16, dtype=jnp.int32) % 4}


def start(method, tx, batch):
    """Returns step 0; zeros, which a warm start would replace, become a teacher with opinions."""
    state = jax.jit(functools.partial(init_state, method, tx, ROOT))(batch)
    if "teacher" in state.method_state:
        noise = lambda x: 0.5 + jax.random.uniform(jax.random.key(x.size), x.shape)
        state = state.replace(method_state=jax.tree.map(noise, state.method_state))
    return state


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
    state = start(method, TX, batch)
    views = method.augment(ROOT, batch)
    loss = lambda params: method.loss(params, state, views, batch["label"], ROOT)[0]
    grads = jax.jit(jax.grad(loss))(state.params)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads["encoder"]))


def test_eight_devices_take_the_step_of_one_in_every_layout(method, batch):
    step = make_train_step(method, optax.sgd(1.0), ROOT)  # SGD shows a wrong gradient scale
    fresh = jax.device_get(start(method, optax.sgd(1.0), batch))
    results = []
    layouts = [Layout(), *(Layout(preset, fsdp=4) for preset in PRESETS)]
    for layout, devices in zip(layouts, [jax.devices()[:1], None, None, None], strict=True):
        mesh = layout.mesh(devices)
        placement = layout.state_shardings(fresh, mesh)
        shardings = (placement, batch_sharding(mesh))
        state, placed = jax.device_put((fresh, batch), shardings)
        done = jax.jit(step, in_shardings=shardings, out_shardings=(placement, None))
        results.append(jax.device_get(done(state, placed)))
    for one, *eight in zip(*map(jax.tree.leaves, results), strict=True):
        tolerance = {"rtol": 2e-4, "atol": 2e-5 * max(1.0, np.abs(one).max())}
        for other in eight:
            np.testing.assert_allclose(other, one, **tolerance)


def test_thirty_steps_lower_the_loss(method, batch):
    step = jax.jit(make_train_step(method, TX, ROOT))
    state = start(method, TX, batch)
    losses = []
    for _ in range(30):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.05
    assert int(state.step) == 30
