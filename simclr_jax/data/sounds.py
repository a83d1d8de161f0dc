"""Encoded sounds to int16 samples: bytes or samples in, one channel at the wanted rate out.

The header is judged before a sample is decoded, so that a file of a few kilobytes cannot claim
gigabytes.
"""

import io

import numpy as np
from jaxtyping import Float, Int16

from simclr_jax.core.errors import UserError
from simclr_jax.core.optional import import_optional
from simclr_jax.core.types import Clips
from simclr_jax.data.decode import UnreadableImageError
from simclr_jax.data.records import Record

FORMATS = ("WAV", "WAVEX", "FLAC", "OGG")
MAX_VALUES = 2**27  # samples of all channels: 23 minutes of stereo at 48 kHz, 512 MiB as floats
MAX_SECONDS = 1800  # those of a low rate grow when they are resampled
RATES = (1000, 768_000)  # samples per second that a file may claim
STREAMED = 0x7F000000  # bytes that a WAV file claims from here on if its end was not known
LOUDEST = 8.0  # samples of floats, of which 1 is full scale; a little above it is clipped


def decode_sound(record: Record, rate: int) -> Int16[np.ndarray, " n"]:
    """Returns the samples of a record at a rate; channels are averaged.

    Args:
      record: what a source of sounds holds.
      rate: samples per second; those of another rate are resampled by the package soxr.

    Raises:
      UnreadableImageError: if the bytes are no whole sound of a known format, have no samples, or
        claim more than `MAX_VALUES` of them or `MAX_SECONDS`.
      UserError: if the record is no sound, or a package is not installed.
    """
    if record.sound is None:
        raise UserError(
            "it is an image, and sounds are wanted: name a data set of sounds, such as "
            "midi_instruments."
        )
    if isinstance(record.sound, bytes):
        samples, own_rate = _decode_bytes(record.sound)
    else:
        samples, own_rate = record.sound.samples, record.sound.rate
        if own_rate == rate:
            return samples
        samples = samples.astype(np.float32) / 2**15
    if own_rate != rate:
        samples = import_optional("soxr", "audio").resample(samples, own_rate, rate)
    if not samples.size:
        raise UnreadableImageError(f"too short for one sample at {rate} Hz")
    return np.clip(np.round(samples * 2**15), -(2**15), 2**15 - 1).astype(np.int16)


def clip_sound(
    samples: Int16[np.ndarray, " n"], clips: Clips, words: np.random.Philox
) -> Int16[np.ndarray, " m"]:
    """Returns a clip of a sound: a part of a longer one, or a shorter one repeated.

    A shorter one is repeated as often as it fits whole; silence follows.

    Args:
      samples: at least one.
      clips: how long clips are, and where they begin.
      words: random words.

    Source: Wu et al. 2022, https://arxiv.org/abs/2211.06687, Section 3.3, and the released code
      (LAION-AI/CLAP, "rand_trunc" and "repeatpad").
    """
    beyond = len(samples) - clips.num_samples
    if beyond >= 0:
        start = words.random_raw() % (beyond + 1) if clips.random else beyond // 2
        return samples[start : start + clips.num_samples]
    repeated = np.tile(samples, clips.num_samples // len(samples))
    return np.pad(repeated, (0, clips.num_samples - len(repeated)))


def _decode_bytes(data: bytes) -> tuple[Float[np.ndarray, " n"], int]:
    """Returns samples in [-1, 1] and their rate."""
    soundfile = import_optional("soundfile", "audio")
    if not data:
        raise UnreadableImageError("empty (0 bytes)")
    try:
        file = soundfile.SoundFile(io.BytesIO(data))
    except soundfile.LibsndfileError as error:
        raise UnreadableImageError(
            f"no sound that libsndfile reads ({error.error_string.rstrip('.')}); it starts with "
            f"{data[:12]!r}"
        ) from error
    with file:
        if file.format not in FORMATS:
            raise UnreadableImageError(f"a file of {file.format}, not one of {', '.join(FORMATS)}")
        if not file.frames:
            raise UnreadableImageError("it has no samples")
        if not RATES[0] <= file.samplerate <= RATES[1]:
            raise UnreadableImageError(f"a rate of {file.samplerate} Hz")
        seconds = file.frames / file.samplerate
        if file.frames * file.channels > MAX_VALUES or seconds > MAX_SECONDS:
            raise UnreadableImageError(
                f"{seconds:.0f} s of {file.channels} channels, {file.frames} samples of each; a "
                f"sound has at most {MAX_SECONDS} s and {MAX_VALUES:,} samples in all"
            )
        if missing := _missing(data):
            raise UnreadableImageError(f"broken {file.format} data: it is cut off, {missing} bytes")
        try:
            samples = file.read(dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise UnreadableImageError(f"broken {file.format} data: {error}") from error
        if len(samples) < file.frames:
            raise UnreadableImageError(
                f"broken {file.format} data: {len(samples)} of {file.frames} samples"
            )
        mean = samples.mean(axis=1)
        if not np.isfinite(mean).all():
            raise UnreadableImageError("some of its samples are no numbers")
        if (loudest := float(np.abs(mean).max())) > LOUDEST:
            raise UnreadableImageError(
                f"its samples, floats, reach {loudest:.4g}, and full scale is 1: divide them"
            )
        return mean, file.samplerate


def _missing(data: bytes) -> int:
    """Returns how many bytes of samples a WAV file claims and lacks; libsndfile would not say."""
    if data[:4] not in (b"RIFF", b"RIFX"):
        return 0
    order, at = "little" if data[:4] == b"RIFF" else "big", 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], order)
        if data[at : at + 4] == b"data":
            return 0 if size >= STREAMED else max(0, size - (len(data) - at - 8))
        at += 8 + size + size % 2
    return 0
