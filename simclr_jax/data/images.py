"""The images or sounds of a source, decoded, and which of them cannot be read."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from simclr_jax.core.errors import UserError
from simclr_jax.data.decode import UnreadableImageError
from simclr_jax.data.quarantine import Unreadable
from simclr_jax.data.reading import Reader
from simclr_jax.data.records import Record, Source, name_of
from simclr_jax.data.text import problem_with, tokenizer_of


class Example(NamedTuple):
    """One image or sound, as it is cut into views: pixels [h, w, 3], or samples [n]."""

    id: int
    label: int
    decoded: np.ndarray
    captions: tuple[str, ...]


class Images:
    """The images of a source, decoded; what is known to be unreadable is not tried again."""

    def __init__(self, source: Source, reader: Reader, decode: Callable[[Record], np.ndarray]):
        """Says where they come from.

        Args:
          source: the data set.
          reader: what reads its records.
          decode: what becomes of a record, or an `UnreadableImageError`.
        """
        self._source = source
        self._reader = reader
        self._decode = decode
        self._needs_captions = tokenizer_of(source) is not None
        self._unreadable: dict[int, Unreadable] = {}

    def get(self, i: int, record: Record | None = None) -> Example | Unreadable:
        """Returns image i, or why it cannot be read.

        Args:
          i: index of the image in the source.
          record: what the source holds there, if that has been read already.
        """
        if i in self._unreadable:
            return self._unreadable[i]
        source = self._source
        try:
            record = self._reader.record(i) if record is None else record
            if self._needs_captions and (problem := problem_with(record.captions)):
                self._reader.captions(i)  # which raises if there is one that is no text
                raise UnreadableImageError(problem, record.name)
            decoded = self._decode(record)
        except UnreadableImageError as error:
            name = error.name or (record.name if record else name_of(source, i))
            self._unreadable[i] = Unreadable(i, name, error.reason)
            return self._unreadable[i]
        except UserError as error:
            raise UserError(f"Image {i} of {source.name}: {error}") from error
        classes = len(source.class_names)
        if record.label != -1 and not 0 <= record.label < max(classes, 1):
            raise UserError(
                f"Image {i} of {source.name}, {record.name}, has the label {record.label}; the "
                f"data set has {classes} classes, so it must be from 0 to {classes - 1}, or -1: "
                "unknown."
            )
        return Example(i, record.label, decoded, record.captions)
