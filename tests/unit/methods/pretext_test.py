"""Rotation, jigsaw and colorization: what the views show, what is refused, what chance is."""

from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.core.errors import UserError
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.sections import build_section
from simclr_jax.core.state import TrainState
from simclr_jax.methods import METHODS
from simclr_jax.methods.jigsaw import cut_tiles, distant_permutations
from simclr_jax.methods.rotation import quarter_turns
from simclr_jax.models.heads import MLP
from simclr_jax.models.ssl import SSLModel

B = 4
FACTS = RunFacts(num_steps=100, num_images=64, num_classes=0, batch_size=B)
HEADLESS = ("colorization", "rotation")
SETTINGS = {"jigsaw": {"num_permutations": 6, "gap": 1}}
CHANCE = {"colorization": 260, "jigsaw": 6, "rotation": 4}


@pytest.fixture
def given():
    path = Path(__file__).parents[2] / "golden/family/pretext.npz"
    with np.load(path, allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays if not key.startswith("colour")}


@pytest.fixture
def build(tiny_encoder):
    def build(name, encoder=tiny_encoder, heads=None, **settings):
        heads = name not in HEADLESS if heads is None else heads
        head = MLP(num_layers=1, output_dim=8, last_norm="scale_and_bias") if heads else None
        args = (SSLModel(encoder, head), lambda key, batch: batch["views"], FACTS)
        return build_section("config.method", METHODS[name], settings, *args)

    return build


def views_of(size):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.uniform(size=(B, 1, size, size, 3)), jnp.float32)


def test_rotations_are_counter_clockwise(given):
    turned = quarter_turns(jnp.asarray(given["rotation/image"] / 255.0)[None, None])
    want = [given[f"rotation/label{turns}"] for turns in range(4)]
    np.testing.assert_array_equal(jnp.round(turned[0] * 255), want)


def test_tiles_lie_where_their_offsets_say_row_by_row(given):
    """The recorded tiles are column by column."""
    offsets = np.stack([given["jigsaw/jitter_y"].T, given["jigsaw/jitter_x"].T], axis=-1)
    images = jnp.asarray(given["jigsaw/image"])[None]
    tiles = cut_tiles(images, jnp.asarray(offsets)[None], int(given["jigsaw/patch_jitter"]))
    want = given["jigsaw/patches"].reshape(3, 3, 5, 5, 3).swapaxes(0, 1)
    np.testing.assert_allclose(tiles[0].reshape(want.shape), want, rtol=1e-6)


def test_permutations_are_as_far_apart_as_recorded(given):
    want = given["jigsaw/greedy_min/permutations"]
    chosen = distant_permutations(len(want), want[0].tolist())
    np.testing.assert_array_equal(chosen, want)
    different = (chosen[:, None] != chosen[None]).sum(axis=-1)
    apart = different[~np.eye(len(want), dtype=bool)].min()
    assert apart == given["jigsaw/greedy_min/min_hamming"]


@pytest.mark.parametrize("name", sorted(CHANCE))
def test_chance_is_the_loss_of_a_head_of_zeros(build, name):
    method = build(name, **SETTINGS.get(name, {}))
    batch = {"views": views_of(12), "id": jnp.arange(B)}
    views = method.augment(jax.random.key(0), batch)
    variables = jax.jit(method.init)(jax.random.key(0), views)
    zeros = jax.tree.map(jnp.zeros_like, variables.params)
    state = TrainState(jnp.int32(0), zeros, variables.batch_stats, (), variables.method_state)
    _, out = jax.jit(method.loss)(zeros, state, views, batch, jax.random.key(0))
    np.testing.assert_allclose(out.metrics["loss_chance"], np.log(CHANCE[name]), rtol=1e-6)
    np.testing.assert_allclose(out.metrics["loss"], out.metrics["loss_chance"], rtol=1e-5)


class Brightness(nn.Module):
    """Returns which of ten levels of brightness an image has, as one of ten numbers."""

    @nn.compact
    def __call__(self, images, *, train):
        del train
        return jax.nn.one_hot(jnp.round(10 * images.mean(axis=(1, 2, 3))).astype(int), 10)


def test_jigsaw_asks_in_which_order_of_its_set_the_tiles_are():
    """Tile i has level i; the classifier counts the tiles that are where an order has them."""
    head = MLP(num_layers=1, output_dim=10, last_norm="none")
    method = METHODS["jigsaw"](
        SSLModel(Brightness(), head), lambda key, batch: batch["views"], FACTS, num_permutations=50
    )
    tiles = jnp.broadcast_to((jnp.arange(9) / 10)[None, :, None, None, None], (B, 9, 2, 2, 3))
    orders = distant_permutations(50, range(9))
    kernel = np.eye(10)[orders].reshape(50, 90).T
    params = {
        "encoder": {},
        "projector": {"dense1": {"kernel": jnp.eye(10)}},
        "classifier": {"kernel": 50 * jnp.asarray(kernel, jnp.float32), "bias": jnp.zeros(50)},
    }
    state, batch = TrainState(jnp.int32(0), params, {}, ()), {"id": jnp.arange(B)}
    for seed in range(2):
        _, out = jax.jit(method.loss)(params, state, tiles, batch, jax.random.key(seed))
        np.testing.assert_allclose(out.metrics["loss"], 0, atol=1e-5)
        assert out.metrics["pretext_accuracy"] == 1


def test_jigsaw_cuts_tiles_smaller_than_their_cells(build):
    method = build("jigsaw", **SETTINGS["jigsaw"])
    tiles = method.augment(jax.random.key(0), {"views": views_of(12)})
    assert tiles.shape == (B, 9, 3, 3, 3)


def test_colorization_learns_how_frequent_colours_are(build):
    method = build("colorization", prior_momentum=0.0)
    red = jnp.zeros((B, 1, 12, 12, 3)).at[..., 0].set(1.0)
    batch = {"views": red, "id": jnp.arange(B)}
    variables = jax.jit(method.init)(jax.random.key(0), red)
    state = TrainState(jnp.int32(0), variables.params, variables.batch_stats, ())
    state = state.replace(method_state=variables.method_state)
    _, out = jax.jit(method.loss)(state.params, state, red, batch, jax.random.key(0))
    prior = method.after_update(state.replace(step=jnp.int32(1)), out.carry)["prior"]
    np.testing.assert_allclose(prior.sum(), 1, rtol=1e-5)
    assert (prior > 0).sum() == 10  # the bins about one colour


def test_colorization_counts_the_images_that_have_a_colour(build):
    method = build("colorization")
    views = jnp.broadcast_to(views_of(12)[..., :1], (B, 1, 12, 12, 3)).at[0, ..., 0].set(1.0)
    batch = {"views": views, "id": jnp.arange(B)}
    variables = jax.jit(method.init)(jax.random.key(0), views)
    state = TrainState(jnp.int32(0), variables.params, variables.batch_stats, ())
    state = state.replace(method_state=variables.method_state)
    for seen, share in ((views, 1 / B), (views.at[0].set(views[1]), 0)):
        _, out = jax.jit(method.loss)(state.params, state, seen, batch, jax.random.key(0))
        assert out.metrics["coloured"] == share
        assert (out.metrics["loss"] == 0) == (share == 0)


def test_an_encoder_that_colours_sees_no_colour_before_or_after_a_step(build, tiny_encoder):
    method, views = build("colorization"), views_of(12)
    batch = {"views": views, "id": jnp.arange(B)}
    variables = jax.jit(method.init)(jax.random.key(0), views)
    state = TrainState(jnp.int32(0), variables.params, variables.batch_stats, ())
    state = state.replace(method_state=variables.method_state)
    gradient = jax.jit(jax.grad(method.loss, has_aux=True))(
        state.params, state, views, batch, jax.random.key(0)
    )[0]
    images = views[:, 0]
    for params in (state.params, jax.tree.map(lambda p, g: p - g, state.params, gradient)):
        seen = lambda x, p=params: tiny_encoder.apply(
            {"params": p["encoder"], "batch_stats": state.batch_stats["encoder"]}, x, train=False
        )
        np.testing.assert_allclose(seen(images[..., ::-1]), seen(images), rtol=1e-4, atol=1e-6)
        assert np.ptp(seen(images), axis=0).min() > 1e-4


@pytest.mark.parametrize("name", sorted(CHANCE))
def test_heads_that_would_not_be_trained_are_named(build, name):
    wanted = "needs no heads" if name in HEADLESS else "needs heads with a projector"
    with pytest.raises(UserError, match=f"config.method: method {name} {wanted}"):
        build(name, heads=name in HEADLESS)


def test_views_too_small_for_the_grid_are_told_what_works(build):
    method = build("jigsaw", num_permutations=6, gap=11)
    batch = {"views": views_of(32), "id": jnp.arange(B)}
    message = r"config.augment.size=32: a third of it, 10 px, .*gap=11; use .* at least 36"
    with pytest.raises(UserError, match=message):
        method.augment(jax.random.key(0), batch)


class Vector(nn.Module):
    """An encoder without maps."""

    @nn.compact
    def __call__(self, images, *, train):
        del train
        return images.mean(axis=(1, 2))


def test_an_encoder_without_maps_cannot_colour(build):
    with pytest.raises(UserError, match=r"Vector has none; use config.encoder.name='resnet'"):
        build("colorization", encoder=Vector())


def test_more_permutations_than_there_are_is_refused(build):
    with pytest.raises(UserError, match=r"num_permutations.*at most 362880"):
        build("jigsaw", num_permutations=362_881)
