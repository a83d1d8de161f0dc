"""DeepCluster v2: when the bank fills, when it is clustered, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.core.errors import UserError
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.sections import build_section
from simclr_jax.core.state import TrainState
from simclr_jax.methods.deepcluster_v2 import deepcluster_v2
from simclr_jax.models.heads import MLP
from simclr_jax.models.ssl import SSLModel

B, D = 4, 6
FACTS = RunFacts(num_steps=100, num_images=14, num_classes=0, batch_size=B)  # 3 steps an epoch


@pytest.fixture
def build(tiny_encoder):
    def build(**settings):
        model = SSLModel(tiny_encoder, MLP(num_layers=1, output_dim=D))
        args = (settings, model, lambda key, batch: batch["views"], FACTS)
        return build_section("config.method", deepcluster_v2, *args)

    return build


def views(seed):
    rng = np.random.default_rng(seed)
    draw = lambda v, side: jnp.asarray(rng.uniform(size=(B, v, side, side, 3)), jnp.float32)
    return draw(2, 6), draw(1, 4)


def test_an_epoch_fills_the_bank_and_its_end_assigns_the_images_that_it_saw(build):
    method = build(num_clusters=3, num_clusterings=3)
    variables = jax.jit(method.init)(jax.random.key(0), views(0))
    state = TrainState(jnp.int32(0), variables.params, variables.batch_stats, (), ())
    state = state.replace(method_state=variables.method_state)

    @jax.jit
    def step(state, seen, ids):
        batch, key = {"id": ids}, jax.random.fold_in(jax.random.key(1), state.step)
        value, out = method.loss(state.params, state, seen, batch, key)
        after = state.replace(step=state.step + 1)
        return after.replace(method_state=method.after_update(after, out.carry)), out.carry, value

    order = np.array([9, 2, 5, 11, 0, 7, 13, 4, 1, 12, 8, 3])
    rows = {}
    for i, ids in enumerate(order.reshape(3, B)):
        assert (state.method_state["bank"]["clusters"] == -1).all()
        state, carry, value = step(state, views(i), jnp.asarray(ids))
        assert value == 0
        rows |= dict(zip(ids, np.asarray(carry["rows"]), strict=True))
    bank, centroids = state.method_state["bank"], np.asarray(state.method_state["centroids"])
    assert bank["rows"].shape == (16, 2, D)  # whole batches
    np.testing.assert_allclose(np.linalg.norm(bank["rows"][order], axis=-1), 1, rtol=1e-5)
    for i, clusters in enumerate(np.asarray(bank["clusters"]).T):
        for image in range(16):
            if image in rows:
                np.testing.assert_array_equal(bank["rows"][image], rows[image])
                nearest = np.argmax(centroids[i] @ rows[image][i % 2])
                assert clusters[image] == nearest
            else:
                assert clusters[image] == -1  # 6 and 10, and those that are no images
    assert len({*map(tuple, centroids.reshape(9, D))}) == 9
    before = centroids
    state, carry, value = step(state, views(3), jnp.array([6, 2, 5, 11]))
    assert value > 0  # of the three images with a cluster
    np.testing.assert_array_equal(state.method_state["centroids"], before)
    np.testing.assert_array_equal(state.method_state["bank"]["rows"][6], carry["rows"][0])


def test_nothing_is_trained_in_the_first_epoch(build):
    assert build(num_clusters=3).frozen_params == ((".*", 3),)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_clusters": 1}, "num_clusters=1 must be at least 2"),
        ({"num_clusters": 13}, "num_clusters=13 is more than the 12 images .* at most 12"),
        ({"num_clusters": 3, "temperature": 0.0}, "temperature=0.0 must be above 0"),
    ],
)
def test_settings_that_do_not_fit_are_named(build, settings, message):
    with pytest.raises(UserError, match=message):
        build(**settings)
