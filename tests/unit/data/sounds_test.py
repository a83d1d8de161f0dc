"""Sounds: what is read of files of all kinds, what is refused, and how clips are cut."""

import io
import json
import struct
import wave

import numpy as np
import pytest

from simclr_jax.core.errors import UserError
from simclr_jax.core.types import Clips
from simclr_jax.data.decode import UnreadableImageError
from simclr_jax.data.load import train_batches
from simclr_jax.data.quarantine import Quarantine
from simclr_jax.data.records import Record, Sound, captions_of, has_sounds
from simclr_jax.data.sounds import clip_sound, decode_sound
from simclr_jax.data.sources import open_source

soundfile = pytest.importorskip("soundfile", reason="the extra audio is not installed")
pytest.importorskip("soxr", reason="the extra audio is not installed")


def wav(samples, rate=8000):
    """Returns a WAV file of int16 [n] or [n, channels], written by Python's own library."""
    data, samples = io.BytesIO(), np.asarray(samples, "<i2")
    with wave.open(data, "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return data.getvalue()


def tone(hz, seconds, rate, loudness=0.5):
    return np.round(
        loudness * 2**15 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)
    ).astype(np.int16)


def read(sound, rate=8000):
    return decode_sound(Record(b"", -1, "x", sound=sound), rate)


def test_samples_at_the_wanted_rate_stay_as_they_are():
    samples = np.array([-(2**15), -1, 0, 1, 7, 2**15 - 1], np.int16)
    np.testing.assert_array_equal(read(wav(samples)), samples)
    np.testing.assert_array_equal(read(Sound(samples, 8000)), samples)


def test_channels_are_averaged():
    left, right = tone(440, 0.1, 8000), tone(600, 0.1, 8000)
    got = read(wav(np.stack([left, right], axis=1)))
    np.testing.assert_allclose(got, (left.astype(float) + right) / 2, atol=0.51)


@pytest.mark.parametrize("rate", [16_000, 11_025, 44_100])
@pytest.mark.parametrize("stored", [wav, lambda samples, rate: Sound(samples, rate)])
def test_another_rate_is_the_same_tone(stored, rate):
    got = read(stored(tone(440, 0.5, rate), rate))
    assert abs(len(got) - 4000) <= 1
    middle = slice(500, 3500)
    np.testing.assert_allclose(got[middle], tone(440, 0.5, 8000)[middle], atol=0.002 * 2**15)


def test_what_is_above_half_of_the_wanted_rate_does_not_come_back_lower():
    got = read(wav(tone(5000, 0.5, 16_000), 16_000))
    assert np.abs(got[500:3500]).max() < 0.001 * 2**15


@pytest.mark.parametrize(("format", "subtype"), [("FLAC", "PCM_16"), ("OGG", "VORBIS")])
def test_flac_and_ogg_are_read(format, subtype):
    data, samples = io.BytesIO(), tone(440, 0.5, 8000)
    soundfile.write(data, samples, 8000, format=format, subtype=subtype)
    got = read(data.getvalue())
    assert len(got) == len(samples)
    tolerance = 0 if format == "FLAC" else 0.05 * 2**15
    np.testing.assert_allclose(got, samples, atol=tolerance)


def claiming(num_frames, rate=8000, channels=1):
    """Returns a WAV file of 100 samples whose header says something else."""
    data = bytearray(wav(tone(440, 100 / 8000, 8000)))
    data[22:24], data[24:28] = struct.pack("<H", channels), struct.pack("<I", rate)
    data[40:44] = struct.pack("<I", 2 * channels * num_frames)
    return bytes(data)


def floats(values):
    data = io.BytesIO()
    soundfile.write(data, np.asarray(values, np.float32), 8000, format="WAV", subtype="FLOAT")
    return data.getvalue()


def flac(num_frames_claimed):
    """Returns a FLAC file of 4,000 samples whose header claims others, in 36 bits."""
    data = io.BytesIO()
    soundfile.write(data, tone(440, 0.5, 8000), 8000, format="FLAC", subtype="PCM_16")
    data = bytearray(data.getvalue())
    data[21] = data[21] & 0xF0 | num_frames_claimed >> 32
    data[22:26] = struct.pack(">I", num_frames_claimed & 0xFFFFFFFF)
    return bytes(data)


@pytest.mark.parametrize("claimed", [2**30, 2**31 - 1])
def test_a_stream_whose_end_was_not_known_is_read(claimed):
    """As ffmpeg and arecord write into a pipe."""
    np.testing.assert_array_equal(read(claiming(claimed)), tone(440, 100 / 8000, 8000))


@pytest.mark.parametrize(
    ("subtype", "tolerance"), [("PCM_24", 0.51), ("PCM_U8", 256), ("ULAW", 600)]
)
def test_wav_files_of_other_depths_are_read(subtype, tolerance):
    data = io.BytesIO()
    soundfile.write(data, tone(440, 0.1, 8000), 8000, format="WAV", subtype=subtype)
    np.testing.assert_allclose(read(data.getvalue()), tone(440, 0.1, 8000), atol=tolerance)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", r"empty \(0 bytes\)"),
        (b"RIFFnothing else", "no sound that libsndfile reads"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "no sound that libsndfile reads"),
        (wav(np.zeros(0, np.int16)), "it has no samples"),
        (claiming(100, rate=1), "a rate of 1 Hz"),
        (flac(2**35), r"4294967 s of 1 channels, .* at most 1800 s and 134,217,728 samples"),
        (flac(8000), r"broken FLAC data"),
        (floats([0.1, np.nan, 0.2]), "some of its samples are no numbers"),
        (floats([0.1, -32768, 0.2]), r"reach 3\.277e\+04, and full scale is 1"),
        (claiming(2**29), r"broken WAV data: it is cut off, 1073741624 bytes"),
        (wav(tone(440, 0.5, 8000))[:-1], r"broken WAV data: it is cut off, 1 bytes"),
    ],
    # Bytes would be part of the names, and a WAV file of floats holds the time.
    ids=lambda value: value if isinstance(value, str) else "data",
)
def test_what_is_no_whole_sound_is_refused_with_the_reason(data, why):
    with pytest.raises(UnreadableImageError, match=why):
        read(data)


def test_an_image_among_sounds_is_told_apart():
    with pytest.raises(UserError, match="it is an image, and sounds are wanted"):
        decode_sound(Record(b"123", -1, "x"), 8000)


def words(seed=0):
    return np.random.Philox(key=seed)


def test_a_shorter_sound_is_repeated_as_often_as_it_fits_and_padded():
    got = clip_sound(np.arange(1, 4, dtype=np.int16), Clips(8000, 11, random=True), words())
    np.testing.assert_array_equal(got, [1, 2, 3, 1, 2, 3, 1, 2, 3, 0, 0])


def test_a_longer_sound_is_cut_anywhere_or_in_its_middle():
    samples, starts = np.arange(10, dtype=np.int16), set()
    for seed in range(60):
        got = clip_sound(samples, Clips(8000, 6, random=True), words(seed))
        np.testing.assert_array_equal(np.diff(got), 1)
        starts.add(int(got[0]))
    assert starts == {0, 1, 2, 3, 4}
    got = clip_sound(samples, Clips(8000, 6, random=False), words())
    np.testing.assert_array_equal(got, samples[2:8])


def test_a_table_of_sounds_gives_batches_and_names_bad_rows_by_their_lines(tmp_path):
    for i in range(4):
        (tmp_path / f"{i}.wav").write_bytes(wav(tone(200 * (i + 1), 0.1, 8000)))
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    (tmp_path / "none.wav").write_bytes(wav(np.zeros(0, np.int16)))
    names = ["0", "1", "bad", "2", "none", "3"]
    rows = [json.dumps({"path": f"{name}.wav", "caption": f"tone {name}"}) for name in names]
    (tmp_path / "t.jsonl").write_text("\n".join(rows))
    source, quarantine = open_source("jsonl", split="all", path=tmp_path / "t.jsonl"), Quarantine()
    assert has_sounds(source)
    assert captions_of(source, 1) == ("tone 1",)
    clips = Clips(8000, 400, random=True)
    batches = train_batches(
        source,
        clips,
        batch_size=4,
        canvas=None,
        seed=0,
        first_step=0,
        num_steps=3,
        quarantine=quarantine,
    )
    for batch in batches:
        assert batch["audio"].shape == (4, 400)
        assert "image" not in batch
        for row, i in zip(batch["audio"], batch["id"], strict=True):
            file = source[int(i)].sound
            assert isinstance(file, bytes)
            whole = np.frombuffer(file[44:], "<i2")
            assert any(np.array_equal(whole[k : k + 400], row) for k in range(401))
    bad = {entry.name: entry.reason for entry in quarantine.entries.values()}
    assert sorted(bad) == ["t.jsonl:3: bad.wav", "t.jsonl:5: none.wav"]
    assert bad["t.jsonl:5: none.wav"] == "it has no samples"
