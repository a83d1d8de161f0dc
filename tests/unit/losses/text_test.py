"""Losses of texts alone: golden numbers of SimCSE and of skip-gram."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.losses.momentum import info_nce
from simclr_jax.losses.skip_gram import skip_gram

GOLDEN = Path(__file__).parents[2] / "golden/multimodal/text.npz"


def golden(*names):
    with np.load(GOLDEN, allow_pickle=False) as arrays:
        return [jnp.asarray(arrays[name]) for name in names]


def check(got, case, names):
    value, grads = got
    (want, *want_grads) = golden(f"{case}/loss", *(f"{case}/grad_{name}" for name in names))
    for a, b in zip((value, *grads), (want, *want_grads), strict=True):
        assert a.dtype == np.float64
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("tile", [5, None])
@pytest.mark.parametrize("case", ["unsupervised", "supervised"])
def test_simcse_is_one_way_with_hard_negatives_as_candidates(case, tile):
    names = ("anchor", "positive", "hard_negative")[: 3 if case == "supervised" else 2]
    rows = golden(*(f"simcse/{name}" for name in names))
    (temperature,) = golden("simcse/temperature")

    def loss(anchor, positive, hard_negatives=None):
        rest = {"hard_negatives": hard_negatives, "tile": tile}
        return info_nce(anchor, positive, temperature=float(temperature), **rest)

    got = jax.jit(jax.value_and_grad(loss, argnums=range(len(rows))))(*rows)
    check(got, f"simcse/{case}", names)


@pytest.mark.usefixtures("float64")
def test_skip_gram_is_that_of_word2vec():
    names = ("center", "context", "negative")
    rows = golden(*(f"skip_gram/{name}" for name in names))
    check(jax.jit(jax.value_and_grad(skip_gram, argnums=(0, 1, 2)))(*rows), "skip_gram", names)


def test_skip_gram_without_a_product_is_chance():
    rows = jnp.zeros((3, 4))
    loss = skip_gram(rows, rows, jnp.ones((3, 5, 4)))
    np.testing.assert_allclose(loss, 6 * np.log(2), rtol=1e-6)
