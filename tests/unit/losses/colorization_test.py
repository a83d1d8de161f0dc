"""Lab, bins, soft targets, weights and loss of colorization, against scikit-image and formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.losses import colorization
from simclr_jax.losses.colorization import colour_bins
from tests.helpers import jitted

annealed_mean = jitted(colorization.annealed_mean)
bin_weights = jitted(colorization.bin_weights)
colour_loss = jitted(colorization.colour_loss)
is_coloured = jitted(colorization.is_coloured)
rgb_to_lab = jitted(colorization.rgb_to_lab)
soft_bins = jitted(colorization.soft_bins)


@pytest.fixture
def given(golden, float64):
    return {k.removeprefix("colour/"): v for k, v in golden("pretext").items() if "colour/" in k}


def test_lab_is_that_of_scikit_image(given, close):
    close(rgb_to_lab(given["rgb"]), given["lab"])
    close(rgb_to_lab(given["corners_rgb"]), given["corners_lab"])


def test_bins_are_the_cells_that_colours_of_srgb_are_nearest_to(given):
    np.testing.assert_array_equal(colour_bins(), given["bins"])


def test_targets_weights_loss_and_decoded_colours_are_as_recorded(given, close):
    targets = soft_bins(given["lab"].reshape(-1, 3)[:, 1:])
    close(targets, given["soft_target"])
    weights = bin_weights(given["prior"])
    close(weights, given["weight_of_bin"])
    known = jnp.ones(len(targets), bool)
    loss = lambda logits: colour_loss(logits, targets, weights, known)
    value, grad = jax.jit(jax.value_and_grad(loss))(given["logits"])
    close(value, given["loss_weighted_mean"])
    close(grad, given["grad_logits"])
    close(loss(given["logits"] + 100), given["loss_weighted_mean"])
    close(annealed_mean(given["logits"], temperature=0.38), given["annealed_mean_ab"])
    alike = colour_loss(given["logits"], targets, jnp.ones(260), known)
    close(alike, given["loss_unweighted_mean"])


def test_pixels_of_grey_images_count_for_nothing():
    images = jnp.stack([jnp.full((2, 2, 3), 0.5), jnp.full((2, 2, 3), 0.5).at[0, 0, 0].set(1.0)])
    np.testing.assert_array_equal(is_coloured(rgb_to_lab(images)[..., 1:]), [False, True])
    rng = np.random.default_rng(0)
    logits, targets = (jnp.asarray(rng.uniform(size=(4, 5)), jnp.float32) for _ in range(2))
    some = colour_loss(logits, targets, jnp.ones(5), jnp.arange(4) < 2)
    few = colour_loss(logits[:2], targets[:2], jnp.ones(5), jnp.ones(2, bool))
    np.testing.assert_allclose(some, few, rtol=1e-6)
    assert colour_loss(logits, targets, jnp.ones(5), jnp.zeros(4, bool)) == 0
