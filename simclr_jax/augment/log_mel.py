"""Waveforms as pictures of time and pitch: log-mel spectrograms, on the device.

Frames are cut without gathers: a waveform is cut into pieces of one hop, and a frame is some pieces
in a row. The Fourier transform is a product with a real matrix, which is fast on a TPU and on a
CPU.

Definitions are those of librosa, https://librosa.org (McFee et al. 2015), with Slaney's scale.
"""

import dataclasses
import functools
import math
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int16

from simclr_jax.core.ranges import Count, NonNegative, Positive

_LEAST_POWER = 1e-10  # -100 dB
# Slaney's scale: linear up to 1 kHz, 15 mel, then 27 steps for a factor of 6.4.
_HZ_PER_MEL, _BEND_HZ, _LOG_STEP = 200 / 3, 1000.0, math.log(6.4) / 27
Waveform: TypeAlias = Float[Array, "b samples"] | Int16[Array, "b samples"]


@dataclasses.dataclass(frozen=True)
class LogMel:
    """Settings of log-mel spectrograms; calling it computes them.

    The defaults are those of LAION's CLAP (Wu et al. 2022, https://arxiv.org/abs/2211.06687).

    Attributes:
      rate: samples per second of the waveforms.
      num_fft: samples of a frame.
      hop: samples from one frame to the next.
      num_mels: bands, which are the columns of the spectrogram.
      lowest_hz: where the lowest band begins.
      highest_hz: where the highest band ends, at most half the rate.
    """

    rate: Count = 48_000
    num_fft: Count = 1024
    hop: Count = 480
    num_mels: Count = 64
    lowest_hz: NonNegative = 50.0
    highest_hz: Positive = 14_000.0

    def __post_init__(self) -> None:
        if not self.lowest_hz < self.highest_hz <= self.rate / 2:
            raise ValueError(
                f"mel bands from lowest_hz={self.lowest_hz} to highest_hz={self.highest_hz} must "
                f"go up, and end at or below half of rate={self.rate}, {self.rate / 2:g}."
            )
        if empty := int((self.filters().max(axis=1) == 0).sum()):
            raise ValueError(
                f"{empty} of num_mels={self.num_mels} bands lie between two frequencies of "
                f"num_fft={self.num_fft} at rate={self.rate} and would always be silent; use "
                "fewer bands or longer frames."
            )

    def num_frames(self, num_samples: int) -> int:
        """Returns how many frames a waveform has: one in the middle of each hop's first sample."""
        return 1 + num_samples // self.hop

    def __call__(self, waveform: Waveform) -> Float[Array, "b frames mels"]:
        """Returns the power in each band in decibels, at least -100.

        Frames are centred on multiples of the hop, with the waveform mirrored at its ends, and
        have a periodic Hann window.

        Args:
          waveform: samples in [-1, 1], or int16.

        Raises:
          ValueError: if there are too few samples to mirror, half a frame or less.
        """
        if waveform.shape[1] <= self.num_fft // 2:
            raise ValueError(
                f"{waveform.shape[1]} samples are too few for frames of num_fft={self.num_fft}; "
                f"{self.num_fft // 2 + 1} are needed."
            )
        frames = self._frames(as_floats(waveform))
        power = jax.lax.platform_dependent(
            frames, cpu=self._power_by_fft, default=self._power_by_products
        )
        in_bands = _product(power, jnp.asarray(self.filters().T, power.dtype))
        return 10 * jnp.log10(jnp.maximum(in_bands, _LEAST_POWER))

    def _power_by_fft(self, frames: Array) -> Array:
        window = jnp.asarray(self._window(), frames.dtype)[None, None]
        windowed = frames[..., : self.num_fft] * window
        return jnp.abs(jnp.fft.rfft(windowed)) ** 2  # [b, frames, bins]

    def _power_by_products(self, frames: Array) -> Array:
        real, imaginary = (_product(frames, jnp.asarray(x, frames.dtype)) for x in self._waves())
        return real**2 + imaginary**2

    def _frames(self, waveform: Array) -> Array:
        """Returns frames [b, frames, pieces * hop], longer than num_fft where it does not fit."""
        b, num_samples = waveform.shape
        num_frames, pieces = self.num_frames(num_samples), -(-self.num_fft // self.hop)
        half, length = self.num_fft // 2, (num_frames + pieces - 1) * self.hop
        x = jnp.pad(waveform, ((0, 0), (half, half)), mode="reflect")
        x = jnp.pad(x, ((0, 0), (0, max(length - x.shape[1], 0))))[:, :length]
        x = x.reshape(b, -1, self.hop)
        return jnp.concatenate([x[:, i : i + num_frames] for i in range(pieces)], axis=-1)

    def _waves(self) -> tuple[Float[np.ndarray, "n bins"], Float[np.ndarray, "n bins"]]:
        """Returns the window times cosines and sines, zero beyond num_fft."""
        sample, bins = np.arange(self.num_fft), np.arange(self.num_fft // 2 + 1)
        # The angle modulo a turn, so that large products lose nothing.
        turns = (sample[:, None] * bins[None] % self.num_fft) / self.num_fft
        window = self._window()[:, None]
        beyond = ((0, -self.num_fft % self.hop), (0, 0))
        cosines, sines = np.cos(2 * np.pi * turns), np.sin(2 * np.pi * turns)
        return np.pad(window * cosines, beyond), np.pad(window * sines, beyond)

    def _window(self) -> Float[np.ndarray, " n"]:
        return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.num_fft) / self.num_fft)

    def filters(self) -> Float[np.ndarray, "mels bins"]:
        """Returns the weight of each frequency in each band: triangles of area 2 / Hz."""
        lowest, highest = _mel_of_hz(self.lowest_hz), _mel_of_hz(self.highest_hz)
        corners = _hz_of_mel(np.linspace(lowest, highest, self.num_mels + 2))
        hz = np.arange(self.num_fft // 2 + 1) * (self.rate / self.num_fft)
        low, middle, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
        rising, falling = (hz - low) / (middle - low), (high - hz) / (high - middle)
        return np.maximum(0, np.minimum(rising, falling)) * 2 / (high - low)


_product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def as_floats(waveform: Waveform) -> Float[Array, "b samples"]:
    """Returns samples in [-1, 1], at least float32; those of 16 bits are scaled."""
    if jnp.issubdtype(waveform.dtype, jnp.integer):
        return waveform.astype(jnp.float32) / 2**15
    return waveform.astype(jnp.promote_types(waveform.dtype, jnp.float32))


def _mel_of_hz(hz: float) -> float:
    if hz < _BEND_HZ:
        return hz / _HZ_PER_MEL
    return _BEND_HZ / _HZ_PER_MEL + math.log(hz / _BEND_HZ) / _LOG_STEP


def _hz_of_mel(mel: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    bend = _BEND_HZ / _HZ_PER_MEL
    above = _BEND_HZ * np.exp(_LOG_STEP * (mel - bend))
    return np.where(mel < bend, mel * _HZ_PER_MEL, above)
