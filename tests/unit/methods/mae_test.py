"""MAE: which patches are hidden, where the decoder puts them, and what it refuses."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.core.errors import UserError
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.sections import build_section
from simclr_jax.core.state import TrainState
from simclr_jax.methods import METHODS
from simclr_jax.methods.mae import Decoder, num_visible_patches, random_mask
from simclr_jax.models.ssl import SSLModel
from simclr_jax.models.vit import ViT, patchify, sincos_positions

FACTS = RunFacts(num_steps=100, num_images=64, num_classes=0, batch_size=4)
SMALL = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}


@pytest.fixture
def given():
    path = Path(__file__).parents[2] / "golden/family/mae.npz"
    with jax.enable_x64(True), np.load(path, allow_pickle=False) as arrays:
        yield {key: jnp.asarray(arrays[key]) for key in arrays}


def build(encoder=None, **settings):
    model = SSLModel(encoder or ViT("tiny", patch=4))
    args = (model, lambda key, batch: batch["views"], FACTS)
    return build_section("config.method", METHODS["mae"], SMALL | settings, *args)


@pytest.mark.parametrize("ratio", [0.5, 0.75])
def test_the_patches_with_the_lowest_noise_are_seen(given, ratio):
    count = num_visible_patches(9, ratio)
    order, masked = random_mask(given["input/noise"], count)
    np.testing.assert_array_equal(masked, given[f"masking/ratio{ratio}/mask"])
    np.testing.assert_array_equal(
        jnp.argsort(order, axis=1), given[f"masking/ratio{ratio}/restore"]
    )
    kept = jnp.take_along_axis(given["input/tokens"], order[:, :count, None], axis=1)
    np.testing.assert_array_equal(kept, given[f"masking/ratio{ratio}/kept"])


def test_patches_and_positions_are_those_of_the_released_code(given):
    patches, grid = patchify(given["input/images"], int(given["input/patch"]))
    np.testing.assert_allclose(patches, given["input/patches"], rtol=1e-12)
    positions = sincos_positions(grid, 16, jnp.float64).reshape(9, 16)
    np.testing.assert_allclose(positions, given["position/embedding"][1:], rtol=1e-9, atol=1e-9)


def test_the_decoder_puts_each_token_where_its_patch_was():
    """Without blocks, a patch that is seen gives its own pixels, and hidden ones all the same."""
    decoder = Decoder(16, depth=0, num_heads=1, num_pixels=12, num_visible=2, dtype="float32")
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.normal(size=(1, 3, 8)), jnp.float32)  # a class token and two more
    order = jnp.asarray([[2, 0, 3, 1]])
    params = decoder.init(jax.random.key(0), tokens, order, (2, 2))["params"]

    def out(tokens, order):
        return decoder.apply({"params": params}, tokens, order, (2, 2))[0]

    before = out(tokens, order)
    after = out(tokens.at[0, 1].add(1.0), order)
    np.testing.assert_array_equal(np.abs(after - before).max(axis=1) > 0, [0, 0, 1, 0])
    after = out(tokens.at[0, 2].add(1.0), order)
    np.testing.assert_array_equal(np.abs(after - before).max(axis=1) > 0, [1, 0, 0, 0])
    np.testing.assert_array_equal(out(tokens.at[0, 0].add(1.0), order), before)
    # Which hidden patch comes first says nothing.
    np.testing.assert_array_equal(out(tokens, jnp.asarray([[2, 0, 1, 3]])), before)


def test_hidden_pixels_reach_the_loss_and_not_the_encoder():
    """Another image in place of what is hidden changes the loss, not what is predicted."""
    method = build(mask_ratio=0.5)
    rng = np.random.default_rng(0)
    views = jnp.asarray(rng.uniform(size=(4, 1, 8, 8, 3)), jnp.float32)
    variables = jax.jit(method.init)(jax.random.key(0), views)
    state = TrainState(jnp.int32(0), variables.params, {}, ())
    loss = jax.jit(lambda views: method.loss(state.params, state, views, {}, jax.random.key(1))[0])
    gradient = jax.grad(lambda views: loss(views))(views)
    by_patch = np.abs(patchify(gradient[:, 0], 4)[0]).max(axis=-1)  # [4, 4]
    assert (by_patch > 0).all()  # through what is seen, or as what is to be told
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize("channels", [1, 4])
def test_it_reconstructs_images_of_any_number_of_channels(channels):
    method, views = build(), jnp.ones((4, 1, 8, 8, channels))
    variables = jax.eval_shape(method.init, jax.random.key(0), views)
    assert variables.params["decoder"]["pixels"]["kernel"].shape == (16, 16 * channels)
    state = TrainState(jnp.int32(0), variables.params, {}, ())
    jax.eval_shape(method.loss, state.params, state, views, {}, jax.random.key(1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask_ratio": 1.0}, "mask_ratio.*must be above 0 and below 1"),
        ({"decoder_heads": 3}, "decoder_width=16 must be a multiple of 4 and of decoder_heads=3"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        build(**settings)


def test_an_encoder_without_patches_is_refused(tiny_encoder):
    with pytest.raises(UserError, match=r"TinyEncoder is none; use config.encoder.name='vit'"):
        build(tiny_encoder)


def test_a_pooling_that_it_would_not_train_is_refused():
    with pytest.raises(UserError, match=r"pool='probe'; use config.encoder.pool='token' or 'mean'"):
        build(ViT("tiny", patch=4, pool="probe"))


def test_hiding_every_patch_is_refused():
    with pytest.raises(ValueError, match=r"of 4 patches a mask_ratio of 0.9 leaves none to see"):
        build(mask_ratio=0.9).init(jax.random.key(0), jnp.zeros((4, 1, 8, 8, 3)))
