"""Random changes of sounds: each does what it says, to each clip by a draw of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.augment.audio import audio, random_gain, random_masks, random_shift
from simclr_jax.augment.log_mel import LogMel
from simclr_jax.augment.policies import EVALUATIONS
from simclr_jax.core.types import Clips

SMALL = LogMel(rate=8000, num_fft=256, hop=80, num_mels=24, lowest_hz=60.0, highest_hz=4000.0)
KEY = jax.random.key(0)


def clips(b=64, num_samples=800):
    return jnp.asarray(np.random.default_rng(0).normal(size=(b, num_samples)), jnp.float32)


def test_gain_is_uniform_in_decibels():
    x = clips(1000, 2)
    factors = np.asarray(random_gain(KEY, x, decibels=6.0) / x)
    np.testing.assert_allclose(factors[:, 0], factors[:, 1], rtol=1e-5)
    decibels = 20 * np.log10(factors[:, 0])
    assert np.abs(decibels).max() <= 6.001
    np.testing.assert_allclose(np.quantile(decibels, [0.25, 0.5, 0.75]), [-3, 0, 3], atol=0.6)


def test_a_shift_moves_a_clip_in_a_circle_by_no_more_than_its_share():
    x = clips(200, 50)
    got = np.asarray(random_shift(KEY, x, share=0.1))
    moved = []
    for before, after in zip(np.asarray(x), got, strict=True):
        (by,) = (k for k in range(-25, 25) if np.array_equal(np.roll(before, k), after))
        moved.append(by)
    assert {*moved} == {*range(-5, 6)}


@pytest.mark.parametrize("axis", [1, 2])
def test_masks_hide_stretches_behind_the_mean(axis):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(400, 20, 10)), jnp.float32)
    got = np.asarray(random_masks(KEY, x, axis=axis, share=0.4, num_masks=1))
    changed = got != np.asarray(x)
    hidden = changed.any(axis=3 - axis)
    np.testing.assert_array_equal(changed.all(axis=3 - axis), hidden)
    mean = np.broadcast_to(np.asarray(x).mean(axis=(1, 2), keepdims=True), x.shape)
    np.testing.assert_allclose(got[changed], mean[changed], atol=1e-6)
    size = x.shape[axis]
    lengths = hidden.sum(axis=1)
    assert {*lengths} == {*range(round(0.4 * size) + 1)}
    in_a_row = np.diff(np.pad(hidden, ((0, 0), (1, 1))).astype(int), axis=1) == 1
    np.testing.assert_array_equal(in_a_row.sum(axis=1), lengths > 0)
    assert hidden.any(axis=0).all(), "every place is hidden in some clip"


def test_a_view_is_an_image_of_one_channel_and_every_clip_has_its_draw():
    policy = audio(seconds=0.1, log_mel=SMALL)
    batch = {"audio": jnp.tile(clips(1), (2, 1))}
    augment = jax.jit(policy.augment)
    views = augment(KEY, batch)
    assert views.shape == (2, 1, *policy.shape) == (2, 1, SMALL.num_frames(800), 24, 1)
    assert np.abs(np.asarray(views[0] - views[1])).max() > 0.01
    np.testing.assert_array_equal(views, augment(KEY, batch))
    assert np.abs(np.asarray(views - augment(jax.random.key(1), batch))).max() > 0.01


def test_a_sound_is_judged_by_its_spectrogram_from_silence_to_full_scale():
    x = np.random.default_rng(0).integers(-(2**15), 2**15, (2, 800)).astype(np.int16)
    policy = EVALUATIONS["audio"](seconds=0.1, log_mel=SMALL)
    views = np.asarray(policy.augment(KEY, {"audio": jnp.asarray(x)}))
    np.testing.assert_allclose(100 * views[:, 0, ..., 0] - 100, SMALL(jnp.asarray(x)), atol=1e-3)
    silent = policy.augment(KEY, {"audio": jnp.zeros((1, 800), jnp.int16)})
    np.testing.assert_allclose(silent, 0, atol=1e-6)
    assert policy.cuts == Clips(rate=8000, num_samples=800, random=False)
