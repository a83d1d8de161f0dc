"""What the columns of a table of images are called, and what its labels and texts mean."""

import dataclasses
from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from simclr_jax.core.errors import UserError, did_you_mean
from simclr_jax.data.classes import quote
from simclr_jax.data.decode import UnreadableImageError

SOUND = ("audio", "sound", "wav")  # names that columns of images do not have
IMAGE = ("image", "img", "path", "filepath", "file_path", "file_name", "filename", "file")
LABEL = ("label", "class")
CAPTION = ("caption", "captions", "text", "title")
SPLIT = "split"
MAX_CAPTION_BYTES = 1_000_000


@dataclasses.dataclass(frozen=True)
class Columns:
    """Names of the columns that are read; None takes the first of the usual names there is.

    Attributes:
      image: column of the images, or of the paths of images or sounds.
      label: column of their classes, as text or whole numbers.
      caption: column of their texts.
    """

    image: str | None = None
    label: str | None = None
    caption: str | None = None

    def among(self, there: Collection[str], where: str) -> "Columns":
        """Returns the columns that a table has: None where it has none of that kind.

        Args:
          there: names of all its columns.
          where: the table, for messages.

        Raises:
          UserError: if one that is asked for is not there, or there is none for the image.
        """
        usual = {"image": IMAGE + SOUND, "label": LABEL, "caption": CAPTION}
        chosen = {}
        for kind, names in usual.items():
            asked = getattr(self, kind)
            if asked is not None and asked not in there:
                raise UserError(
                    f"config.data.{kind}_column={asked!r}: {where} has no such column, only "
                    f"{quote(list(there))}.{did_you_mean(asked, there)}"
                )
            chosen[kind] = asked or next((name for name in names if name in there), None)
        if chosen["image"] is None:
            raise UserError(
                f"{where} has no column called {', '.join(IMAGE[:-1])} or {IMAGE[-1]}, only "
                f"{quote(list(there))}: say which one holds the images or sounds, "
                "--config.data.image_column=NAME."
            )
        return Columns(**chosen)


def label_of(value: Any, name: str) -> str:
    """Returns the name of a class as a table gives it, "" where it gives none, or -1.

    Raises:
      UserError: if it is neither text nor a whole number.
    """
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | np.integer):
        raise UserError(f"{name}: the label {value!r} is neither text nor a whole number.")
    text = str(value).strip()
    return "" if text == "-1" else text  # what data sets without labels have in their place


def captions_of(value: Any, name: str) -> tuple[str, ...]:
    """Returns the texts of an image, of which a table gives none, one or a list.

    Raises:
      UserError: if it gives something else.
    """
    texts = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{name}: the captions {value!r} are neither text nor a list of texts.")
    return tuple(text.strip() for text in texts if text.strip())


def captions_if_readable(read: Callable[[], tuple[str, ...]]) -> tuple[str, ...]:
    """Returns what `read` does, none if it finds no text: an image may be wanted without one.

    Where one is needed, `Reader.captions` says what is wrong with it.
    """
    try:
        return read()
    except UnreadableImageError:
        return ()


def caption_in(data: bytes, name: str) -> tuple[str, ...]:
    """Returns the caption that a text file holds, none if it is empty.

    Args:
      data: what the file holds.
      name: what the caption is of, for messages.

    Raises:
      UnreadableImageError: if it is not UTF-8, or longer than a caption can be.
    """
    if len(data) > MAX_CAPTION_BYTES:
        raise UnreadableImageError(
            f"its caption has {len(data):,} bytes; the most are {MAX_CAPTION_BYTES:,}", name
        )
    try:
        return captions_of(data.decode("utf-8-sig"), name)
    except UnicodeDecodeError as error:
        raise UnreadableImageError(
            f"its caption is not UTF-8: byte {data[error.start]:#04x} at {error.start + 1}. "
            "Convert it once, such as: iconv -f latin1 -t utf-8",
            name,
        ) from error
