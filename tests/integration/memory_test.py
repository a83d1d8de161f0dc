"""The momentum memory in training: split over devices, stopped and resumed."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simclr_jax.core.run_facts import RunFacts
from simclr_jax.methods.momentum_memory import Memory
from simclr_jax.methods.simclr import simclr
from simclr_jax.models.heads import MLP
from simclr_jax.models.ssl import SSLModel
from simclr_jax.parallel.mesh import make_mesh
from simclr_jax.parallel.sharding import Layout, batch_sharding, replicated
from simclr_jax.train.checkpoint import Checkpoints
from simclr_jax.train.checkpoint_writer import CheckpointWriter
from simclr_jax.train.step import init_state, make_train_step
from tests.helpers import hlo

pytestmark = pytest.mark.integration
ROOT = jax.random.key(0)
B, SLOTS, D = 16, 3, 8
KEYS = 2 * B
FACTS = RunFacts(num_steps=100, num_images=64, num_classes=0, batch_size=B)


class Flat(nn.Module):
    """An encoder that compiles at once; BatchNorm stands in the projector."""

    @nn.compact
    def __call__(self, images, *, train):
        del train
        return nn.Dense(12, name="dense")(images.reshape(len(images), -1))


def augment(key, batch):
    images = batch["image"][:, None] / 255
    return images + 0.3 * jax.random.normal(key, (len(images), 2, *images.shape[2:]))


class Trainer:
    """SimCLR with a memory on a number of devices, placed and compiled as a run does it."""

    def __init__(self, num_devices):
        mesh = make_mesh(jax.devices()[:num_devices])
        model = SSLModel(encoder=Flat(), projector=MLP(num_layers=2, output_dim=D))
        method = simclr(model, augment, FACTS, memory=Memory(SLOTS * KEYS, ema=0.9))
        tx = optax.sgd(0.1, momentum=0.9)
        images = np.random.default_rng(0).integers(0, 256, (B, 4, 4, 3), np.uint8)
        batch = {"image": images, "label": np.full((B,), -1, np.int32)}
        self._batch = jax.device_put(batch, batch_sharding(mesh))
        init = functools.partial(init_state, method, tx, ROOT, jax.tree.map(jnp.asarray, batch))
        shapes = jax.eval_shape(init)
        placement = Layout().state_shardings(shapes, mesh, method.state_rules)
        placed = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
        self.abstract_state = jax.tree.map(placed, shapes, placement)
        self.start = jax.jit(init, out_shardings=placement)
        step = jax.jit(
            make_train_step(method, tx, ROOT),
            in_shardings=(placement, batch_sharding(mesh)),
            out_shardings=(placement, replicated(mesh)),
            donate_argnums=0,
        )
        self.step = step.lower(self.abstract_state, self._batch).compile()

    def train(self, state, num_steps):
        for _ in range(num_steps):
            state, metrics = self.step(state, self._batch)
            assert bool(metrics["health/finite"])
        return state


on_devices = functools.cache(Trainer)


def test_eight_devices_with_a_split_queue_take_the_steps_of_one():
    states = []
    for num_devices in (1, 8):
        trainer = on_devices(num_devices)
        states.append(trainer.train(trainer.start(), 4))
        shard = states[-1].method_state["queue"].addressable_shards[0].data
        assert shard.shape == (SLOTS, KEYS // num_devices, D)
    for one, eight in zip(*map(jax.tree.leaves, jax.device_get(states)), strict=True):
        np.testing.assert_allclose(eight, one, rtol=2e-4, atol=2e-5 * max(1.0, np.abs(one).max()))


def test_the_queue_is_never_gathered():
    arrays = set(re.findall(r"f32\[([\d,]+)\]", hlo(on_devices(8).step)))
    assert f"{KEYS},{SLOTS * KEYS // 8}" in arrays, "all queries with the keys of one device"
    whole = {f"{SLOTS},{KEYS},{D}", f"{KEYS},{SLOTS},{D}", f"{SLOTS * KEYS},{D}"}
    assert not arrays & whole


def test_a_resumed_run_ends_bit_equal_to_a_straight_one(tmp_path):
    eight = on_devices(8)
    straight = jax.device_get(eight.train(eight.start(), 7))
    state = eight.train(eight.start(), 4)  # in the second round of the queue
    stopped = jax.device_get(state)
    with CheckpointWriter(str(tmp_path)) as writer:
        writer.save(4, state, {"listing": "images"})
    checkpoints = Checkpoints(tmp_path)
    restored = checkpoints.restore(4, eight.abstract_state)
    elsewhere = checkpoints.restore(4, on_devices(1).abstract_state)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(elsewhere), stopped)
    resumed = jax.device_get(eight.train(restored, 3))
    jax.tree.map(np.testing.assert_array_equal, resumed, straight)
