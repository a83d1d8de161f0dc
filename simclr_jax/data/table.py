"""A table of images or sounds as a data set: a row for each, with its class and its captions."""

import itertools
import json
import logging
import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from simclr_jax.core.errors import UserError
from simclr_jax.data.classes import number_labels
from simclr_jax.data.columns import SPLIT, Columns, captions_of, label_of
from simclr_jax.data.decode import UnreadableImageError
from simclr_jax.data.files import (
    NO_FILE,
    Paths,
    file_keys,
    find_files,
    no_split,
    read_image_file,
    short_names,
    source_name,
    splits_in_names,
)
from simclr_jax.data.kinds import are_sounds
from simclr_jax.data.records import Record, digest, encoded
from simclr_jax.data.rows import EXTENSIONS, Row, column_names, read_rows

log = logging.getLogger(__name__)


class Table:
    """Images, or sounds, that the rows of one or several files name, with labels and captions.

    Paths are relative to the folder of their table. A split is what the name of a file says, or
    else its rows that have it in the column "split". Several rows of one image are one record,
    with the captions of all. It is a table of sounds if the first file that is there is one, by the
    ending of its name.
    """

    def __init__(
        self,
        kind: str,
        path: Paths,
        split: str,
        columns: Columns,
        class_names: Sequence[str] | None = None,
    ):
        """Reads the tables, and none of the images.

        Args:
          kind: "csv" (or TSV), or "jsonl".
          path: the table, several, or folders of tables.
          split: "all", or one of the splits.
          columns: which columns are read.
          class_names: the classes in the order of their numbers; those found if None.

        Raises:
          UserError: if a table cannot be read as one, or not one of its images is there.
        """
        self.name = source_name(kind, path, split)
        tables, is_named = find_files(path, split, EXTENSIONS[kind])
        # Folder and name of each.
        self._tables = list(zip(map(os.path.dirname, tables), short_names(tables), strict=True))
        self._images: list[str] = []  # as the rows name them
        self._lines: list[tuple[int, int]] = []  # number of the table, and line in it
        self._captions: list[tuple[str, ...]] = []
        classes: list[str] = []
        known: dict[str, int] = {}  # path -> index
        splits: dict[str, None] = {}
        has_captions, num_rows = False, 0
        for t, table in enumerate(tables):
            there = column_names(table, kind)
            chosen = columns.among(there, table)
            has_captions |= chosen.caption is not None
            by_column = split != "all" and not is_named
            if by_column and SPLIT not in there:
                no_column = f"{table}, which has no column {SPLIT!r},"
                raise no_split(no_column, split, splits_in_names(tables))
            for line, row in read_rows(table, kind):
                if by_column:
                    found = str(row.get(SPLIT, ""))
                    splits[found] = None
                    if found != split:
                        continue
                num_rows += 1
                self._add(t, line, row, chosen, classes, known)
        if not self._images:
            if splits:
                raise no_split(self.name, split, splits)
            raise UserError(f"{self.name} has no rows.")
        if num_rows > len(self._images):
            log.info(
                "%d rows of %s name an image that an earlier one names: each is taken once%s.",
                num_rows - len(self._images), self.name,
                ", with the captions of all" if has_captions else "",
            )  # fmt: skip
        self.labels, self.class_names = number_labels(classes, class_names, self.name)
        self._present = self._first_present()
        self.has_sounds = are_sounds([self._present])
        rows = zip(map(self.name_of, range(len(self))), classes, self._captions, strict=True)
        self.fingerprint = digest(itertools.chain(map(json.dumps, rows), self.class_names))

    def _add(
        self,
        t: int,
        line: int,
        row: Row,
        columns: Columns,
        classes: list[str],
        known: dict[str, int],
    ) -> None:
        """Takes a row in, or adds what it says to the row that names the same image."""
        name = f"{self._tables[t][1]}:{line}"
        value = lambda column: row.get(column)
        image, label = value(columns.image) or "", label_of(value(columns.label), name)
        captions = captions_of(value(columns.caption), name)
        if not isinstance(image, str) or not _can_be_a_path(image):
            raise UserError(f"{name}: the image {image!r} is no path.")
        i = len(self._images)
        if image := image.strip():
            i = known.setdefault(os.path.normpath(os.path.join(self._tables[t][0], image)), i)
        if i == len(self._images):
            self._images.append(image)
            self._lines.append((t, line))
            self._captions.append(captions)
            classes.append(label)
            return
        if label and classes[i] and label != classes[i]:
            raise UserError(
                f"{name} and {self.name_of(i)} name one image with the labels {label!r} and "
                f"{classes[i]!r}: an image has one label."
            )
        self._captions[i] = tuple(dict.fromkeys(self._captions[i] + captions))
        classes[i] = classes[i] or label

    def _first_present(self) -> str:
        """Returns the path of an image that is there."""
        for i in range(len(self)):
            if self._images[i] and os.path.isfile(path := self.file_of(i)):
                return path
        raise UserError(
            f"Not one of the {len(self)} files of {self.name} is there; the first one, "
            f"{self.name_of(0)}, would be {self.file_of(0)}. A path in a table is relative to the "
            "folder of the table, and nothing is downloaded."
        )

    def __len__(self) -> int:
        return len(self._images)

    def image_keys(self) -> Int[np.ndarray, " n"]:
        """Returns one number for each image, of its file; links to files are not followed."""
        return file_keys([self.file_of(i) for i in range(len(self))])

    def __getitem__(self, index: int, /) -> Record:
        name = self.name_of(index)
        if not self._images[index]:
            raise UnreadableImageError("the row names no image", name)
        try:
            data = read_image_file(self.file_of(index), name)
        except OSError as error:
            # If an image that was there is gone, too, it is the storage that is away.
            if error.errno not in NO_FILE or not os.path.exists(self._present):
                raise
            raise UnreadableImageError(f"{self.file_of(index)} does not exist", name) from error
        captions = self._captions[index]
        return encoded(data, self.labels[index], name, captions, is_sound=self.has_sounds)

    def captions_of(self, index: int) -> tuple[str, ...]:
        """Returns the captions of an image."""
        return self._captions[index]

    def file_of(self, index: int) -> str:
        """Returns the path of an image."""
        return os.path.join(self._tables[self._lines[index][0]][0], self._images[index])

    def name_of(self, index: int) -> str:
        """Returns table, line and path of an image, such as "train.csv:17: photos/a.jpg"."""
        t, line = self._lines[index]
        return f"{self._tables[t][1]}:{line}: {self._images[index]}"


def _can_be_a_path(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False
