"""What a file is by the ending of its name: an image, a sound or a text about one of them."""

import os
from collections.abc import Iterable

IMAGES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
)
SOUNDS = frozenset({".wav", ".flac", ".ogg"})
TEXT = ".txt"
ENDINGS = {"images": IMAGES, "sounds": SOUNDS}


def ending_of(name: str) -> str:
    """Returns the ending of a name in lower case, such as ".jpg"."""
    return os.path.splitext(name)[1].lower()


def are_sounds(names: Iterable[str], kind: str | None = None) -> bool:
    """Returns whether sounds are read of some files, and not images.

    Args:
      names: names of the files.
      kind: "images" or "sounds"; None: whichever there are more of.
    """
    if kind is not None:
        return kind == "sounds"
    balance = 0
    for name in names:
        kind = ending_of(name)
        balance += (kind in SOUNDS) - (kind in IMAGES)
    return balance > 0
