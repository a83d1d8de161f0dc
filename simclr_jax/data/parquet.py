"""Parquet files with the images, or sounds, in them, as Hugging Face writes them, as a data set.

A parquet file is read by whole row groups: for one image its whole group comes from the disk. Some
groups stay in memory, so a data set of up to `KEPT_BYTES` is read once.
"""

import collections
import json
import logging
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int

from simclr_jax.core.errors import UserError
from simclr_jax.core.files import reason
from simclr_jax.data.classes import number_labels, quote
from simclr_jax.data.columns import SOUND, SPLIT, Columns, captions_of, label_of
from simclr_jax.data.decode import UnreadableImageError
from simclr_jax.data.files import (
    Paths,
    file_keys,
    find_files,
    no_split,
    short_names,
    source_name,
    splits_in_names,
)
from simclr_jax.data.records import Record, digest, encoded

log = logging.getLogger(__name__)
KEPT_BYTES = 1 << 28  # of groups of rows in memory


class Parquet:
    """Rows of parquet files: an image's bytes, alone or as struct {bytes, path}, class, captions.

    Names of classes are those that Hugging Face keeps in the schema, or what stands in the column.
    A column with a usual name of sounds, or of Hugging Face's type Audio, holds sounds.

    Attributes:
      has_sounds: whether these are sounds.
    """

    def __init__(
        self, path: Paths, split: str, columns: Columns, class_names: Sequence[str] | None = None
    ):
        """Reads the columns but the images.

        Args:
          path: files, or folders of them.
          split: "all", what names of files begin with, or what stands in the column "split".
          columns: which columns are read.
          class_names: the classes in the order of their numbers; the data set's own if None.

        Raises:
          UserError: if there are no such files, columns or rows, or a class is another one.
        """
        self.name = source_name("parquet", path, split)
        self._paths, is_named = find_files(path, split, (".parquet",))
        self._short = short_names(self._paths)
        self._files = [_metadata(file) for file in self._paths]
        schema = self._files[0].schema.to_arrow_schema()
        self._columns = columns.among(schema.names, self._paths[0])
        self.has_sounds = _is_audio(schema, self._columns.image)
        by_column = split != "all" and not is_named
        if by_column and SPLIT not in schema.names:
            no_column = f"{self._paths[0]}, which has no column {SPLIT!r},"
            raise no_split(no_column, split, splits_in_names(self._paths))
        where: list[tuple[int, int]] = []  # file, and row in it
        labels: list[str] = []
        splits: dict[str, None] = {}
        known = self._class_names()
        for f, row, label, part in self._rows(by_column):
            splits[part] = None
            if not by_column or part == split:
                where.append((f, row))
                labels.append(_named(label, known, f"{self._short[f]}, row {row}"))
        if not where:
            raise (
                no_split(self.name, split, splits)
                if by_column
                else UserError(f"{self.name} has no rows.")
            )
        self._where = np.array(where, np.int64)
        expected = class_names if class_names is not None or not known else known
        self.labels, self.class_names = number_labels(labels, expected, self.name)
        self._groups = _Groups(self._paths, self._files, self._read_columns())
        self._tell_groups()
        sizes = [f"{m.num_rows} {m.serialized_size}" for m in self._files]
        rows = (f"{f} {row} {label}" for (f, row), label in zip(where, labels, strict=True))
        self.fingerprint = digest([*self._short, *sizes, *self.class_names, *rows])

    def _read_columns(self) -> list[str]:
        """Returns the column of the images, and that of captions if there is one."""
        wanted = (self._columns.image, self._columns.caption)
        return list(dict.fromkeys(name for name in wanted if name is not None))

    def _class_names(self) -> tuple[str, ...]:
        """Returns the names that the files have for the numbers of classes, () if they have none.

        Raises:
          UserError: if one of them has others.
        """
        label = self._columns.label
        named = [_class_names(m.schema.to_arrow_schema(), label) for m in self._files]
        for path, names in zip(self._paths, named, strict=True):
            if names != named[0]:
                raise UserError(
                    f"{path} has the classes {quote(names) or 'without names'}, and "
                    f"{self._paths[0]} {quote(named[0]) or 'without names'}: a number would mean "
                    "another thing. Train on one of them, or write the names as text."
                )
        return named[0]

    def _tell_groups(self) -> None:
        groups = [m.row_group(g) for m in self._files for g in range(m.num_row_groups)]
        total = sum(group.total_byte_size for group in groups)
        if total > KEPT_BYTES:
            log.warning(
                "%s has %.0f MB in groups of up to %d images: in random order, each image costs "
                "the reading of its group, of %.0f MB on average. Smaller groups are faster.",
                self.name, total / 1e6, max(group.num_rows for group in groups),
                total / len(groups) / 1e6,
            )  # fmt: skip

    def _rows(self, by_column: bool) -> Iterator[tuple[int, int, Any, str]]:
        """Yields file, row, label and split of each row, the last two if there are such columns."""
        label = self._columns.label
        names = [name for name in (label, SPLIT if by_column else None) if name is not None]
        for f, (path, metadata) in enumerate(zip(self._paths, self._files, strict=True)):
            columns = _read(path, metadata, None, names).to_pydict() if names else {}
            labels = columns.get(label, [None] * metadata.num_rows)
            parts = columns[SPLIT] if by_column else [""] * metadata.num_rows
            for row, (found, part) in enumerate(zip(labels, parts, strict=True)):
                yield f, row, found, str(part)

    def __len__(self) -> int:
        return len(self._where)

    def image_keys(self) -> Int[np.ndarray, " n"]:
        """Returns one number for each image, by its file and its row there."""
        return file_keys(self._paths)[self._where[:, 0]] + self._where[:, 1]

    def __getitem__(self, index: int, /) -> Record:
        name = self.name_of(index)
        number, row_index = map(int, self._where[index])
        row = self._groups.row(number, row_index, name)
        image = row[self._read_columns()[0]]
        if isinstance(image, dict):
            if image.get("bytes") is None and image.get("path"):
                raise UnreadableImageError(
                    f"the row has no data, and only its path, {image['path']}", name
                )
            image = image.get("bytes")
        if not isinstance(image, bytes):
            raise UnreadableImageError("the row has no bytes", name)
        texts = row[self._columns.caption] if self._columns.caption else None
        captions = captions_of(texts, name)
        return encoded(image, self.labels[index], name, captions, is_sound=self.has_sounds)

    def name_of(self, index: int) -> str:
        """Returns file and row of an image, such as "train-00000-of-00002.parquet, row 17"."""
        f, row = self._where[index]
        return f"{self._short[f]}, row {row}"


class _Groups:
    """Groups of rows, the last ones used in memory; for any thread."""

    def __init__(
        self, paths: Sequence[str], files: Sequence[pq.FileMetaData], columns: Sequence[str]
    ):
        self._paths, self._files, self._columns = paths, files, list(columns)
        counts = [[m.row_group(g).num_rows for g in range(m.num_row_groups)] for m in files]
        self._ends = [np.cumsum(rows) for rows in counts]
        self._kept: collections.OrderedDict[tuple[int, int], pa.Table] = collections.OrderedDict()
        self._lock = threading.Lock()

    def row(self, f: int, row: int, name: str) -> dict[str, Any]:
        """Returns a row of file f.

        Raises:
          UnreadableImageError: if what the file holds there is broken.
        """
        g = int(np.searchsorted(self._ends[f], row, side="right"))
        with self._lock:
            table = self._kept.get((f, g))
            if table is not None:
                self._kept.move_to_end((f, g))
        if table is None:
            try:
                table = _read(self._paths[f], self._files[f], g, self._columns)
            except (pa.ArrowInvalid, OSError) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise  # it is the system that complains, and not Arrow of what it read
                raise UnreadableImageError(f"broken group of rows: {error}", name) from error
            self._keep((f, g), table)
        first = int(self._ends[f][g]) - table.num_rows
        return {column: table[column][row - first].as_py() for column in self._columns}

    def _keep(self, key: tuple[int, int], table: pa.Table) -> None:
        with self._lock:
            self._kept[key] = table
            while len(self._kept) > 1 and sum(t.nbytes for t in self._kept.values()) > KEPT_BYTES:
                self._kept.popitem(last=False)


def _metadata(path: str) -> pq.FileMetaData:
    try:
        return pq.read_metadata(path)
    except pa.ArrowInvalid as error:
        raise UserError(f"{path} is no parquet file, or cut off: {error}") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason(error)}.") from error


def _read(
    path: str, metadata: pq.FileMetaData, group: int | None, columns: Sequence[str]
) -> pa.Table:
    """Returns a group of rows, or all of them."""
    with pq.ParquetFile(path, metadata=metadata) as file:
        names = file.schema_arrow.names
        if missing := [name for name in columns if name not in names]:
            raise UserError(f"{path} has no column {missing[0]!r}, only {quote(names)}.")
        groups = range(file.num_row_groups) if group is None else [group]
        return file.read_row_groups(list(groups), columns=list(columns), use_threads=False)


def _kept(schema: pa.Schema, column: str | None, key: str) -> Any:
    """Returns what Hugging Face keeps of a column, None if nothing."""
    kept = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        return json.loads(kept)["info"]["features"][column][key]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _is_audio(schema: pa.Schema, column: str | None) -> bool:
    return column in SOUND or _kept(schema, column, "_type") == "Audio"


def _class_names(schema: pa.Schema, label: str | None) -> tuple[str, ...]:
    """Returns the names of a column's classes that Hugging Face keeps, () if there are none."""
    names = _kept(schema, label, "names")
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return tuple(names) if is_list else ()


def _named(label: Any, names: Sequence[str], where: str) -> str:
    """Returns the name of a class for its number, where numbers have names."""
    text = label_of(label, where)
    if not names or not text or not isinstance(label, int):
        return text
    if not 0 <= label < len(names):
        raise UserError(f"{where}: the label {label} is none of the {len(names)} classes.")
    return names[label]
