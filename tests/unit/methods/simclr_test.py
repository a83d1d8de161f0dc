"""SimCLR's momentum memory, step by step; tests/contract/ has what it shares with others."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from simclr_jax.core import rng
from simclr_jax.core.errors import UserError
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.sections import build_section
from simclr_jax.methods.base import Variables
from simclr_jax.methods.memory import Target
from simclr_jax.methods.simclr import simclr
from simclr_jax.models.heads import MLP
from simclr_jax.models.ssl import SSLModel
from simclr_jax.parallel.mesh import make_mesh
from simclr_jax.train.step import init_state, make_train_step

ROOT = jax.random.key(0)
TX = optax.sgd(1.0)
B, D, SLOTS, EMA = 16, 8, 3, 0.75
KEYS = 2 * B
FACTS = RunFacts(num_steps=100, num_images=64, num_classes=4, batch_size=B)
MEMORY = {"size": SLOTS * KEYS, "ema": EMA}
BATCH = {
    "image": jnp.asarray(np.random.default_rng(0).integers(0, 256, (B, 4, 4, 3), np.uint8)),
    "label": jnp.full((B,), -1, jnp.int32),
}


class Flat(nn.Module):
    """An encoder that compiles at once; BatchNorm stands in the projector."""

    @nn.compact
    def __call__(self, images, *, train):
        del train
        return nn.Dense(12, name="dense")(images.reshape(len(images), -1))


MODEL = SSLModel(encoder=Flat(), projector=MLP(num_layers=2, output_dim=D))


def augment(key, batch):
    images = batch["image"][:, None] / 255
    return images + 0.3 * jax.random.normal(key, (B, 2, 4, 4, 3))


def method(memory=None, **settings):
    section = {"temperature": 0.2, "memory": memory, **settings}
    return build_section("config.method", simclr, section, MODEL, augment, FACTS)


def start(memory):
    return jax.jit(functools.partial(init_state, method(memory), TX, ROOT))(BATCH)


@functools.cache
def history():
    """Seven states in a row, and the metrics of the six steps between them."""
    step = jax.jit(make_train_step(method(MEMORY), TX, ROOT))
    states, metrics = [start(MEMORY)], []
    for _ in range(2 * SLOTS):
        state, measured = step(states[-1], BATCH)
        states.append(state)
        metrics.append(measured)
    return jax.device_get(states), jax.device_get(metrics)


@functools.cache
def project():
    return jax.jit(functools.partial(MODEL.apply, train=True, mutable=["batch_stats"]))


def unit_projections(variables, step):
    """Of the views that step `step` sees, with the statistics of that batch: [2b, d], float64."""
    views = augment(rng.stream(ROOT, "augment", step), BATCH)
    out, updated = project()(variables, views.reshape(KEYS, 4, 4, 3))
    z = np.asarray(out["projection"], np.float64)
    return z / np.linalg.norm(z, axis=-1, keepdims=True), updated["batch_stats"]


def test_starts_with_a_copy_of_the_network_and_random_directions():
    state, plain = history()[0][0], start(None)
    jax.tree.map(np.testing.assert_array_equal, state.params, plain.params)
    jax.tree.map(
        np.testing.assert_array_equal, state.method_state["target"]["params"], state.params
    )
    queue = np.asarray(state.method_state["queue"]).reshape(-1, D)
    assert queue.dtype == np.float32
    assert queue.shape == (SLOTS * KEYS, D)
    np.testing.assert_allclose(np.linalg.norm(queue, axis=-1), 1, rtol=1e-6)
    assert np.abs(queue.mean(axis=0)).max() < 0.15  # deviation of each mean: 0.036
    assert plain.method_state == ()


def test_the_target_shares_no_buffer_with_the_network_that_it_copies():
    network = {"w": jnp.ones((2, 2))}
    target = Target(0.9).init(Variables(network, {}))
    jax.jit(lambda x: 0 * x, donate_argnums=0)(network["w"])  # as the train step overwrites it
    np.testing.assert_array_equal(target["params"]["w"], np.ones((2, 2)))


def test_the_queue_holds_the_keys_of_the_last_batches_in_a_ring():
    states, _ = history()
    for t, (before, after) in enumerate(itertools.pairwise(states)):
        keys, _ = unit_projections(before.method_state["target"], t)
        want = np.array(before.method_state["queue"])
        want[t % SLOTS] = keys
        # Another compiled program: BatchNorm rounds otherwise.
        np.testing.assert_allclose(after.method_state["queue"], want, atol=1e-5)
        untouched = [slot for slot in range(SLOTS) if slot != t % SLOTS]
        for state in (before, after):
            np.testing.assert_array_equal(
                state.method_state["queue"][untouched], before.method_state["queue"][untouched]
            )


def test_the_target_follows_the_new_weights_with_its_own_statistics():
    states, _ = history()
    for t, (before, after) in enumerate(itertools.pairwise(states)):
        old, new = before.method_state["target"], after.method_state["target"]
        moved = jax.tree.map(lambda t, p: EMA * t + (1 - EMA) * p, old["params"], after.params)
        close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
        jax.tree.map(close, new["params"], moved)
        jax.tree.map(close, new["batch_stats"], unit_projections(old, t)[1])
    # After six steps of rate 1 the two networks are not the same any more.
    last = states[-1]
    kernel = lambda params: params["encoder"]["dense"]["kernel"]
    moved = kernel(last.method_state["target"]["params"]) - kernel(last.params)
    assert np.abs(moved).max() > 1e-3


def test_the_loss_contrasts_with_the_targets_keys_and_with_the_queue():
    states, metrics = history()
    for t, (state, measured) in enumerate(zip(states, metrics, strict=False)):
        online = {"params": state.params, "batch_stats": state.batch_stats}
        z, _ = unit_projections(online, t)
        keys, _ = unit_projections(state.method_state["target"], t)
        queue = np.asarray(state.method_state["queue"], np.float64).reshape(-1, D)
        here, past = z @ keys.T / 0.2, z @ queue.T / 0.2
        others = np.where(np.eye(KEYS, dtype=bool), 0, np.exp(here)).sum(1) + np.exp(past).sum(1)
        positives = here[np.arange(KEYS), np.arange(KEYS) ^ 1]
        np.testing.assert_allclose(measured["loss"], (np.log(others) - positives).mean(), rtol=1e-5)
        np.testing.assert_allclose(
            measured["loss_chance"], np.log(KEYS - 1 + SLOTS * KEYS), rtol=1e-6
        )


def test_no_gradient_reaches_target_or_queue():
    state, views = history()[0][2], augment(ROOT, BATCH)

    def loss(params, memory):
        moved = state.replace(method_state=memory)
        return method(MEMORY).loss(params, moved, views, BATCH, ROOT)[0]

    online, memory = jax.jit(jax.grad(loss, argnums=(0, 1)))(state.params, state.method_state)
    assert all(np.abs(grad).max() > 0 for grad in jax.tree.leaves(online))
    assert all((np.asarray(grad) == 0).all() for grad in jax.tree.leaves(memory))


@pytest.mark.parametrize("memory", [None, MEMORY], ids=["plain", "memory"])
def test_gradient_scale_multiplies_the_gradient_and_no_metric(memory):
    state = start(memory)
    one, two = (
        jax.jit(make_train_step(method(memory, gradient_scale=scale), TX, ROOT))(state, BATCH)
        for scale in (1.0, 2.0)
    )
    moved = lambda after: jax.tree.map(np.subtract, after.params, state.params)
    # The rate is 1. What is left of a difference is the rounding of the parameters.
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(lambda a, b: close(2 * a, b), moved(one[0]), moved(two[0]))
    metrics = [{**one[1]}, {**two[1]}]
    norms = [{name: m.pop(name) for name in [*m] if name.startswith("norm/")} for m in metrics]
    np.testing.assert_allclose(2 * norms[0]["norm/grads"], norms[1]["norm/grads"], rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, *metrics)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_a_gradient_scale_that_trains_nothing_is_refused(scale):
    with pytest.raises(UserError, match=f"config.method.gradient_scale={scale}"):
        method(gradient_scale=scale)


@pytest.mark.parametrize(
    ("memory", "message"),
    [
        ({"ema": 1.0}, r"config.method.memory: ema=1.0; it must be in \[0, 1\)"),
        ({"ema": -0.1}, r"config.method.memory: ema=-0.1; it must be in \[0, 1\)"),
        ({"sise": 64}, r"config.method.memory.sise does not exist. Did you mean 'size'\?"),
        ({"size": "64K"}, r"config.method.memory.size='64K' is of type str"),
    ],
)
def test_a_wrong_setting_is_named(memory, message):
    with pytest.raises(UserError, match=message):
        method(memory)


@pytest.mark.parametrize(("size", "cure"), [(100, "96 or 128"), (31, "32")])
def test_a_queue_that_is_not_a_whole_number_of_batches_is_told_what_works(size, cure):
    init = functools.partial(init_state, method({"size": size}), TX, ROOT)
    message = rf"memory.size={size} .* 32 rows that a batch adds to it; use {cure}\."
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(init, BATCH)


def test_the_papers_size_and_rate_are_the_defaults():
    init = functools.partial(init_state, method({}), TX, ROOT)
    queue = jax.eval_shape(init, BATCH).method_state["queue"]
    assert queue.shape == (65536 // KEYS, KEYS, D)


def test_a_tile_reaches_the_loss_which_knows_that_its_mesh_has_one_device():
    one = jax.NamedSharding(make_mesh(jax.devices()[:1]), P())
    placed = jax.device_put((start(None), BATCH), one)
    programs = []
    for tile in (0, 12):
        tiled = simclr(MODEL, augment, FACTS, temperature=0.2, loss_tile=tile)
        programs.append(str(jax.make_jaxpr(make_train_step(tiled, TX, ROOT))(*placed)))
    assert [f"f32[{KEYS},{KEYS}]" in program for program in programs] == [True, False]
    assert "f32[12,12]" in programs[1]


def test_a_negative_tile_is_refused():
    with pytest.raises(UserError, match=r"config.method.loss_tile=-1 must be at least 0"):
        method(loss_tile=-1)
