"""What a data set is to the rest of the program: a length, and records by index."""

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Record:
    """One example as it is stored.

    Attributes:
      image: the bytes of an encoded file, or uint8 pixels [h, w], [h, w, 1] or [h, w, 3].
      label: class index, -1 where unknown.
      name: which image it is, for people: unique within its data set, the same in every run.
    """

    image: bytes | np.ndarray
    label: int
    name: str


@runtime_checkable  # so that a type checker can be on in tests
class Source(Protocol):
    """A data set with random access, safe to read from many threads.

    It may also have `__getitems__(ids) -> list[Record | None]` where reading many at once is
    cheaper, with None for those to be read alone, and `labels` where all are known beforehand.

    Attributes:
      name: for people and for messages.
      class_names: one name per class, empty if unlabelled.
      fingerprint: changes when the list of examples does, not with their content; a run
        compares it on resume, because ids mean nothing in another list.
    """

    name: str
    class_names: tuple[str, ...]
    fingerprint: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Record:
        """Reads one example; raises UnreadableImageError if its file cannot be opened."""
        ...


def read_records(source: Source, ids: np.ndarray) -> Sequence[Record | None]:
    """Reads records at once where the source can, and leaves None where it cannot."""
    read_many = getattr(source, "__getitems__", None)
    return [None] * len(ids) if read_many is None else read_many(ids.tolist())


def digest(parts: Iterable[str]) -> str:
    """Returns the SHA-256 of a list of strings; file names may hold undecodable bytes."""
    sha256 = hashlib.sha256()
    for part in parts:
        sha256.update(part.encode("utf-8", "surrogateescape") + b"\0")
    return sha256.hexdigest()
