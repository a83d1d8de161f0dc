"""Folded BatchNorm: values, statistics and gradients of the plain layers, in float64."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from simclr_jax.models.folded import FoldedNorm, conv_norm_sum, conv_pool_norm_relu
from simclr_jax.models.layers import Conv, norm


class Folded(nn.Module):
    dtype: str = "float64"

    @nn.compact
    def __call__(self, x, other, *, train):
        branches = [
            (branch, Conv(12, 1, dtype=self.dtype, name=f"conv{i}"), FoldedNorm(name=f"norm{i}"))
            for i, branch in enumerate((x, other))
        ]
        return conv_norm_sum(*branches, train=train)


class Plain(nn.Module):
    dtype: str = "float64"

    @nn.compact
    def __call__(self, x, other, *, train):
        y = 0
        for i, branch in enumerate((x, other)):
            z = Conv(12, 1, dtype=self.dtype, name=f"conv{i}")(branch)
            y += norm(train=train, dtype=self.dtype, name=f"norm{i}")(z)
        return y


class FoldedStem(nn.Module):
    padding: str | tuple
    dtype: str = "float64"

    @nn.compact
    def __call__(self, x, other, *, train):
        conv = Conv(6, 7, 2, dtype=self.dtype, name="conv")
        args = (conv, FoldedNorm(name="norm"), self.padding)
        return conv_pool_norm_relu(x, *args, train=train) + other.mean()


class PlainStem(nn.Module):
    padding: Any  # for Flax a pool's is a name, although it takes numbers
    dtype: str = "float64"

    @nn.compact
    def __call__(self, x, other, *, train):
        x = Conv(6, 7, 2, dtype=self.dtype, name="conv")(x)
        x = nn.relu(norm(train=train, dtype=self.dtype, name="norm")(x))
        return nn.max_pool(x, (3, 3), strides=(2, 2), padding=self.padding) + other.mean()


def inputs(rows=4, size=12, dtype="float64"):
    rng = np.random.default_rng(0)
    draw = lambda c: jnp.asarray(rng.normal(0.5, size=(rows, size, size, c)), dtype)
    return draw(3), draw(5)


def variables_of(module, *args):
    """Draws all at random: half of the scales are negative."""
    shapes = jax.eval_shape(lambda key: module.init(key, *args, train=False), jax.random.key(0))
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda x: rng.normal(size=x.shape), shapes)
    return variables | {"batch_stats": jax.tree.map(np.abs, variables["batch_stats"])}


def run(module, variables, *args):
    """Returns outputs, new statistics, gradients of parameters and inputs, and inference."""

    def loss(params, *args):
        y, updated = module.apply(
            variables | {"params": params}, *args, train=True, mutable=["batch_stats"]
        )
        stats = jax.tree.map(jnp.sin, updated["batch_stats"])  # they have a gradient too
        total = (y.astype("float32" if y.dtype == jnp.bfloat16 else y.dtype) ** 3).mean()
        return total + sum(x.sum() for x in jax.tree.leaves(stats)), (y, updated)

    @jax.jit
    def everything(params, *args):
        gradient = jax.value_and_grad(loss, argnums=range(1 + len(args)), has_aux=True)
        return gradient(params, *args), module.apply(variables, *args, train=False)

    return everything(variables["params"], *args)


PAIRS = {
    "sum": (Folded, Plain, {}),
    "stem": (FoldedStem, PlainStem, {"padding": "SAME"}),
    "torchvision stem": (FoldedStem, PlainStem, {"padding": ((1, 1), (1, 1))}),
}


@pytest.mark.parametrize("size", [12, 13])
@pytest.mark.parametrize("pair", PAIRS)
def test_is_the_plain_layers_in_float64(pair, size):
    folded, plain, settings = PAIRS[pair]
    with jax.enable_x64(True):
        args = inputs(size=size)
        variables = variables_of(plain(**settings), *args)
        assert any((x < 0).any() for x in jax.tree.leaves(variables["params"]))
        got, want = (run(module(**settings), variables, *args) for module in (folded, plain))
    compare = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
    jax.tree.map(compare, got, want)


@pytest.mark.parametrize("pair", ["sum", "stem"])
def test_is_as_close_to_float64_in_bfloat16_as_the_plain_layers(pair):
    folded, plain, settings = PAIRS[pair]
    with jax.enable_x64(True):
        args = inputs(rows=16, size=24)
        variables = variables_of(plain(**settings), *args)
        want = run(plain(**settings), variables, *args)
        rough = {"dtype": "bfloat16"}
        errors = []
        for module in (folded, plain):
            got = run(module(**settings, **rough), variables, *args)
            distance = lambda a, b: jnp.linalg.norm((a - b).ravel()) / jnp.linalg.norm(b.ravel())
            errors.append(np.array(jax.tree.leaves(jax.tree.map(distance, got, want))))
    assert (errors[0] < 2 * errors[1] + 5e-3).all(), np.stack(errors)


def test_eight_devices_share_the_statistics():
    args = inputs(rows=16, dtype="float32")
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    split = jax.device_put(args, NamedSharding(mesh, P("data")))
    module = Folded("float32")
    variables = variables_of(module, *args)
    got, want = run(module, variables, *split), run(module, variables, *args)
    compare = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    jax.tree.map(compare, got, want)
