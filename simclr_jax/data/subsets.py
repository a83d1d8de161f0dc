"""A share of the labels of a data set: the same one on every machine."""

import dataclasses
import logging
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int

from simclr_jax.core.errors import UserError
from simclr_jax.data.order import permutation
from simclr_jax.data.records import (
    Record,
    Source,
    captions_of,
    digest,
    file_of,
    has_sounds,
    image_keys,
    left_out,
    name_of,
    read_records,
)

log = logging.getLogger(__name__)
CHUNK = 100


class LabelSubset:
    """The examples whose labels are used; the others come without a label, or not at all."""

    def __init__(self, source: Source, fraction: float, *, seed: int, keep_unlabelled: bool):
        """Draws the examples; see `balanced_subset`.

        Args:
          source: every example needs a label.
          fraction: share of the labels to use, in (0, 1].
          seed: number of the draw.
          keep_unlabelled: keep the other examples, with label -1.

        Raises:
          UserError: if a label is missing, or a class has too few examples.
        """
        if not source.class_names:
            raise UserError(
                f"{source.name} has no labels, so there is no fraction={fraction:g} of them to "
                "take. For a folder of class folders, set labels_from_folders=True."
            )
        labels = read_labels(source)
        num_classes = len(source.class_names)
        if labels.min() < 0 or labels.max() >= num_classes:
            i = int(np.flatnonzero((labels < 0) | (labels >= num_classes))[0])
            raise UserError(
                f"Example {i} of {source.name} has the label {labels[i]}; the data set has "
                f"{num_classes} classes, so labels must be from 0 to {num_classes - 1}."
            )
        absent = np.flatnonzero(np.bincount(labels, minlength=num_classes) == 0)
        if absent.size:
            raise UserError(f"{source.name} has no example of {source.class_names[absent[0]]!r}.")
        chosen = balanced_subset(labels, fraction, seed)
        self._source = source
        self._labelled = frozenset(chosen.tolist()) if keep_unlabelled else None
        self._ids = np.arange(len(source)) if keep_unlabelled else chosen
        self.class_names = source.class_names
        self.labels = np.where(np.isin(self._ids, chosen), labels[self._ids], -1)
        self.left_out, self.has_sounds = left_out(source), has_sounds(source)
        self.name = f"{source.name} with {len(chosen):,} of {len(labels):,} labels"
        self.fingerprint = digest([source.fingerprint, f"{fraction!r} {seed} {keep_unlabelled}"])

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int, /) -> Record:
        i = int(self._ids[index])
        return self._hide(i, self._source[i])

    def __getitems__(self, indices: list[int], /) -> list[Record | None]:
        """Reads many at once where the source can, and leaves None where it cannot."""
        ids = self._ids[indices]
        records = read_records(self._source, ids)
        return [
            record and self._hide(int(i), record) for i, record in zip(ids, records, strict=True)
        ]

    def file_of(self, index: int) -> str | None:
        """Returns the file of an example, if it has one of its own."""
        return file_of(self._source, int(self._ids[index]))

    def name_of(self, index: int) -> str:
        """Returns what the source calls an example."""
        return name_of(self._source, int(self._ids[index]))

    def captions_of(self, index: int) -> tuple[str, ...]:
        """Returns the captions of an example."""
        return captions_of(self._source, int(self._ids[index]))

    def image_keys(self) -> Int[np.ndarray, " n"] | None:
        """Returns one number for each image; see `records.Source`."""
        keys = image_keys(self._source)
        return None if keys is None else keys[self._ids]

    def _hide(self, i: int, record: Record) -> Record:
        if self._labelled is None or i in self._labelled:
            return record
        return dataclasses.replace(record, label=-1)


def any_label(source: Source) -> bool:
    """Returns whether an example has a label; a source without `labels` is read until one has.

    It is read in an order of its own, so that a few examples tell unless labels are rare.
    """
    known = getattr(source, "labels", None)
    labels = _read(source, permutation(len(source), 0, 0)) if known is None else known
    return any(label >= 0 for label in labels)


def count_labelled(source: Source) -> int:
    """Returns how many examples have a label; all of a source without `labels`."""
    known = getattr(source, "labels", None)
    return len(source) if known is None else int(np.count_nonzero(np.asarray(known) >= 0))


def read_labels(source: Source) -> Int[np.ndarray, " n"]:
    """Returns the label of every example; a source without `labels` is read from end to end."""
    known = getattr(source, "labels", None)
    if known is not None:
        return np.asarray(known, np.int64)
    return np.fromiter(_read(source, np.arange(len(source))), np.int64, len(source))


def _read(source: Source, order: Int[np.ndarray, " n"]) -> Iterator[int]:
    """Yields the labels of examples, which are read in an order."""
    for start in range(0, len(source), CHUNK):
        ids = order[start : start + CHUNK]
        for i, record in zip(ids, read_records(source, ids), strict=True):
            yield (record or source[int(i)]).label
        if start and start % (1000 * CHUNK) == 0:
            log.info("Read %d of %d labels of %s.", start, len(source), source.name)


def balanced_subset(
    labels: Int[np.ndarray, " n"], fraction: float, seed: int
) -> Int[np.ndarray, " m"]:
    """Draws the same number of examples of each class, at least one.

    Each class gives round(fraction * n / number of classes) examples. The draw depends on
    `labels` and `seed` alone, on every machine and with every version of NumPy, and with one
    seed the subset of a smaller fraction is part of that of a larger one.

    Args:
      labels: one for each example, all >= 0.
      fraction: share of the examples to draw, in (0, 1].
      seed: number of the draw, >= 0.

    Returns:
      Indices into `labels`, ascending.

    Raises:
      UserError: if a class has fewer examples than that, or the fraction is out of range.
    """
    if not 0 < fraction <= 1:
        raise UserError(f"A label fraction must be in (0, 1], got {fraction}; try 0.01.")
    counts = np.bincount(labels)
    each = max(1, round(fraction * len(labels) / len(counts)))
    rarest = int(counts.argmin())
    if counts[rarest] < each:
        most = counts[rarest] * len(counts) / len(labels)
        cure = f"use a fraction of at most {most:.4g}" if most else "give it examples"
        raise UserError(
            f"Fraction {fraction:g} of {len(labels)} labels takes {each} of each of the "
            f"{len(counts)} classes, but class {rarest} has {counts[rarest]}; {cure}, or 1.0, "
            "which takes all labels as they are."
        )
    # Raw words, because NumPy guarantees the stream of a bit generator and not of `permutation`.
    words = np.random.Philox(key=seed).random_raw(len(labels))
    by_class = np.split(np.lexsort((words, labels)), np.cumsum(counts)[:-1])
    return np.sort(np.concatenate([rows[:each] for rows in by_class]))
