"""Convolution, BatchNorm, pooling and selective kernels: numbers worked out by hand or NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.models.layers import Conv, SelectiveKernel, average_pool_2x2, norm
from tests.helpers import apply, init


def test_strided_convolution_pads_even_images_on_both_sides():
    layer = Conv(1, 3, strides=2, dtype="float32", name="conv")
    ones = {"params": {"kernel": jnp.ones((3, 3, 1, 1))}}
    out = apply(layer, ones, jnp.ones((1, 4, 4, 1)))
    np.testing.assert_array_equal(out[0, :, :, 0], [[4, 6], [6, 9]])


@pytest.mark.parametrize(
    ("kernel_init", "variance"), [("lecun", 1 / (9 * 64)), ("he_fan_out", 2 / (9 * 256))]
)
def test_convolution_starts_with_the_variance_of_its_initialisation(kernel_init, variance):
    layer = Conv(256, 3, dtype="float32", kernel_init=kernel_init, name="conv")
    kernel = init(layer, jax.random.key(0), jnp.ones((1, 3, 3, 64)))["params"]["kernel"]
    np.testing.assert_allclose(kernel.std(), np.sqrt(variance), rtol=0.01)
    # LeCun's is cut off at two deviations before it is scaled, PyTorch's He is not.
    assert (np.abs(kernel).max() > 4 * kernel.std()) == (kernel_init == "he_fan_out")


def test_running_statistics_take_a_tenth_of_the_biased_batch_statistics():
    layer = norm(train=True, dtype="float32", name="norm")
    x = jnp.array([1.0, 2.0, 3.0, 6.0]).reshape(4, 1, 1, 1)
    variables = layer.init(jax.random.key(0), x)
    out, updated = apply(layer, variables, x, mutable=["batch_stats"])
    np.testing.assert_allclose(updated["batch_stats"]["mean"], [0.1 * 3.0], rtol=1e-6)
    np.testing.assert_allclose(updated["batch_stats"]["var"], [0.9 + 0.1 * 3.5], rtol=1e-6)
    want = np.array([-2, -1, 0, 3]) / np.sqrt(3.5 + 1e-5)
    np.testing.assert_allclose(out.ravel(), want, rtol=1e-5, atol=1e-6)


def test_statistics_of_bfloat16_activations_are_float32():
    layer = norm(train=True, dtype="bfloat16", name="norm")
    x = (3 + jax.random.normal(jax.random.key(0), (4096, 1, 1, 2))).astype(jnp.bfloat16)
    variables = layer.init(jax.random.key(1), x)
    out, updated = apply(layer, variables, x, mutable=["batch_stats"])
    assert out.dtype == jnp.bfloat16
    x = np.asarray(x, np.float64)
    np.testing.assert_allclose(
        updated["batch_stats"]["mean"], 0.1 * x.mean(axis=(0, 1, 2)), rtol=1e-5
    )
    np.testing.assert_allclose(
        updated["batch_stats"]["var"], 0.9 + 0.1 * x.var(axis=(0, 1, 2)), rtol=1e-5
    )


@pytest.mark.parametrize("shape", [(4, 6), (5, 7), (1, 2)])
@pytest.mark.parametrize("strides", [1, 2])
def test_average_pool_counts_padding_only_with_a_stride(shape, strides):
    h, w = shape
    x = np.random.default_rng(0).normal(size=(2, h, w, 3)).astype(np.float32)
    rows = []
    for i in range(0, h, strides):
        windows = [x[:, i : i + 2, j : j + 2].astype(np.float64) for j in range(0, w, strides)]
        counts = [4 if strides == 2 else v.shape[1] * v.shape[2] for v in windows]
        sums = [v.sum(axis=(1, 2)) for v in windows]
        rows.append(np.stack([s / c for s, c in zip(sums, counts, strict=True)], axis=1))
    got = average_pool_2x2(jnp.asarray(x), strides=strides)
    np.testing.assert_allclose(got, np.stack(rows, axis=1), rtol=1e-5, atol=1e-6)


def softmax(x, axis):
    x = np.exp(x - x.max(axis=axis, keepdims=True))
    return x / x.sum(axis=axis, keepdims=True)


def test_selective_kernel_mixes_the_two_halves_by_a_softmax_over_them():
    layer = SelectiveKernel(features=4, ratio=0.0625, strides=2)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 6, 6, 3)), jnp.float32)
    shapes = jax.eval_shape(lambda key: layer.init(key, x, train=False), jax.random.key(0))
    draw = lambda shape: jnp.asarray(rng.uniform(0.1, 1, shape.shape), shape.dtype)
    variables = jax.tree.map(draw, shapes)
    got, state = jax.jit(
        lambda: layer.apply(
            variables, x, train=False, capture_intermediates=True, mutable=["intermediates"]
        )
    )()
    inner = {
        name: np.asarray(calls["__call__"][0], np.float64)
        for name, calls in state["intermediates"].items()
        if name != "__call__"
    }
    relu = lambda v: np.maximum(v, 0)
    streams = relu(inner["norm"])
    a, b = streams[..., :4], streams[..., 4:]
    pooled = (a + b).mean(axis=(1, 2))  # [n, 4]
    double = jax.tree.map(lambda v: np.asarray(v, np.float64), variables)
    params, stats = double["params"], double["batch_stats"]["squeeze_norm"]
    squeezed = pooled @ params["squeeze_conv"]["kernel"][0, 0]
    squeezed = (squeezed - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
    squeezed = relu(squeezed * params["squeeze_norm"]["scale"] + params["squeeze_norm"]["bias"])
    logits = squeezed @ params["select_conv"]["kernel"][0, 0]
    weights = softmax(np.stack([logits[:, :4], logits[:, 4:]]), axis=0)[:, :, None, None, :]
    assert got.shape == (2, 3, 3, 4)
    np.testing.assert_allclose(got, a * weights[0] + b * weights[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("features", "squeezed"), [(64, 32), (512, 32), (1024, 64)])
def test_selective_kernel_descriptor_has_at_least_32_channels(features, squeezed):
    layer = SelectiveKernel(features=features, ratio=0.0625)
    x = jnp.ones((1, 4, 4, 8))
    shapes = jax.eval_shape(lambda key: layer.init(key, x, train=False), jax.random.key(0))
    assert shapes["params"]["squeeze_conv"]["kernel"].shape == (1, 1, features, squeezed)
