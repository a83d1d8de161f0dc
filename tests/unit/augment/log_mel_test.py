"""Log-mel spectrograms: golden numbers (checked against librosa), a tone, and bad settings."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.augment.log_mel import LogMel

GOLDEN = np.load(Path(__file__).parents[2] / "golden/multimodal/log_mel.npz")
SMALL = LogMel(rate=8000, num_fft=256, hop=80, num_mels=24, lowest_hz=60.0, highest_hz=4000.0)


def of_golden(case):
    rate, num_fft, hop, num_mels, lowest, highest = GOLDEN[f"log_mel/{case}/settings"]
    counts = {"rate": rate, "num_fft": num_fft, "hop": hop, "num_mels": num_mels}
    counts = {name: int(value) for name, value in counts.items()}
    return LogMel(**counts, lowest_hz=float(lowest), highest_hz=float(highest))


@pytest.mark.parametrize("platform", ["cpu", "default"])
@pytest.mark.parametrize("case", ["sixteen", "clap"])
def test_filters_and_decibels_are_the_golden_ones_on_every_platform(case, platform, monkeypatch):
    take = lambda *args, **programs: programs[platform](*args)
    monkeypatch.setattr(jax.lax, "platform_dependent", take)
    log_mel = of_golden(case)
    np.testing.assert_allclose(log_mel.filters(), GOLDEN[f"log_mel/{case}/filters"], atol=1e-12)
    with jax.enable_x64(True):
        got = jax.jit(log_mel)(jnp.asarray(GOLDEN[f"log_mel/{case}/waveform"])[None])
        assert got.dtype == jnp.float64
    np.testing.assert_allclose(got[0], GOLDEN[f"log_mel/{case}/decibel"], rtol=1e-10, atol=1e-9)


def test_float32_is_within_a_hundredth_of_a_decibel():
    waveform = jnp.asarray(GOLDEN["log_mel/clap/waveform"], jnp.float32)[None]
    got = of_golden("clap")(waveform)[0]
    np.testing.assert_allclose(got, GOLDEN["log_mel/clap/decibel"], atol=1e-2)


def test_the_defaults_are_claps():
    assert of_golden("clap") == LogMel()


def test_a_tone_is_loudest_in_the_band_around_it():
    hz = 1000.0
    tone = jnp.sin(2 * jnp.pi * hz * jnp.arange(2000) / SMALL.rate)[None]
    frames = np.asarray(SMALL(tone))[0]
    assert frames.shape == (SMALL.num_frames(2000), SMALL.num_mels)
    band = SMALL.filters()[frames[5].argmax()]
    around = np.flatnonzero(band) * SMALL.rate / SMALL.num_fft
    assert around.min() <= hz <= around.max()


def test_samples_of_16_bits_are_scaled():
    samples = np.random.default_rng(0).integers(-(2**15), 2**15, (2, 500)).astype(np.int16)
    got = SMALL(jnp.asarray(samples))
    np.testing.assert_allclose(got, SMALL(jnp.asarray(samples / 32768, jnp.float32)), rtol=1e-6)


def test_silence_is_finite():
    np.testing.assert_allclose(SMALL(jnp.zeros((1, 400))), -100.0)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"highest_hz": 5000.0}, "end at or below half of rate=8000, 4000"),
        ({"lowest_hz": 4000.0}, "must go up"),
        ({"num_mels": 200}, "of num_mels=200 bands lie between two frequencies of num_fft=256"),
    ],
)
def test_names_settings_that_make_no_bands(fault, message):
    settings = {"rate": 8000, "num_fft": 256, "hop": 80, "lowest_hz": 60.0, "highest_hz": 4000.0}
    with pytest.raises(ValueError, match=message):
        LogMel(**settings | {"num_mels": 24} | fault)


def test_names_a_waveform_shorter_than_half_a_frame():
    with pytest.raises(ValueError, match=r"128 samples are too few .* 129 are needed"):
        SMALL(jnp.zeros((1, 128)))
