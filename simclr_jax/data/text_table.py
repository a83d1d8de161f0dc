"""Texts as a data set: lines of files, columns of tables, or the captions of anything else."""

import os
from collections.abc import Collection
from typing import Any

import numpy as np

from simclr_jax.core.errors import UserError, did_you_mean
from simclr_jax.data.classes import quote
from simclr_jax.data.columns import CAPTION, Columns
from simclr_jax.data.decode import UnreadableImageError
from simclr_jax.data.files import (
    Paths,
    find_files,
    no_split,
    short_names,
    source_name,
    splits_in_names,
)
from simclr_jax.data.records import Record, Source, captions_of, digest, name_of
from simclr_jax.data.rows import EXTENSIONS, column_names, read_rows

KINDS = {ending: kind for kind, endings in EXTENSIONS.items() for ending in endings}
USUAL = ("sentence", *CAPTION)


class TextTable:
    """Texts in files: one in a line of .txt; one or several in a row of CSV, TSV or JSON lines.

    Several texts in a row belong together, in the order of their columns: a sentence, one that
    means the same, one that does not. Empty lines are passed over.
    """

    has_texts = True
    class_names: tuple[str, ...] = ()

    def __init__(self, path: Paths, split: str, columns: Columns):
        """Reads all of them.

        Args:
          path: a file, several, or folders of such.
          split: "all", or what names of files begin with, or a folder of them is called.
          columns: names of columns; `caption` has those of the texts, with commas between, and None
            takes the first of the usual names that a table has.

        Raises:
          UserError: if a file cannot be read as what its name says, has no such column, or none
            holds a text.
        """
        if columns.image is not None or columns.label is not None:
            raise UserError(
                "config.data.image_column and label_column are of images; of name='texts' there "
                "is caption_column alone."
            )
        self.name = source_name("texts", path, split)
        files, is_named = find_files(path, split, tuple(KINDS))
        if split != "all" and not is_named:
            raise no_split(self.name, split, splits_in_names(files))
        self._texts: list[tuple[str, ...]] = []
        self._names: list[str] = []
        for file, short in zip(files, short_names(files), strict=True):
            kind = KINDS.get(os.path.splitext(file)[1].lower(), "txt")
            wanted = _columns(columns.caption, column_names(file, kind), file)
            for line, row in read_rows(file, kind):
                name = f"{short}:{line}"
                self._names.append(name)
                self._texts.append(tuple(x for c in wanted for x in _texts(row.get(c), name)))
        if not self._texts:
            raise UserError(f"{self.name} has no texts.")
        self.fingerprint = digest(text for texts in self._texts for text in (*texts, ""))

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, index: int, /) -> Record:
        return Record(b"", -1, self._names[index], self._texts[index])

    def captions_of(self, index: int) -> tuple[str, ...]:
        """Returns the texts of a row."""
        return self._texts[index]

    def name_of(self, index: int) -> str:
        """Returns file and line of a row, such as "train.csv:17"."""
        return self._names[index]


class TextsAlone:
    """The captions of a source; the images or sounds that they describe are not read."""

    has_texts = True
    class_names: tuple[str, ...] = ()

    def __init__(self, source: Source):
        """Takes a source with captions."""
        self.name, self.fingerprint, self._source = source.name, source.fingerprint, source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int, /) -> Record:
        return Record(b"", -1, self.name_of(index), self.captions_of(index))

    def captions_of(self, index: int) -> tuple[str, ...]:
        """Returns the captions of an example."""
        return captions_of(self._source, index)

    def name_of(self, index: int) -> str:
        """Returns what to call an example."""
        return name_of(self._source, index)


def require_texts(record: Record, num_texts: int) -> np.ndarray:
    """Checks that a record has enough texts; returns an array of nothing, in place of pixels.

    Raises:
      UnreadableImageError: if it has fewer.
    """
    if len(record.captions) < num_texts:
        raise UnreadableImageError(
            f"it has {len(record.captions)} of {num_texts} texts (config.augment.num_texts)",
            record.name,
        )
    return np.zeros(0, np.uint8)


def _columns(asked: str | None, there: Collection[str], file: str) -> list[str]:
    if asked is None:
        usual = [name for name in USUAL if name in there][:1]
        if not usual:
            raise UserError(
                f"{file} has no column called {', '.join(USUAL[:-1])} or {USUAL[-1]}, only "
                f"{quote(list(there))}: say which hold texts, with commas between, "
                "--config.data.caption_column=NAMES."
            )
        return usual
    wanted = [name.strip() for name in asked.split(",")]
    for name in wanted:
        if name not in there:
            raise UserError(
                f"config.data.caption_column={asked!r}: {file} has no column {name!r}, only "
                f"{quote(list(there))}.{did_you_mean(name, there)}"
            )
    return wanted


def _texts(value: Any, name: str) -> list[str]:
    """Returns the texts of one field; an empty one stays, so that the others keep their places."""
    texts = [""] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{name}: {value!r} is neither text nor a list of texts.")
    return [text.strip() for text in texts]
