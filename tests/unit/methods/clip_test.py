"""CLIP, CLAP and SigLIP as methods: what is learned beside the towers, and what they must be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.augment.policies import POLICIES
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.state import TrainState
from simclr_jax.methods.clap import clap
from simclr_jax.methods.clip import clip
from simclr_jax.methods.siglip import siglip
from simclr_jax.models.heads import MLP
from simclr_jax.models.ssl import SSLModel
from simclr_jax.models.text import TextTransformer

FACTS = RunFacts(num_steps=10, num_images=64, num_classes=0, batch_size=16)
AUGMENT = POLICIES["finetune"](size=12).augment


@pytest.fixture
def model(tiny_encoder):
    head = lambda: MLP(num_layers=1, output_dim=4, last_norm="none", kernel_init="lecun")
    text = TextTransformer(num_tokens=20, context=6, width=8, depth=1, num_heads=2)
    return SSLModel(tiny_encoder, projector=head(), text=text, text_projector=head())


def example():
    """Returns one view of each of 16 images, and captions of which every fourth is the same."""
    rng = np.random.default_rng(0)
    ids = np.arange(16) % 12
    text = rng.integers(2, 20, (12, 6))[ids].astype(np.int32)
    batch = {"text": text, "text_length": np.full(16, 6, np.int32), "text_id": ids}
    views = jnp.asarray(rng.uniform(size=(16, 1, 12, 12, 3)), jnp.float32)
    return views, jax.tree.map(jnp.asarray, batch)


def start(method, views):
    variables = jax.jit(method.init)(jax.random.key(0), views)
    return TrainState(0, variables.params, variables.batch_stats, (), variables.method_state)


def loss_of(method, state, views, batch):
    fn = lambda params: method.loss(params, state, views, batch, jax.random.key(1))
    return jax.jit(jax.value_and_grad(fn, has_aux=True))(state.params)


def rows_of(model, state, views, batch):
    """Returns unit rows of both towers in float64."""
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    out, _ = model.apply(variables, views[:, 0], train=True, mutable=["batch_stats"])
    texts = {"text": batch["text"], "length": batch["text_length"]}
    rows = out["projection"], model.apply(variables, texts, method="embed_text")
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    return [unit(np.asarray(x, np.float64)) for x in rows]


def test_clip_is_the_cross_entropy_of_both_ways_without_the_pairs_of_equal_captions(model):
    method, (views, batch) = clip(model, AUGMENT, FACTS), example()
    state = start(method, views)
    (value, out), grads = loss_of(method, state, views, batch)
    u, v = rows_of(model, state, views, batch)
    z = u @ v.T / 0.07
    ids = np.asarray(batch["text_id"])
    z[(ids[:, None] == ids[None, :]) & ~np.eye(16, dtype=bool)] = -np.inf
    entropy = lambda z: np.mean(np.log(np.exp(z).sum(axis=1)) - np.diag(z))
    np.testing.assert_allclose(value, (entropy(z) + entropy(z.T)) / 2, rtol=1e-5)
    np.testing.assert_allclose(out.metrics["loss_image_to_text"], entropy(z), rtol=1e-5)
    np.testing.assert_allclose(out.metrics["loss_text_to_image"], entropy(z.T), rtol=1e-5)
    np.testing.assert_allclose(out.metrics["duplicates"], 4 / 16, rtol=1e-6)
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads["text"]))
    assert grads["log_scale"].shape == ()
    assert float(grads["log_scale"]) != 0


def test_clap_is_the_same_with_sounds_in_the_place_of_images(model):
    views, batch = example()
    values = {}
    for method in (clip(model, AUGMENT, FACTS), clap(model, AUGMENT, FACTS)):
        state = start(method, views)
        _, out = jax.jit(method.loss)(state.params, state, views, batch, jax.random.key(1))
        values |= out.metrics
    np.testing.assert_array_equal(values["loss_audio_to_text"], values["loss_image_to_text"])
    np.testing.assert_array_equal(values["loss_text_to_audio"], values["loss_text_to_image"])
    assert values["loss_audio_to_text"] != values["loss_text_to_audio"]


def test_siglip_starts_from_the_odds_of_a_pair(model):
    method, (views, batch) = siglip(model, AUGMENT, FACTS), example()
    state = start(method, views)
    np.testing.assert_allclose(state.params["logit_bias"], -np.log(15), rtol=1e-6)
    (value, _), _ = loss_of(method, state, views, batch)
    u, v = rows_of(model, state, views, batch)
    ids = np.asarray(batch["text_id"])
    sign = np.where(ids[:, None] == ids[None, :], 1, -1)
    z = 10 * u @ v.T - np.log(15)
    np.testing.assert_allclose(value, np.log1p(np.exp(-sign * z)).sum() / 16, rtol=1e-5)


@pytest.mark.parametrize(("given", "kept"), [(9.0, np.log(100)), (-1.0, 0.0), (3.0, 3.0)])
def test_the_scale_is_put_back_after_an_update(model, given, kept):
    method = clip(model, AUGMENT, FACTS)
    params = method.constrain({"log_scale": jnp.float32(given), "other": 1})
    np.testing.assert_allclose(params["log_scale"], kept, rtol=1e-6)
    assert params["other"] == 1


def test_the_parts_of_a_batch_give_the_gradients_of_the_whole(model):
    views, batch = example()
    model = model.clone(encoder=model.encoder.clone(norm=False))
    results = []
    for chunks in (1, 4):
        method = clip(model, AUGMENT, FACTS, grad_cache_chunks=chunks)
        results.append(loss_of(method, start(method, views), views, batch)[1])
    for whole, parts in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(whole, parts, rtol=1e-4, atol=1e-5)


def test_a_locked_image_tower_stays_and_the_rest_learns(model):
    method, (views, batch) = clip(model, AUGMENT, FACTS, lock_images=True), example()
    state = start(method, views)
    (_, out), grads = loss_of(method, state, views, batch)
    assert not any(np.abs(g).max() for g in jax.tree.leaves(grads["encoder"]))
    for name in ("projector", "text", "text_projector"):
        assert any(np.abs(g).max() > 0 for g in jax.tree.leaves(grads[name]))
    assert method.frozen_params[0].pattern == "encoder/.*"
    before, after = map(jax.tree.leaves, (state.batch_stats, out.batch_stats))
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_model_without_text_is_refused(tiny_encoder):
    model = SSLModel(tiny_encoder, projector=MLP(num_layers=1, output_dim=4))
    with pytest.raises(ValueError, match="needs heads with a projector and a text and a text_proj"):
        clip(model, AUGMENT, FACTS)


def test_two_views_are_refused(model):
    method, (views, _) = clip(model, AUGMENT, FACTS), example()
    two = jnp.concatenate([views, views], axis=1)
    with pytest.raises(ValueError, match=r"one view of each image, and config\.augment makes 2"):
        method.init(jax.random.key(0), two)
