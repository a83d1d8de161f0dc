"""Views of sounds: log-mel spectrograms, after random gain and shift, with random masks.

Pitch stays as it is, because captions name notes and voices. Every clip of a batch has its own
draw.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simclr_jax.augment.log_mel import LogMel, as_floats
from simclr_jax.augment.views import Policy
from simclr_jax.core.ranges import CountOrZero, NonNegative, Positive, Share
from simclr_jax.core.types import Batch, Clips, PRNGKey, ViewArray

_RANGE_DB = 100.0  # from the least power to that of a loud band


def audio(
    *,
    seconds: Positive = 10.0,
    log_mel: LogMel | None = None,
    gain_db: NonNegative = 6.0,
    shift: Share = 0.1,
    time_mask: Share = 0.1,
    mel_mask: Share = 0.1,
    num_masks: CountOrZero = 2,
) -> Policy:
    """Returns one view of a sound: the spectrogram of a random clip, as an image of one channel.

    Args:
      seconds: length of a clip. A shorter sound is repeated as often as it fits, then silence.
      log_mel: settings of the spectrogram; those of LAION's CLAP if None.
      gain_db: most decibels that a clip gets louder or softer by.
      shift: largest share of a clip that it is moved by, either way; what leaves at one end comes
        in at the other.
      time_mask: largest share of the frames that one mask hides.
      mel_mask: largest share of the bands that one mask hides.
      num_masks: masks of either kind, which may overlap.
    """
    spectrogram = log_mel or LogMel()

    def augment(key: PRNGKey, batch: Batch) -> ViewArray:
        keys = jax.random.split(key, 4)
        waveform = random_shift(keys[0], as_floats(batch["audio"]), share=shift)
        x = spectrogram(random_gain(keys[1], waveform, decibels=gain_db))
        for key, axis, share in ((keys[2], 1, time_mask), (keys[3], 2, mel_mask)):
            x = random_masks(key, x, axis=axis, share=share, num_masks=num_masks)
        return as_images(x)[:, None]

    clips = Clips(spectrogram.rate, round(seconds * spectrogram.rate), random=True)
    frames = spectrogram.num_frames(clips.num_samples)
    return Policy(clips, augment, (frames, spectrogram.num_mels, 1))


def evaluation(*, seconds: Positive, log_mel: LogMel | None) -> Policy:
    """Returns the view of `audio` without randomness: of a longer sound, the middle."""
    still: dict[str, Any] = dict(gain_db=0.0, shift=0.0, num_masks=0)
    policy = audio(seconds=seconds, log_mel=log_mel, **still)
    assert isinstance(policy.cuts, Clips)
    return dataclasses.replace(policy, cuts=dataclasses.replace(policy.cuts, random=False))


def as_images(spectrogram: Float[Array, "b frames mels"]) -> Float[Array, "b frames mels 1"]:
    """Returns decibels as encoders take them: images in which -100 dB are 0 and 0 dB are 1."""
    return 1 + spectrogram[..., None] / _RANGE_DB


def random_gain(
    key: PRNGKey, waveform: Float[Array, "b samples"], *, decibels: float
) -> Float[Array, "b samples"]:
    """Makes each clip louder or softer, uniformly in decibels."""
    shape = (waveform.shape[0], 1)
    drawn = jax.random.uniform(key, shape, waveform.dtype, minval=-decibels, maxval=decibels)
    return waveform * 10 ** (drawn / 20)


def random_shift(
    key: PRNGKey, waveform: Float[Array, "b samples"], *, share: float
) -> Float[Array, "b samples"]:
    """Shifts each clip circularly, by up to a share of its length either way."""
    b, num_samples = waveform.shape
    most = round(share * num_samples)
    moved_by = jax.random.randint(key, (b,), -most, most + 1)
    return jax.vmap(jnp.roll)(waveform, moved_by)


def random_masks(
    key: PRNGKey,
    spectrogram: Float[Array, "b frames mels"],
    *,
    axis: int,
    share: float,
    num_masks: int,
) -> Float[Array, "b frames mels"]:
    """Replaces stretches of time or pitch by the mean of each clip.

    The length of a mask is uniform from 0 to a share of the axis, and its place is uniform among
    those where all of it fits.

    Args:
      key: random key.
      spectrogram: decibels.
      axis: 1 for time, 2 for pitch.
      share: longest mask, in [0, 1].
      num_masks: number of masks, which may overlap.

    Source: Park et al. 2019, https://arxiv.org/abs/1904.08779, Section 2 (SpecAugment), where
      spectrograms have the mean 0 and masks are zeros.
    """
    b, size = spectrogram.shape[0], spectrogram.shape[axis]
    of_length, of_place = jax.random.split(key)
    shape = (b, num_masks, 1)
    lengths = jax.random.randint(of_length, shape, 0, round(share * size) + 1)
    first = jnp.floor(jax.random.uniform(of_place, shape) * (size - lengths + 1))
    at = jnp.arange(size)[None, None]
    hidden = ((at >= first) & (at < first + lengths)).any(axis=1)  # [b, size]
    mean = spectrogram.mean(axis=(1, 2), keepdims=True)
    return jnp.where(jnp.expand_dims(hidden, 3 - axis), mean, spectrogram)
