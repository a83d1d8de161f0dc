"""Optimizers against five steps of the official LARS and against written-out updates."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simclr_jax.optim.build import OPTIMIZERS, adamw, lars, sgd

GOLDEN = np.load(Path(__file__).parents[2] / "golden/lars.npz")
# The official variable -> where a parameter of that kind lives here.
OURS = {
    "resnet/conv2d_fixed_padding/conv2d/kernel": ("encoder", "stem_conv", "kernel"),
    "resnet/batch_norm_relu/sync_batch_normalization/gamma": ("encoder", "stem_norm", "scale"),
    "resnet/batch_norm_relu/sync_batch_normalization/beta": ("encoder", "stem_norm", "bias"),
    "projection_head/nl_0/dense/kernel": ("projector", "dense1", "kernel"),
    "projection_head/nl_0/batch_norm_relu_1/sync_batch_normalization_1/gamma": (
        "projector",
        "norm1",
        "scale",
    ),
    "head_supervised/linear_layer/dense_1/kernel": ("classifier", "kernel"),
    "head_supervised/linear_layer/dense_1/bias": ("classifier", "bias"),
    "all_zero/kernel": ("encoder", "zero", "kernel"),
}


def tree(prefix: str) -> dict:
    """Reads the golden tensors under `prefix` into a tree of our names."""
    out: dict = {}
    for official, path in OURS.items():
        node = out
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = jnp.asarray(GOLDEN[f"{prefix}/{official}"])
    return out


def test_lars_takes_the_official_steps():
    rates, decay = jnp.asarray(GOLDEN["lrs"]), float(GOLDEN["weight_decay"])
    tx = lars(lambda step: rates[step], weight_decay=decay, momentum=0.9)
    params = tree("init")
    state = tx.init(params)
    for i in range(5):
        grads = tree(f"grad{i}")
        # The official gradient of the classifier holds its decay already: that is in the loss.
        grads["classifier"]["kernel"] -= decay * params["classifier"]["kernel"]
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        want = tree(f"classic/step{i}")
        for path, got in jax.tree_util.tree_leaves_with_path(params):
            where = f"step {i} {jax.tree_util.keystr(path)}"
            leaf = functools.reduce(lambda node, key: node[key.key], path, want)
            np.testing.assert_allclose(got, leaf, rtol=2e-5, atol=1e-6, err_msg=where)


def one_step(tx, params, grads):
    updates, _ = tx.update(grads, tx.init(params), params)
    return optax.apply_updates(params, updates)


PARAMS = {
    "conv": {"kernel": jnp.array([3.0, 4.0]), "bias": jnp.array([2.0])},
    "norm1": {"scale": jnp.array([1.0]), "bias": jnp.array([0.5])},
}
GRADS = jax.tree.map(jnp.ones_like, PARAMS)


def test_sgd_is_nesterov_and_decays_all_but_batch_norm():
    got = one_step(sgd(lambda _: 0.1, weight_decay=0.5, momentum=0.9), PARAMS, GRADS)
    # First step: velocity = g, update = lr * (g + 0.9 g).
    np.testing.assert_allclose(got["conv"]["kernel"], [3 - 0.19 * 2.5, 4 - 0.19 * 3.0], rtol=1e-6)
    np.testing.assert_allclose(got["conv"]["bias"], [2 - 0.19 * 2.0], rtol=1e-6)
    np.testing.assert_allclose(got["norm1"]["scale"], [1 - 0.19], rtol=1e-6)
    np.testing.assert_allclose(got["norm1"]["bias"], [0.5 - 0.19], rtol=1e-6)


def test_adamw_decays_only_weights():
    got = one_step(adamw(lambda _: 0.1, weight_decay=0.5), PARAMS, GRADS)
    # First step: the normalised gradient is 1.
    np.testing.assert_allclose(got["conv"]["kernel"], [3 - 0.1 * 2.5, 4 - 0.1 * 3.0], rtol=1e-5)
    np.testing.assert_allclose(got["conv"]["bias"], [1.9], rtol=1e-5)
    np.testing.assert_allclose(got["norm1"]["scale"], [0.9], rtol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_keeps_the_structure_of_its_state(name):
    tx = OPTIMIZERS[name](lambda _: 0.1)
    state = tx.init(PARAMS)
    _, after = jax.jit(tx.update)(GRADS, state, PARAMS)
    shapes = lambda tree: jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree)
    assert shapes(state) == shapes(after)
