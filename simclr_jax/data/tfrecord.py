"""TFRecord files read at random, without TensorFlow.

The format is a row of records: the length in 8 bytes and its checksum in 4, then the data and its
checksum in 4, all little endian (tensorflow/core/lib/io/record_writer.h). Only the record before
says where a record begins, so each file is walked through once, from length to length.
"""

import os
import struct
from collections.abc import Sequence
from typing import Any

import google_crc32c
import numpy as np
from jaxtyping import Int

from simclr_jax.core.errors import UserError
from simclr_jax.core.files import reason
from simclr_jax.core.progress import Progress
from simclr_jax.data.decode import UnreadableImageError

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")


class TfRecordExamples:
    """The examples of a TFDS split, in their order, safe to read from many threads."""

    def __init__(self, features: Any, decoders: Any, parts: Sequence[Any]) -> None:
        """Walks through the files.

        Args:
          features: TFDS's features, which parse an example.
          decoders: which of them stay encoded.
          parts: TFDS's file instructions: which records of which files, in order.

        Raises:
          UserError: if one of them is no TFRecord file, or is cut.
        """
        self._features, self._decoders = features, decoders
        self._files = [os.fspath(part.filename) for part in parts]
        progress, offsets = Progress("Files indexed", len(parts)), []
        for part, path in zip(parts, self._files, strict=True):
            offsets.append(record_offsets(path)[part.skip :][: part.take])
            progress.add(1)
        self._file_of = np.repeat(np.arange(len(parts)), [len(found) for found in offsets])
        self._offsets = np.concatenate(offsets)

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path, offset = self._files[self._file_of[index]], int(self._offsets[index])
        with open(path, "rb") as file:
            file.seek(offset)
            length, _ = _HEADER.unpack(file.read(_HEADER.size))
            data = file.read(length)
            (crc,) = _FOOTER.unpack(file.read(_FOOTER.size))
        if _masked_crc(data) != crc:
            raise UnreadableImageError(f"its checksum in {path} is wrong, at byte {offset}")
        return self._features.deserialize_example_np(data, decoders=self._decoders)

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Reads many, one by one: for the same interface as ArrayRecord's."""
        return [self[i] for i in indices]


def record_offsets(path: str) -> Int[np.ndarray, " n"]:
    """Returns where each record of a file begins, in bytes.

    Raises:
      UserError: if it is no TFRecord file, or a compressed one, cannot be read, or is cut.
    """
    try:
        return _walk(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason(error)}.") from error


def _walk(path: str) -> Int[np.ndarray, " n"]:
    offsets, offset, size = [], 0, os.path.getsize(path)
    with open(path, "rb") as file:
        while offset < size:
            file.seek(offset)
            header = file.read(_HEADER.size)
            end = size + 1
            if len(header) == _HEADER.size:
                length, crc = _HEADER.unpack(header)
                if _masked_crc(header[:8]) != crc:
                    raise UserError(
                        f"{path} is no TFRecord file from byte {offset} on, or is compressed: a "
                        "length has a wrong checksum. Bring a whole copy of it."
                    )
                end = offset + _HEADER.size + length + _FOOTER.size
            if end > size:
                raise UserError(f"{path} ends within a record. Bring a whole copy of it.")
            offsets.append(offset)
            offset = end
    return np.array(offsets, np.int64)


def _masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
