"""Whole steps recorded from the released codes: loss, gradient, target, queue and parameters.

tests/unit/losses/conftest.py says where the numbers come from. The encoder stands for the toy one
of the recording, an affine map of five "pixels" and tanh, or nothing.
"""

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simclr_jax.core.run_facts import RunFacts
from simclr_jax.methods.moco_v2 import moco_v2
from simclr_jax.methods.moco_v3 import moco_v3
from simclr_jax.methods.simsiam import simsiam
from simclr_jax.methods.swav import swav
from simclr_jax.models.heads import MLP, Prototypes, unit_prototypes
from simclr_jax.models.ssl import SSLModel
from simclr_jax.optim.build import with_frozen
from simclr_jax.optim.schedules import RunSchedule
from simclr_jax.train.step import init_state, make_train_step

FAMILY = Path(__file__).parents[2] / "golden/family"
TOY: dict[str, Any] = {"kernel_init": "torch", "dtype": "float64"}


class Pixels(nn.Module):
    """Returns the pixels."""

    @nn.compact
    def __call__(self, images, *, train):
        del train
        return images.reshape(len(images), -1)


class Tanh(nn.Module):
    """Returns the tanh of an affine map of the pixels."""

    @nn.compact
    def __call__(self, images, *, train):
        del train
        body = nn.Dense(6, param_dtype=jnp.float64, name="body")
        return jnp.tanh(body(images.reshape(len(images), -1)))


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def read(name):
    with np.load(FAMILY / f"{name}.npz", allow_pickle=False) as arrays:
        return {key: jnp.asarray(array) for key, array in arrays.items()}


def torch_tree(arrays, prefix, layers):
    """Returns parameters named as ours: {"dense1": ("0",), ...} says which torch layer is which."""
    names = {"weight": "kernel", "bias": "bias"}
    tree = {}
    for ours, theirs in layers.items():
        tree[ours] = {}
        for name in names:
            if (key := f"{prefix}/{theirs}/{name}") in arrays:
                array = arrays[key]
                is_norm = ours.startswith("norm") and name == "weight"
                ours_name = "scale" if is_norm else names[name]
                tree[ours][ours_name] = array.T if array.ndim == 2 else array
    return tree


def close(got, want, rtol=1e-9):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * max(1.0, np.abs(b).max()))


def started(method, tx, views, params):
    """Returns a jitted step, and the state before the first one with these parameters."""
    root, batch = jax.random.key(0), {"views": views, "label": jnp.full(len(views), -1)}
    state = init_state(method, tx, root, batch)
    assert jax.tree.map(jnp.shape, state.params) == jax.tree.map(jnp.shape, params)
    step = jax.jit(make_train_step(method, tx, root))
    return step, state.replace(params=params, opt_state=tx.init(params)), batch


def given_views(key, batch):
    del key
    return batch["views"]


def test_moco_takes_the_released_steps_while_its_queue_wraps_around():
    arrays = read("moco")
    model = SSLModel(
        Pixels(), MLP(num_layers=1, output_dim=6, last_bias=True, last_norm="none", **TOY)
    )
    queue = arrays["setup/queue"]
    facts = RunFacts(num_steps=5, num_images=4, num_classes=0, batch_size=4)
    method = moco_v2(
        model,
        given_views,
        facts,
        temperature=float(arrays["setup/temperature"]),
        queue_size=len(queue),
        ema=float(arrays["setup/ema"]),
    )
    views = lambda t: jnp.stack(
        [arrays[f"step{t}/x_query"], arrays[f"step{t}/x_key"]], axis=1
    ).reshape(4, 2, 1, 1, 5)
    linear = lambda w, b: {"projector": {"dense1": {"kernel": arrays[w].T, "bias": arrays[b]}}}
    params = linear("setup/weight", "setup/bias")
    tx = optax.sgd(float(arrays["setup/learning_rate"]))
    step, state, batch = started(method, tx, views(0), params)
    target = {**state.method_state["target"], "params": params}
    state = state.replace(method_state={"target": target, "queue": queue.reshape(3, 4, 6)})
    for t in range(5):
        want = linear(f"step{t}/target_weight", f"step{t}/target_bias")
        close(state.method_state["target"]["params"], want)
        state, metrics = step(state, {**batch, "views": views(t)})
        close(metrics["loss"], arrays[f"step{t}/loss"])
        close(state.params, linear(f"step{t}/weight_after", f"step{t}/bias_after"))
        close(state.method_state["queue"].reshape(12, 6), arrays[f"step{t}/queue_after"])


def test_moco_v3_takes_the_released_steps():
    """To 1e-6: the rate of the target is float32."""
    arrays = read("moco_v3")
    layers = {"dense1": "0", "norm1": "1", "dense2": "3"}
    head = lambda last: MLP(num_layers=2, hidden_dim=7, output_dim=6, last_norm=last, **TOY)
    temperature = float(arrays["setup/temperature"])
    facts = RunFacts(int(arrays["setup/total_steps"]), num_images=8, num_classes=0, batch_size=8)
    method = moco_v3(
        SSLModel(Tanh(), head("no_affine"), predictor=head("none")),
        given_views,
        facts,
        temperature=temperature,
        ema=float(arrays["setup/ema_base"]),
        gradient_scale=4 * temperature,
    )

    def online(prefix):
        return {
            "encoder": torch_tree(arrays, f"{prefix}/base_encoder", {"body": "body"}),
            "projector": torch_tree(arrays, f"{prefix}/base_encoder/fc", layers),
            "predictor": torch_tree(arrays, f"{prefix}/predictor", layers),
        }

    def momentum(prefix):
        return {
            "encoder": torch_tree(arrays, f"{prefix}/momentum_encoder", {"body": "body"}),
            "projector": torch_tree(arrays, f"{prefix}/momentum_encoder/fc", layers),
        }

    views = lambda t: arrays[f"step{t}/x"].reshape(8, 2, 1, 1, 5)
    tx = optax.sgd(float(arrays["setup/learning_rate"]))
    step, state, batch = started(method, tx, views(0), online("setup/params"))
    target = {**state.method_state["target"], "params": momentum("setup/params")}
    state = state.replace(method_state={"target": target})
    for t in range(3):
        close(state.method_state["target"]["params"], momentum(f"step{t}/target"), rtol=1e-6)
        state, metrics = step(state, {**batch, "views": views(t)})
        close(4 * temperature * metrics["loss"], arrays[f"step{t}/loss"], rtol=1e-6)
        close(state.params, online(f"step{t}/params_after"), rtol=1e-6)


def test_simsiam_has_the_released_loss_and_gradients():
    """But of the last projector bias, which BatchNorm cancels: ours has none."""
    arrays = read("simsiam")
    projector = MLP(num_layers=3, hidden_dim=6, output_dim=6, last_norm="no_affine", **TOY)
    predictor = MLP(
        num_layers=2, hidden_dim=4, output_dim=6, last_bias=True, last_norm="none", **TOY
    )
    model = SSLModel(Tanh(), projector, predictor=predictor)
    facts = RunFacts(num_steps=1, num_images=8, num_classes=0, batch_size=8)
    method = simsiam(model, given_views, facts, gradient_scale=0.5)
    layers = {"dense1": "0", "norm1": "1", "dense2": "3", "norm2": "4"}

    def tree(kind):
        of = lambda part, layers: torch_tree(arrays, f"network/{kind}/{part}", layers)
        last = {"dense3": {"kernel": arrays[f"network/{kind}/encoder/fc/6/weight"].T}}
        return {
            "encoder": of("encoder", {"body": "body"}),
            "projector": {**of("encoder/fc", layers), **last},
            "predictor": of("predictor", {"dense1": "0", "norm1": "1", "dense2": "3"}),
        }

    views = arrays["network/x"].reshape(8, 2, 1, 1, 5)
    step, state, batch = started(method, optax.sgd(1.0), views, tree("params"))
    after, metrics = step(state, batch)
    close(metrics["loss"] / 2 - 1, arrays["network/loss"])
    close(jax.tree.map(np.subtract, state.params, after.params), tree("grads"), rtol=1e-7)


def test_swav_takes_the_released_steps_while_prototypes_thaw_and_the_queue_fills():
    arrays = read("swav")
    setup = lambda name: arrays[f"loop/setup/{name}"]
    head = MLP(num_layers=1, output_dim=6, last_bias=True, last_norm="none", **TOY)
    method = swav(
        SSLModel(Pixels(), head, prototypes=Prototypes(num_prototypes=6)),
        given_views,
        RunFacts(num_steps=7, num_images=4, num_classes=0, batch_size=4),  # an epoch is a step
        temperature=float(setup("temperature")),
        epsilon=float(setup("epsilon")),
        queue_size=int(setup("queue_length")),
        queue_start_epoch=float(setup("queue_starts_at_step")),
        freeze_epochs=float(setup("freeze_steps")),
    )

    def params(prefix, weight="weight", bias="bias", prototypes="prototypes"):
        names = (f"head_{weight}", f"head_{bias}", prototypes)
        weight, bias, prototypes = (arrays[f"loop/{prefix}/{name}"] for name in names)
        head = {"dense1": {"kernel": weight.T, "bias": bias}}
        tree = {"projector": head, "prototypes": {"kernel": prototypes.T}}
        return unit_prototypes(tree)  # recorded before the next step makes them unit

    def views(t):
        x = arrays[f"loop/step{t}/x"].reshape(4, 3, 1, 1, 5)
        return x[:, :2], x[:, 2:]

    def sgd(schedule):
        decay = optax.add_decayed_weights(float(setup("weight_decay")))
        return optax.chain(decay, optax.sgd(schedule, momentum=float(setup("momentum"))))

    rate = lambda step: float(setup("learning_rate"))
    schedule = RunSchedule(rate, held=rate, done=lambda step: 0.0)
    tx = with_frozen(sgd, schedule, method.frozen_params)
    root, batch = jax.random.key(0), {"views": views(0), "label": jnp.full(4, -1)}
    state = init_state(method, tx, root, batch)
    step = jax.jit(make_train_step(method, tx, root))
    state = state.replace(params=params("setup"), opt_state=tx.init(params("setup")))
    for t in range(7):
        state, metrics = step(state, {**batch, "views": views(t)})
        close(metrics["loss"], arrays[f"loop/step{t}/loss"], rtol=1e-6)
        want = params(f"step{t}", "weight_after", "bias_after", "prototypes_after")
        close(state.params, want, rtol=1e-6)
        if t >= 3:  # it is full; ours holds rows from before it is used, too
            queue = np.asarray(state.method_state["queue"], np.float64).transpose(
                2, 0, 1, 3
            )  # [2, slots, b, d]
            newest_first = np.roll(queue[:, ::-1], (t + 1) % 3, axis=1).reshape(2, 12, 6)
            close(newest_first, np.asarray(arrays[f"loop/step{t}/queue_after"]), rtol=1e-6)
