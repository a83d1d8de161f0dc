"""CPC: its patches, what a context has seen, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.core.errors import UserError
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.sections import build_section
from simclr_jax.core.state import TrainState
from simclr_jax.methods import METHODS
from simclr_jax.methods.cpc import Context, cut_patches, random_channel
from simclr_jax.models.ssl import SSLModel

B = 2
FACTS = RunFacts(num_steps=100, num_images=64, num_classes=0, batch_size=B)
SMALL = {"patch": 6, "stride": 3, "first_distance": 1, "num_distances": 2}
SMALL |= {"context_width": 4, "context_layers": 1}


@pytest.fixture
def build(tiny_encoder):
    def build(norm=False, **settings):
        model = SSLModel(tiny_encoder.clone(norm=norm))
        args = (model, lambda key, batch: batch["views"], FACTS)
        return build_section("config.method", METHODS["cpc"], SMALL | settings, *args)

    return build


def batch_of(size):
    views = np.random.default_rng(0).uniform(size=(B, 1, size, size, 3))
    return {"views": jnp.asarray(views, jnp.float32), "id": jnp.arange(B)}


def test_patches_overlap_and_lie_row_by_row():
    images = batch_of(14)["views"][:, 0]
    patches = cut_patches(images, 6, 3)
    assert patches.shape == (B, 9, 6, 6, 3)
    np.testing.assert_array_equal(patches[1, 0], images[1, :6, :6])
    np.testing.assert_array_equal(patches[1, 5], images[1, 3:9, 6:12])
    np.testing.assert_array_equal(patches[0, 7], images[0, 6:12, 3:9])


def test_some_patches_keep_one_channel():
    patches = cut_patches(batch_of(14)["views"][:, 0], 6, 3)
    dropped = random_channel(jax.random.key(0), patches, 1.0)
    np.testing.assert_array_equal(dropped[..., :1] == dropped, True)
    assert (dropped[..., :1] == patches).all(axis=(2, 3)).any(axis=-1).all()
    np.testing.assert_array_equal(random_channel(jax.random.key(0), patches, 0.0), patches)


def test_a_context_has_seen_nothing_below_its_row():
    network = Context(4, 2, 1)
    patches = jnp.asarray(np.random.default_rng(0).normal(size=(1, 5, 4, 3)), jnp.float32)
    params = network.init(jax.random.key(0), patches)["params"]
    context = lambda x: network.apply({"params": params}, x)[0][0]
    changed = np.abs(context(patches.at[0, 2, 1].add(1.0)) - context(patches)).max(axis=-1)
    assert not changed[:2].any()
    assert changed[2, 1] > 0
    assert changed[3, 2] > 0


def test_chance_is_the_log_of_all_patches_of_the_batch(build):
    method, batch = build(), batch_of(14)
    views = method.augment(jax.random.key(0), batch)
    variables = jax.jit(method.init)(jax.random.key(0), views)
    assert {*variables.params["context"]} == {f"direction{i}" for i in range(4)}
    zeros = jax.tree.map(jnp.zeros_like, variables.params)
    state = TrainState(jnp.int32(0), zeros, {}, ())
    _, out = jax.jit(method.loss)(zeros, state, views, batch, jax.random.key(0))
    np.testing.assert_allclose(out.metrics["loss_chance"], np.log(B * 9), rtol=1e-6)
    np.testing.assert_allclose(out.metrics["loss"], np.log(B * 9), rtol=1e-6)


def test_batch_norm_is_refused(build):
    method = build(norm=True)
    with pytest.raises(UserError, match=r"without BatchNorm.*config.encoder.norm='layer'"):
        method.init(jax.random.key(0), method.augment(jax.random.key(0), batch_of(14)))


def test_views_with_too_few_patches_are_told_what_works(build):
    method = build(num_distances=3)
    message = (
        r"size=14: patches of .*patch=6 px every .*stride=3 px make 3 rows, .* need 4; use .* 15"
    )
    with pytest.raises(UserError, match=message):
        method.augment(jax.random.key(0), batch_of(14))
    assert method.augment(jax.random.key(0), batch_of(15)).shape == (B, 16, 6, 6, 3)
