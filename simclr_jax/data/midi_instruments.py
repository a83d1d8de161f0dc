"""The 128 instruments of General MIDI, a second of each of 24 notes, with captions.

They are played when they are read, by packages that are installed, from the soundfont TimGM6mb in
pretty_midi (licence: GPL-2).
"""

import hashlib
import threading
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Int16

from simclr_jax.core.errors import UserError, did_you_mean
from simclr_jax.core.optional import import_optional
from simclr_jax.data.records import Record, Sound, digest, image_key

SPLITS = ("train", "test")
RATE = 16_000  # samples per second, and as many samples
NOTES = tuple(range(36, 84, 2))  # of MIDI: C2 to A#5 in whole tones
NUM_TEST = 473  # of 3,072 pairs of instrument and note
CAPTIONS = ("{instrument} playing {note}", "{note} on {instrument}", "{instrument}, {note}")
VELOCITY = 100  # of MIDI, 1 to 127
SILENCE = 400  # samples after which nothing is left of a note that was cut off


class MidiInstruments:
    """Notes that instruments play, and what is said of them; 473 pairs are for testing.

    Every instrument and every note is trained on, and no pair that is tested. The class of an
    instrument is described by the captions of all its notes.
    """

    has_sounds = True

    def __init__(self, split: str):
        """Names the pairs of a split, and plays none.

        Args:
          split: one of `SPLITS`.

        Raises:
          UserError: if there is no such split, or a package is not installed.
        """
        if split not in SPLITS:
            raise UserError(
                f"midi_instruments has the splits {', '.join(SPLITS)}, not {split!r}."
                + did_you_mean(split, SPLITS)
            )
        self._tinysoundfont, pretty_midi = map(_import, ("tinysoundfont", "pretty_midi"))
        self._soundfont = Path(pretty_midi.__file__).parent / "TimGM6mb.sf2"
        self.class_names = tuple(map(pretty_midi.program_to_instrument_name, range(128)))
        self._note_names = {note: pretty_midi.note_number_to_name(note) for note in NOTES}
        say = CAPTIONS[0].format
        self.templates = tuple(
            say(instrument="{}", note=name) for name in self._note_names.values()
        )
        held_out = _held_out()
        self._pairs = [pair for pair in _pairs() if (pair in held_out) == (split == "test")]
        self.labels = np.array([instrument for instrument, _ in self._pairs])
        self.name = f"midi_instruments/{split}"
        self.fingerprint = digest([self.name, *map(str, self._pairs)])
        self._local = threading.local()  # of each thread: what plays

    def __len__(self) -> int:
        return len(self._pairs)

    def image_keys(self) -> Int[np.ndarray, " n"]:
        """Returns one number for each pair; see `records.Source`."""
        return np.array([image_key(f"midi_instruments/{pair}") for pair in self._pairs], np.int64)

    def captions_of(self, index: int) -> tuple[str, ...]:
        """Returns what can be said of a pair."""
        instrument, note = self._pairs[index]
        names = {"instrument": self.class_names[instrument], "note": self._note_names[note]}
        return tuple(caption.format(**names) for caption in CAPTIONS)

    def name_of(self, index: int) -> str:
        """Returns what to call a pair."""
        instrument, note = self._pairs[index]
        return f"midi_instruments/{self.class_names[instrument]}/{self._note_names[note]}"

    def __getitem__(self, index: int, /) -> Record:
        instrument, note = self._pairs[index]
        sound = Sound(self._play(instrument, note), RATE)
        return Record(b"", instrument, self.name_of(index), self.captions_of(index), sound)

    def _play(self, instrument: int, note: int) -> Int16[np.ndarray, " n"]:
        if not hasattr(self._local, "synth"):
            self._local.synth = self._tinysoundfont.Synth(samplerate=RATE)
            self._local.soundfont = self._local.synth.sfload(str(self._soundfont))
        synth = self._local.synth
        synth.program_select(0, self._local.soundfont, 0, instrument)
        synth.noteon(0, note, VELOCITY)
        both = np.frombuffer(synth.generate(RATE), np.float32).reshape(-1, 2)
        synth.sounds_off()
        synth.generate(SILENCE)  # so that the next note begins from nothing
        return np.round(np.clip(both.mean(axis=1), -1, 1) * (2**15 - 1)).astype(np.int16)


def _pairs() -> list[tuple[int, int]]:
    return [(instrument, note) for instrument in range(128) for note in NOTES]


def _held_out() -> set[tuple[int, int]]:
    by_hash = lambda pair: hashlib.sha256(str(pair).encode()).digest()
    return set(sorted(_pairs(), key=by_hash)[:NUM_TEST])


def _import(package: str) -> Any:
    try:
        return import_optional(package, "audio")
    except UserError as error:
        raise UserError(
            f"{error} The instruments need tinysoundfont, too, which asks for pyaudio: that does "
            "not build without PortAudio, and is not needed here. In a checkout, "
            "launch/midi_instruments.sh PYTHON installs all; or: pip install --no-deps "
            "tinysoundfont==0.3.7"
        ) from error
