"""What the methods beside SimCLR refuse, and what they log; tests/contract/ has the rest."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.core.errors import UserError
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.sections import build_section
from simclr_jax.core.state import TrainState
from simclr_jax.methods import METHODS
from simclr_jax.models.heads import MLP
from simclr_jax.models.ssl import SSLModel

B, D = 8, 4
FACTS = RunFacts(num_steps=100, num_images=64, num_classes=4, batch_size=B)
PREDICTING = ("byol", "moco_v3", "nnclr", "simsiam")
PROJECTING = ("barlow_twins", "dcl", "hard_negatives", "hybrid", "margin", "moco_v2", "supcon")
PROJECTING += ("instdisc", "mochi", "triplet", "vicreg")
QUEUED = ("moco_v2", "mochi", "nnclr")
NEED_OTHERS = {*PROJECTING, *PREDICTING} - {"byol", "instdisc", "moco_v2", "mochi", "simsiam"}
CHANCE = {
    "dcl": 2 * B - 2,
    "hard_negatives": 2 * B - 1,
    "instdisc": FACTS.num_images,
    "mochi": 3 * B + 1,  # before anything is mixed
    "moco_v2": 3 * B + 1,
    "moco_v3": B,
    "nnclr": B,
}


@pytest.fixture
def build(tiny_encoder):
    def build(name, facts=FACTS, predictor=None, width=D, **settings):
        predictor = name in PREDICTING if predictor is None else predictor
        head = lambda width: MLP(num_layers=2, hidden_dim=8, output_dim=width)
        model = SSLModel(tiny_encoder, head(D), predictor=head(width) if predictor else None)
        if name in QUEUED:
            settings = {"queue_size": 3 * B, **settings}
        args = (settings, model, lambda key, batch: batch["views"], facts)
        return build_section("config.method", METHODS[name], *args)

    return build


@pytest.mark.parametrize("name", sorted(CHANCE))
def test_chance_is_the_loss_of_equal_similarities(build, name):
    """Parameters of zero make all of them zero."""
    method = build(name)
    views = jnp.asarray(np.random.default_rng(0).uniform(size=(B, 2, 6, 6, 3)), jnp.float32)
    variables = jax.jit(method.init)(jax.random.key(0), views)
    zeros = jax.tree.map(jnp.zeros_like, variables.params)
    state = TrainState(jnp.int32(0), zeros, variables.batch_stats, (), variables.method_state)
    batch = {"label": jnp.full(B, -1), "id": jnp.arange(B)}
    _, out = jax.jit(method.loss)(zeros, state, views, batch, jax.random.key(0))
    np.testing.assert_allclose(out.metrics["loss_chance"], np.log(CHANCE[name]), rtol=1e-6)
    np.testing.assert_allclose(out.metrics["loss"], out.metrics["loss_chance"], rtol=1e-5)
    assert out.metrics["projection_std"] == 0


@pytest.mark.parametrize("name", sorted(NEED_OTHERS))
def test_a_batch_of_one_image_is_refused_where_images_are_compared(build, name):
    with pytest.raises(UserError, match=r"config.data.batch_size=1: method .* use 2 or more"):
        build(name, dataclasses.replace(FACTS, batch_size=1))


@pytest.mark.parametrize("name", sorted({*PROJECTING, *PREDICTING}))
def test_heads_that_a_method_lacks_or_would_not_train_are_named(build, name):
    other = name not in PREDICTING
    given = "projector, predictor" if other else "projector"
    advice = "predictor=None" if other else "predictor.num_layers=2"
    message = rf"config.method: method {name} .* has {given}\. Set --config.heads.{advice}\."
    with pytest.raises(UserError, match=message):
        build(name, predictor=other)


@pytest.mark.parametrize("name", PREDICTING)
def test_a_predictor_of_another_width_is_told_which(build, name):
    message = r"config.heads.predictor.output_dim=5 must be that of the projector, .*: 4\."
    with pytest.raises(UserError, match=message):
        build(name, width=5)


@pytest.mark.parametrize("name", sorted({*PROJECTING, *PREDICTING} - {"instdisc"}))
def test_one_view_is_refused_before_a_step_where_two_are_compared(build, name):
    with pytest.raises(ValueError, match=r"two views of each image, and config.augment gives one"):
        build(name).init(jax.random.key(0), jnp.zeros((B, 1, 6, 6, 3)))


@pytest.mark.parametrize("name", QUEUED)
def test_a_queue_that_is_not_a_whole_number_of_batches_is_told_what_works(build, name):
    message = r"config.method: queue_size=20 .* 8 rows that a batch adds to it; use 16 or 24\."
    with pytest.raises(UserError, match=message):
        build(name, queue_size=20)


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("moco_v2", "ema", 1.0, "must be at least 0 and below 1"),
        ("instdisc", "bank_momentum", 1.0, "must be at least 0 and below 1"),
        ("mochi", "hard_share", 1.5, "must be above 0 and at most 1"),
        ("moco_v3", "ema", 1.5, r"must be in \[0, 1\]"),
        ("moco_v3", "temperature", 0.0, "must be above 0"),
        ("nnclr", "loss_tile", -1, "must be at least 0"),
        ("dcl", "sigma", 0.0, "must be above 0"),
        ("hard_negatives", "class_prior", 1.0, "must be at least 0 and below 1"),
        ("barlow_twins", "off_diagonal_weight", -1.0, "must be at least 0"),
        ("triplet", "mining", "hard", "is unknown; .*batch_hard"),
        ("margin", "positives", "classes", "is unknown; .*'views', 'labels'"),
        ("vicreg", "temperature", 0.1, "does not exist"),
    ],
)
def test_a_setting_out_of_range_or_of_another_method_is_named(build, name, key, value, message):
    with pytest.raises(UserError, match=rf"config\.method.*{key}.*{message}"):
        build(name, **{key: value})


def test_mochi_mixes_from_the_first_step_after_its_warm_up(build):
    method = build("mochi", warmup_epochs=0.5, num_mixed=3, num_mixed_with_query=2)
    views = jnp.asarray(np.random.default_rng(0).uniform(size=(B, 2, 6, 6, 3)), jnp.float32)
    variables = jax.jit(method.init)(jax.random.key(0), views)
    state = TrainState(jnp.int32(0), variables.params, variables.batch_stats, ())
    state = state.replace(method_state=variables.method_state)
    losses, chances = [], []
    for step in (3, 4):  # of 8 in an epoch
        state = state.replace(step=jnp.int32(step))
        _, out = jax.jit(method.loss)(state.params, state, views, {}, jax.random.key(0))
        losses.append(float(out.metrics["loss"]))
        chances.append(float(out.metrics["loss_chance"]))
    assert losses[1] > losses[0]
    np.testing.assert_allclose(chances, np.log([3 * B + 1, 3 * B + 1 + 5]), rtol=1e-6)


def test_epochs_that_are_more_steps_than_can_be_counted_are_told_what_works(build):
    message = r"config.method: warmup_epochs=1e\+30 is 8e\+30 steps, .*the run has 100, .*use 13\."
    with pytest.raises(UserError, match=message):
        build("mochi", warmup_epochs=1e30)
    build("mochi", warmup_epochs=1e6)


def test_mochi_that_mixes_nothing_is_told_what_does(build):
    with pytest.raises(UserError, match="name='moco_v2' does without"):
        build("mochi", num_mixed=0, num_mixed_with_query=0)


def test_nnclr_remembers_first_views_and_measures_neighbours_by_their_labels(build):
    method = build("nnclr")
    views = jnp.asarray(np.random.default_rng(0).uniform(size=(B, 2, 6, 6, 3)), jnp.float32)
    variables = jax.jit(method.init)(jax.random.key(0), views)
    state = TrainState(jnp.int32(0), variables.params, variables.batch_stats, (), ())
    state = state.replace(method_state=variables.method_state)
    batch = {"label": jnp.arange(B) % 3 - 1}
    accuracies = []
    for step in (1, 2):
        _, out = jax.jit(method.loss)(state.params, state, views, batch, jax.random.key(0))
        accuracies.append(float(out.metrics["neighbour_accuracy"]))
        state = state.replace(step=jnp.int32(step))
        state = state.replace(method_state=method.after_update(state, out.carry))
    # At first there are random directions without labels; then each view finds itself.
    assert accuracies[0] == 0
    assert accuracies[1] > 0.5
    queue = state.method_state["queue"]
    np.testing.assert_array_equal(queue["labels"][0], batch["label"])
    np.testing.assert_array_equal(queue["labels"][2], -1)
    np.testing.assert_allclose(jnp.linalg.norm(queue["rows"], axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(queue["rows"][0], queue["rows"][1], atol=1e-6)
