"""SimCSE: the golden loss through the method, its views by dropout, and what it refuses."""

from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.augment.policies import POLICIES
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.state import TrainState
from simclr_jax.methods.simcse import simcse
from simclr_jax.models.heads import MLP
from simclr_jax.models.ssl import SSLModel
from simclr_jax.models.text import TextTransformer

GOLDEN = Path(__file__).parents[2] / "golden/multimodal/text.npz"
AUGMENT = POLICIES["texts"]().augment
BATCH = 8
FACTS = RunFacts(num_steps=10, num_images=64, num_classes=0, batch_size=BATCH)


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def tower(dropout=0.1, kind=SSLModel, **others):
    head = MLP(num_layers=1, output_dim=4, last_norm="none", kernel_init="lecun")
    text = TextTransformer(
        num_tokens=20, context=6, width=8, depth=1, num_heads=2, causal=False, dropout=dropout
    )
    return kind(**{"encoder": None, "text": text, "text_projector": head} | others)


def texts(num_texts):
    """Returns random tokens [b, v, 6], as many in each text."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(2, 20, (BATCH, num_texts, 6)).astype(np.int32)
    return {"text": jnp.asarray(tokens), "length": jnp.full((BATCH, num_texts), 6, jnp.int32)}


def start(method, views):
    variables = jax.jit(method.init)(jax.random.key(0), views)
    return TrainState(0, variables.params, variables.batch_stats, (), variables.method_state)


def loss_of(method, state, views, seed=1):
    fn = lambda params: method.loss(params, state, views, {}, jax.random.key(seed))
    return jax.jit(jax.value_and_grad(fn, has_aux=True))(state.params)


class Rows(SSLModel):
    """Token i stands for row i of the parameters."""

    num_rows: int = 0

    @nn.compact
    def embed_text(self, texts, *, train=False):
        shape = (self.num_rows, 8)
        rows = self.param("rows", nn.initializers.zeros, shape, jnp.float64)
        return rows[texts["text"][:, 0]]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("loss_tile", [None, 5])
@pytest.mark.parametrize("case", ["unsupervised", "supervised"])
def test_loss_and_gradients_are_the_golden_ones(case, loss_tile):
    names = ("anchor", "positive", "hard_negative")[: 3 if case == "supervised" else 2]
    with np.load(GOLDEN, allow_pickle=False) as arrays:
        rows = np.stack([arrays[f"simcse/{name}"] for name in names])  # [v, n, d]
        temperature = float(arrays["simcse/temperature"])
        want_loss = arrays[f"simcse/{case}/loss"]
        want_grads = np.stack([arrays[f"simcse/{case}/grad_{name}"] for name in names])
    v, n, d = rows.shape
    numbers = jnp.asarray(np.arange(v * n).reshape(v, n).T[..., None])  # [n, v, 1]
    views = {"text": numbers, "length": jnp.ones((n, v), jnp.int32)}
    facts = RunFacts(num_steps=10, num_images=n, num_classes=0, batch_size=n)
    settings = {"temperature": temperature, "loss_tile": loss_tile, "hard_negatives": v == 3}
    method = simcse(tower(kind=Rows, num_rows=v * n), AUGMENT, facts, **settings)
    state = TrainState(0, {"rows": jnp.asarray(rows.reshape(v * n, d))}, {}, (), ())
    (value, out), grads = loss_of(method, state, views)
    assert value.dtype == np.float64
    np.testing.assert_allclose(value, want_loss, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(grads["rows"], want_grads.reshape(v * n, d), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(out.metrics["loss_chance"], np.log((v - 1) * n), rtol=1e-6)


def test_one_text_is_its_own_positive_under_another_mask():
    model, views = tower(), texts(1)
    method = simcse(model, AUGMENT, FACTS)
    state = start(method, views)
    (value, out), grads = loss_of(method, state, views)
    # Both views of a sentence are neighbours, and go through the tower at once.
    twice = {key: jnp.repeat(x[:, 0], 2, axis=0) for key, x in views.items()}
    rows = model.apply(
        {"params": state.params},
        twice,
        method="embed_text",
        train=True,
        rngs={"dropout": jax.random.key(1)},
    )
    rows = np.asarray(rows, np.float64).reshape(BATCH, 2, -1)
    assert np.abs(rows[:, 0] - rows[:, 1]).max() > 0.01
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    z = rows[:, 0] @ rows[:, 1].T / 0.05
    want = np.mean(np.log(np.exp(z).sum(axis=1)) - np.diag(z))
    np.testing.assert_allclose(value, want, rtol=1e-4)
    np.testing.assert_allclose(
        out.metrics["alignment"], ((rows[:, 0] - rows[:, 1]) ** 2).sum(axis=-1).mean(), rtol=1e-4
    )
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads["text_projector"]))
    assert np.abs(grads["text"]["embed"]["embedding"]).max() > 0
    (again, _), _ = loss_of(method, state, views)
    (other, _), _ = loss_of(method, state, views, seed=2)
    assert float(again) == float(value) != float(other)


def test_parts_of_a_batch_give_the_gradients_of_the_whole():
    views = texts(2)
    results = []
    for chunks in (1, 4):
        method = simcse(tower(dropout=0.0), AUGMENT, FACTS, grad_cache_chunks=chunks)
        results.append(loss_of(method, start(method, views), views)[1])
    for whole, parts in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(whole, parts, rtol=1e-4, atol=1e-5)


def test_a_tower_without_dropout_needs_pairs():
    method = simcse(tower(dropout=0.0), AUGMENT, FACTS)
    with pytest.raises(ValueError, match=r"dropout=0 makes both views of a sentence the same"):
        method.init(jax.random.key(0), texts(1))
    assert "text" in method.init(jax.random.key(0), texts(2)).params


@pytest.mark.parametrize(("hard_negatives", "num_texts"), [(True, 2), (False, 3)])
def test_hard_negatives_are_the_third_texts(hard_negatives, num_texts):
    method = simcse(tower(), AUGMENT, FACTS, hard_negatives=hard_negatives)
    with pytest.raises(ValueError, match=rf"and config\.augment\.num_texts is {num_texts}"):
        method.init(jax.random.key(0), texts(num_texts))


def test_an_encoder_is_refused(tiny_encoder):
    with pytest.raises(ValueError, match=r"trains a text tower alone: use config\.encoder\.name"):
        simcse(tower(encoder=tiny_encoder), AUGMENT, FACTS)
