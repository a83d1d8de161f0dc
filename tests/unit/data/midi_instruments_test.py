"""General MIDI: which pairs there are, how they are split, and what is heard."""

import concurrent.futures

import numpy as np
import pytest

from simclr_jax.core.errors import UserError
from simclr_jax.data import midi_instruments
from simclr_jax.data.records import Sound, count_shared
from simclr_jax.data.sources import open_source

SPLITS = ("train", "test")


@pytest.fixture(scope="module")
def splits():
    for package in ("pretty_midi", "tinysoundfont"):
        pytest.importorskip(package, reason="launch/midi_instruments.sh was not run")
    return {split: open_source("midi_instruments", split=split) for split in SPLITS}


def of_name(source, name):
    return source[[source.name_of(i) for i in range(len(source))].index(name)]


def test_every_instrument_and_every_note_is_trained_on_and_no_pair_is_in_both(splits):
    train, test = (splits[split] for split in SPLITS)
    assert (len(train), len(test)) == (2599, 473)
    assert count_shared(train, test) == 0
    assert {*train.labels} == {*range(128)}
    notes = [{s.name_of(i).split("/")[-1] for i in range(len(s))} for s in (train, test)]
    assert len(notes[0]) == 24
    assert notes[1] <= notes[0]


def test_a_record_is_a_second_of_the_note_that_its_captions_name(splits):
    record = of_name(splits["train"], "midi_instruments/Ocarina/C4")
    assert record.captions == ("Ocarina playing C4", "C4 on Ocarina", "Ocarina, C4")
    assert splits["train"].class_names[record.label] == "Ocarina"
    assert len(splits["train"].templates) == 24
    assert splits["train"].templates[12] == "{} playing C4"
    assert isinstance(record.sound, Sound)
    assert record.sound.rate == len(record.sound.samples) == 16_000
    power = np.abs(np.fft.rfft(record.sound.samples * np.hanning(16_000)))
    assert abs(power[100:1000].argmax() + 100 - 261.6) < 4  # Hz


def test_a_note_sounds_the_same_whatever_was_played_before_and_in_any_thread(splits):
    heard = lambda i: splits["test"][i].sound.samples
    chosen = [0, 200, 470, 3]
    alone = [heard(i) for i in chosen]
    again = [heard(i) for i in reversed(chosen)]
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        beside = list(threads.map(heard, chosen))
    for first, second, third in zip(alone, reversed(again), beside, strict=True):
        assert np.abs(first).max() > 100
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(first, third)


def test_another_split_is_an_error():
    with pytest.raises(UserError, match="has the splits train, test, not 'tests'"):
        open_source("midi_instruments", split="tests")


def test_a_missing_package_is_told_how_to_install(monkeypatch):
    def missing(module, extra):
        raise UserError(f"The Python package {module} is not installed.")

    monkeypatch.setattr(midi_instruments, "import_optional", missing)
    with pytest.raises(UserError, match=r"tinysoundfont is not .* launch/midi_instruments\.sh"):
        open_source("midi_instruments", split="test")
