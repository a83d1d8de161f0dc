"""The convolution with its own gradients, against the one that JAX derives."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from simclr_jax.models import convolution
from simclr_jax.models.convolution import convolve, convolve_up
from tests.helpers import hlo


def by_jax(x, kernel, strides):
    pad = kernel.shape[0] // 2
    return jax.lax.conv_general_dilated(
        x, kernel, (strides,) * 2, ((pad,) * 2,) * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def vjp(convolution, x, kernel, strides):
    return jax.vjp(lambda x, kernel: convolution(x, kernel, strides), x, kernel)


@pytest.mark.parametrize("size", [(8, 6), (9, 7), (2, 2), (1, 3)])
@pytest.mark.parametrize(("kernel", "strides"), [(3, 1), (3, 2), (7, 2), (1, 1), (1, 2)])
def test_gradients_are_those_of_the_convolution(size, kernel, strides):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x = jnp.asarray(rng.standard_normal((2, *size, 3)))
        weights = jnp.asarray(rng.standard_normal((kernel, kernel, 3, 5)))
        want, pull_back = vjp(by_jax, x, weights, strides)
        got, own_pull_back = vjp(convolve, x, weights, strides)
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)
        dy = jnp.asarray(rng.standard_normal(want.shape))
        for a, b in zip(own_pull_back(dy), pull_back(dy), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(1, 1), (3, 4)])
def test_doubling_is_the_transposed_convolution_of_flax(size):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x = jnp.asarray(rng.standard_normal((2, *size, 3)))
        kernel = jnp.asarray(rng.standard_normal((4, 4, 3, 5)))
        up = nn.ConvTranspose(5, (4, 4), strides=(2, 2), use_bias=False, param_dtype="float64")

        def by_flax(x: jax.Array, kernel: jax.Array) -> jax.Array:
            y = up.apply({"params": {"kernel": kernel}}, x)
            assert isinstance(y, jax.Array)  # nothing is mutable here
            return y

        want, pull_back = jax.vjp(by_flax, x, kernel)
        dy = jnp.asarray(rng.standard_normal(want.shape))
        for form in (convolve_up, convolution._convolution_up):
            got, own_pull_back = jax.vjp(form, x, kernel)
            np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)
            for a, b in zip(own_pull_back(dy), pull_back(dy), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_a_loop_holds_only_convolutions_that_a_cpu_has_a_fast_kernel_for():
    x, kernel = jnp.ones((2, 4, 8, 8, 3)), jnp.ones((3, 3, 3, 5))

    def layouts(convolution):
        loss = lambda x, kernel: (jax.lax.map(lambda x: convolution(x, kernel, 2), x) ** 2).sum()
        compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(x, kernel).compile()
        return set(re.findall(r"dim_labels=([\w>-]+)", hlo(compiled)))

    assert layouts(convolve) == {"b01f_01io->b01f"}
    assert len(layouts(by_jax)) > 1  # or else there is no need for gradients of our own


@pytest.mark.parametrize("num_devices", [1, 4])
@pytest.mark.parametrize("strides", [1, 2])
def test_the_gradient_of_a_kernel_is_the_sum_over_parts_of_the_batch(
    num_devices, strides, monkeypatch
):
    """Of one image, or of two of the five that a device has, so that the last part is filled up."""
    num_pixels = -(-9 // strides) * -(-7 // strides)
    monkeypatch.setattr(convolution, "CACHE_BYTES", strides * num_pixels * 3 * 3 * 8)
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x = jnp.asarray(rng.standard_normal((5 * num_devices, 9, 7, 3)))
        weights = jnp.asarray(rng.standard_normal((3, 3, 3, 5)))
        want, pull_back = vjp(by_jax, x, weights, strides)
        dy = jnp.asarray(rng.standard_normal(want.shape))
        mesh = jax.make_mesh(
            (num_devices,), ("data",), (AxisType.Auto,), devices=jax.devices()[:num_devices]
        )
        split = jax.NamedSharding(mesh, jax.P("data"))
        pull = lambda x, weights, dy: vjp(convolve, x, weights, strides)[1](dy)
        own = jax.jit(pull).lower(jax.device_put(x, split), weights, jax.device_put(dy, split))
        text = hlo(own.compile())
        assert "while(" in text
        assert "all-gather" not in text
        got = own.compile()(jax.device_put(x, split), weights, jax.device_put(dy, split))
        for a, b in zip(got, pull_back(dy), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
