"""Margin and triplet losses: golden numbers, degenerate batches, and unlabelled rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.losses import metric
from simclr_jax.losses.metric import MINING
from simclr_jax.losses.similarity import unit_rows
from tests.helpers import jitted

margin_loss = jitted(metric.margin_loss)
triplet_loss = jitted(metric.triplet_loss)
SCALES = {"unit": unit_rows, "raw": lambda x: x}
TRIPLETS = {
    "all": "all_avg_nonzero",
    "semi_hard": "semihard_mean",
    "batch_hard": "batch_hard",
    "batch_hard_soft": "batch_hard_soft",
}
CASES = ("plain", "all_one_class", "all_distinct", "single_sample_class", "nothing_violates")


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("scale", SCALES)
def test_margin_is_hadsells_mean_over_pairs(golden, close, scale):
    numbers = golden("margin")
    for margin in (0.5, 1.0):
        name = f"pairs/{scale}/m{margin}"

        @jax.jit
        @functools.partial(jax.value_and_grad, has_aux=True)
        def loss(x, margin=margin):
            return margin_loss(SCALES[scale](x), numbers["pairs/labels"], margin=margin)

        (value, terms), grad = loss(numbers["pairs/x"])
        close(value, numbers[f"{name}/hadsell_mean"], name)
        close(grad, numbers[f"{name}/grad_x_of_mean"], name)
        close(terms["positive_term"], numbers[f"{name}/pos_term_mean"], name)
        close(terms["negative_term"], numbers[f"{name}/neg_term_mean"], name)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("mining", MINING)
def test_triplets_are_those_of_pytorch_metric_learning(golden, close, scale, mining):
    numbers = golden("triplet")
    for margin in (0.2, 1.0):

        @jax.jit
        @jax.value_and_grad
        def loss(x, labels, margin=margin):
            return triplet_loss(SCALES[scale](x), labels, margin=margin, mining=mining)

        for case in CASES:
            name = f"{case}/{scale}/m{margin}/{TRIPLETS[mining]}"
            x, labels = numbers[f"{case}/x"], numbers[f"{case}/labels"]
            value, grad = loss(x, labels)
            close(value, numbers[f"{name}/loss"], name)
            close(grad, numbers[f"{name}/grad_x"], name)


@pytest.mark.parametrize("mining", MINING)
def test_rows_without_a_class_take_no_part(mining):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 4)), jnp.float32)
    labels = jnp.array([0, 0, 1, 1, -1, -1, -1, -1])
    losses = {
        "triplet": lambda x, labels: triplet_loss(x, labels, margin=1.0, mining=mining),
        "margin": lambda x, labels: margin_loss(x, labels, margin=1.0)[0],
    }
    for loss in losses.values():
        value, grad = jax.jit(jax.value_and_grad(loss))(x, labels)
        np.testing.assert_allclose(value, loss(x[:4], labels[:4]), rtol=1e-6)
        assert np.any(np.asarray(grad)[:4])
        assert not np.any(np.asarray(grad)[4:])


@pytest.mark.parametrize("mining", MINING)
def test_equal_rows_have_a_finite_gradient(mining):
    x, labels = jnp.ones((4, 3)), jnp.array([0, 0, 1, 1])
    losses = (
        lambda x: triplet_loss(x, labels, margin=0.5, mining=mining),
        lambda x: margin_loss(x, labels, margin=0.5)[0],
    )
    want = {"all": 0.5, "semi_hard": 0.0, "batch_hard": 0.5, "batch_hard_soft": np.log(2)}
    values = []
    for loss in losses:
        value, grad = jax.jit(jax.value_and_grad(loss))(x)
        values.append(float(value))
        assert np.isfinite(grad).all()
    np.testing.assert_allclose(values, [want[mining], 4 / 6 * 0.5**2 / 2], rtol=1e-6)


def test_unknown_mining_is_told_what_there_is():
    with pytest.raises(ValueError, match=r"mining='hard' is unknown; .* 'semi_hard'"):
        triplet_loss(jnp.ones((4, 3)), jnp.arange(4), margin=0.5, mining="hard")
