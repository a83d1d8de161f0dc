"""MLP: values against NumPy, sizes, initialisation and bad arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.models.heads import MLP
from tests import helpers


def init(projector: MLP, width: int = 24):
    return helpers.init(projector, jax.random.key(0), jnp.zeros((1, width)), train=False)


def shapes(projector: MLP, width: int):
    x = jnp.zeros((1, width))
    return jax.eval_shape(lambda key: projector.init(key, x, train=False), jax.random.key(0))


def test_training_mode_matches_numpy():
    projector = MLP(num_layers=3, output_dim=16)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(32, 24)), jnp.float32)
    variables = init(projector)
    got, _ = projector.apply(variables, x, train=True, mutable=["batch_stats"])
    v = np.asarray(x, np.float64)
    for i in (1, 2, 3):
        v = v @ np.asarray(variables["params"][f"dense{i}"]["kernel"], np.float64)
        v = (v - v.mean(axis=0)) / np.sqrt(v.var(axis=0) + 1e-5)
        v = v if i == 3 else np.maximum(v, 0)
        # A variance of 1e-3 beside epsilon 1e-5, three times over, amplifies rounding.
        np.testing.assert_allclose(got[i - 1], v, atol=1e-4)


@pytest.mark.parametrize(
    ("width", "trainable"),
    [(2048, 8659072), (4096, 34095232), (6144, 76308608), (8192, 135299200), (512, 592000)],
)
def test_has_exactly_the_official_number_of_parameters(width, trainable):
    params = shapes(MLP(num_layers=3), width)["params"]
    assert sum(x.size for x in jax.tree.leaves(params)) == trainable


def test_widths_can_be_set():
    params = shapes(MLP(num_layers=2, hidden_dim=40, output_dim=64), 24)["params"]
    assert params["dense1"]["kernel"].shape == (24, 40)
    assert params["dense2"]["kernel"].shape == (40, 64)
    assert params.keys() == {"dense1", "norm1", "dense2", "norm2"}


def test_last_norm_scales_but_does_not_shift_and_none_starts_at_zero():
    params = init(MLP(num_layers=3))["params"]
    assert params["norm3"].keys() == {"scale"}
    assert params["norm2"].keys() == {"scale", "bias"}
    for i in (1, 2, 3):
        np.testing.assert_array_equal(params[f"norm{i}"]["scale"], 1.0)


def test_dense_kernels_start_normal_without_truncation():
    kernel = init(MLP(num_layers=1, output_dim=512), width=512)["params"]["dense1"]["kernel"]
    np.testing.assert_allclose(kernel.std(), 0.01, rtol=0.01)
    assert float(jnp.abs(kernel).max()) > 0.035


def test_dense_kernels_can_start_as_pytorch_does():
    """Uniform between -/+ 1 / sqrt(inputs): nn.Linear's reset_parameters."""
    projector = MLP(num_layers=1, output_dim=512, kernel_init="torch")
    kernel = init(projector, width=400)["params"]["dense1"]["kernel"]
    quantiles = np.quantile(kernel, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(20 * quantiles, [-1, -0.5, 0, 0.5, 1], atol=0.01)


def test_one_layer_is_a_linear_projection_and_may_be_negative():
    projector = MLP(num_layers=1)
    x = jax.random.normal(jax.random.key(1), (8, 24))
    outputs = helpers.apply(projector, init(projector), x, train=False)
    assert [x.shape for x in outputs] == [(8, 128)]
    assert float(outputs[0].min()) < 0


def test_bfloat16_returns_float32():
    projector = MLP(dtype="bfloat16")
    outputs = helpers.apply(projector, init(projector), jnp.ones((2, 24)), train=False)
    assert [x.dtype for x in outputs] == [jnp.float32] * 3


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_layers": 0}, "num_layers=0; it must be at least 1"),
        ({"output_dim": 0}, "output_dim=0"),
        ({"hidden_dim": -3}, "hidden_dim=-3"),
        ({"kernel_init": "he"}, r"kernel_init='he' must be one of .*'torch'"),
    ],
)
def test_names_the_bad_argument(kwargs, message):
    with pytest.raises(ValueError, match=message):
        MLP(**kwargs)
