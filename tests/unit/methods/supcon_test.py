"""SupCon and the hybrid: what they ask of the data, and what the hybrid becomes at its ends."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.core.errors import UserError
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.sections import build_section
from simclr_jax.core.state import TrainState
from simclr_jax.methods.hybrid import hybrid
from simclr_jax.methods.simclr import simclr
from simclr_jax.methods.supcon import supcon
from simclr_jax.models.heads import MLP
from simclr_jax.models.ssl import SSLModel

FACTS = RunFacts(num_steps=100, num_images=64, num_classes=4, batch_size=8)
no_views = lambda key, batch: batch["views"]
LABELS = jnp.array([0, 1, -1, 1, 3, -1, 0, 0])


@pytest.fixture
def measured(tiny_encoder):
    """Measures the value that is differentiated, and the metrics, of a method on one batch."""
    model = SSLModel(tiny_encoder, MLP(num_layers=2, output_dim=8))
    rng = np.random.default_rng(0)
    views = jnp.asarray(rng.uniform(size=(8, 2, 6, 6, 3)), jnp.float32)

    def measure(build, labels, **settings):
        method = build_section("config.method", build, settings, model, no_views, FACTS)
        variables = jax.jit(method.init)(jax.random.key(0), views)
        state = TrainState(jnp.int32(0), variables.params, variables.batch_stats, (), ())
        batch = {"label": labels}
        value, out = jax.jit(method.loss)(variables.params, state, views, batch, jax.random.key(0))
        return float(value), jax.device_get(out.metrics)

    return measure


def test_the_hybrids_terms_are_supcon_and_simclr_before_their_weights(measured):
    _, both = measured(hybrid, LABELS, labelled_weight=0.5, all_weight=2.0)
    _, labelled = measured(supcon, LABELS)
    _, every = measured(simclr, LABELS)
    np.testing.assert_allclose(both["loss_labelled"], labelled["loss"], rtol=1e-5)
    np.testing.assert_allclose(both["loss_all"], every["loss"], rtol=1e-5)
    np.testing.assert_allclose(both["loss"], 0.5 * labelled["loss"] + 2 * every["loss"], rtol=1e-5)
    np.testing.assert_allclose(
        both["loss_chance"], 0.5 * np.log(2 * 6 - 1) + 2 * np.log(2 * 8 - 1), rtol=1e-5
    )


def test_chance_and_positives_are_those_of_the_labelled_images(measured):
    _, metrics = measured(supcon, LABELS)
    np.testing.assert_allclose(metrics["loss_chance"], np.log(2 * 6 - 1), rtol=1e-6)
    # Three images of class 0, two of class 1, one of class 3.
    np.testing.assert_allclose(metrics["positives"], (3 * 5 + 2 * 3 + 1) / 6, rtol=1e-6)


def test_a_batch_without_labels_leaves_nothing_to_learn_from(measured):
    value, metrics = measured(supcon, jnp.full(8, -1))
    assert value == metrics["loss"] == metrics["loss_chance"] == metrics["positives"] == 0


def test_gradient_scale_leaves_the_logged_loss_alone(measured):
    value, metrics = measured(supcon, LABELS, gradient_scale=3.0)
    np.testing.assert_allclose(value, 3 * metrics["loss"], rtol=1e-6)


@pytest.mark.parametrize("build", [supcon, hybrid])
@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"num_classes": 0}, "have no classes.*config.data.labels_from_folders=True.*'simclr'"),
        ({"num_classes": 1}, "have 1 class. "),
        ({"batch_size": 1}, "config.data.batch_size=1: .* use 2 or more"),
    ],
)
def test_images_that_cannot_be_contrasted_are_refused(tiny_encoder, build, facts, message):
    model = SSLModel(tiny_encoder, MLP())
    with pytest.raises(UserError, match=message):
        build(model, no_views, dataclasses.replace(FACTS, **facts))


def test_a_wrong_setting_is_named_with_what_works(tiny_encoder):
    model = SSLModel(tiny_encoder, MLP())
    for settings, message in [
        ({"temperature": 0.0}, "config.method.temperature=0.0 must be above 0"),
        ({"labelled_weight": -1.0}, "config.method.labelled_weight=-1.0 must be at least 0"),
        ({"labelled_weight": 0.0, "all_weight": 0.0}, "one of them must be above 0"),
        ({"sigma": 1.0}, "config.method.sigma does not exist"),
    ]:
        with pytest.raises(UserError, match=message):
            build_section("config.method", hybrid, settings, model, no_views, FACTS)


def test_heads_that_would_not_be_trained_are_refused(tiny_encoder):
    for model, given in [
        (SSLModel(tiny_encoder), "none"),
        (SSLModel(tiny_encoder, MLP(), predictor=MLP()), "projector, predictor"),
    ]:
        with pytest.raises(ValueError, match=f"needs heads with a projector.* has {given}"):
            supcon(model, no_views, FACTS)
