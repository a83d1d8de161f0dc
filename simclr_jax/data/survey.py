"""What the images of a source are like: one row of numbers for each, some 330 bytes.

So a million images of any size fit into memory, and threads look at them.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import joblib
import numpy as np
from jaxtyping import Int
from PIL import Image

from simclr_jax.core.files import reason
from simclr_jax.core.progress import Progress
from simclr_jax.data.dataset import Dataset
from simclr_jax.data.decode import UnreadableImageError, as_rgb, decode, is_deep, open_image
from simclr_jax.data.quarantine import Unreadable
from simclr_jax.data.reading import OutageError, Reader
from simclr_jax.data.records import Record, Source, name_of

THUMBNAIL_PX = 16
CANVAS_PX = 96  # black, empty and equal are seen at this size
CHUNK = 8  # images that a thread takes at a time
ROW = np.dtype(
    [
        ("id", np.int64),
        ("label", np.int32),
        ("size", np.int32, 2),  # height and width in pixels, upright
        ("format", "S8"),  # Pillow's name, "array" if nothing is encoded
        ("mode", "S8"),  # Pillow's name: channels and their depth
        ("deep_max", np.float32),  # largest value of more than 8 bits a channel; NaN of others
        ("bright", np.float32),  # grey level that one pixel in a hundred is above
        ("is_constant", np.bool_),  # whether all pixels are alike
        ("content", np.uint64),  # hash of what is stored
        ("pixels", np.uint64),  # hash of what is seen within CANVAS_PX
        ("thumbnail", np.uint8, (THUMBNAIL_PX, THUMBNAIL_PX)),  # grey levels
    ]
)


@dataclasses.dataclass(frozen=True)
class Survey:
    """Images of a source, looked at.

    Attributes:
      source: where they are.
      rows: array of `ROW`, those that can be read, in the order in which they were asked for.
      unreadable: the others, with reasons.
    """

    source: Source
    rows: np.ndarray
    unreadable: Sequence[Unreadable]

    def name(self, row: int) -> str:
        """Returns what to call the image of a row."""
        return name_of(self.source, int(self.rows["id"][row]))

    def __len__(self) -> int:
        return len(self.rows) + len(self.unreadable)


def survey(
    dataset: Dataset, source: Source, ids: Int[np.ndarray, " n"], *, max_outages: int = 0
) -> Survey:
    """Looks at images of a source, in threads.

    Args:
      dataset: how they are read.
      source: the data set.
      ids: which images.
      max_outages: how many files storage may refuse to give, which then count as unreadable.

    Raises:
      OutageError: if storage refuses more.
    """
    reader, progress = Reader(source, dataset.patience), Progress("Images looked at", len(ids))
    chunks = [ids[i : i + CHUNK] for i in range(0, len(ids), CHUNK)]
    see = lambda chunk: reader.run(lambda: _see_all(reader, dataset, source, chunk))
    found = []
    threads = concurrent.futures.ThreadPoolExecutor(joblib.cpu_count())
    with contextlib.ExitStack() as stack:
        stack.callback(threads.shutdown, cancel_futures=True)
        stack.callback(reader.close)  # first, so that no thread waits for storage that hangs
        num_outages = 0
        for chunk, part in zip(chunks, threads.map(see, chunks), strict=True):
            found.append(part)
            num_outages += len(part.outages)
            if num_outages > max_outages:
                raise part.outages[-1]
            progress.add(len(chunk))
    return Survey(
        source,
        np.concatenate([np.zeros(0, ROW), *(part.rows for part in found)]),
        [entry for part in found for entry in part.unreadable],
    )


class _Part(NamedTuple):
    rows: np.ndarray
    unreadable: list[Unreadable]
    outages: list[OutageError]


def _see_all(reader: Reader, dataset: Dataset, source: Source, ids: Int[np.ndarray, " m"]) -> _Part:
    rows, unreadable, outages = np.zeros(len(ids), ROW), [], []
    num_rows = 0
    for i in map(int, ids):
        name = name_of(source, i)
        try:
            record = reader.record(i)
            rows[num_rows] = (i, *_see(record, dataset))
            num_rows += 1
        except UnreadableImageError as error:
            unreadable.append(Unreadable(i, error.name or name, error.reason))
        except OutageError as error:
            refused = error.__cause__
            why = reason(refused) if isinstance(refused, OSError) else str(error)
            unreadable.append(Unreadable(i, name, f"storage refuses it: {why}"))
            outages.append(error)
    return _Part(rows[:num_rows], unreadable, outages)


def _see(record: Record, dataset: Dataset) -> tuple[Any, ...]:
    """Returns a row without its id."""
    pixels, size = decode(record.image, canvas=CANVAS_PX, rendering=dataset.rendering)
    grey = Image.fromarray(as_rgb(pixels)).convert("L")
    thumbnail = grey.resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BILINEAR)
    deep_max = np.nan
    if isinstance(record.image, bytes):
        image = open_image(record.image)
        kind, mode = str(image.format), image.mode
        stored = record.image
        if is_deep(image):
            deep_max = float(np.nanmax(np.asarray(image)))
    else:
        kind = "array"
        mode = "RGB" if record.image.ndim == 3 and record.image.shape[2] == 3 else "L"
        stored = repr(record.image.shape).encode() + record.image.tobytes()
    seen = repr(pixels.shape).encode() + pixels.tobytes()
    return (
        record.label,
        size,
        kind.encode(),
        mode.encode(),
        deep_max,
        np.percentile(pixels, 99),
        pixels.min() == pixels.max(),
        _hash(stored),
        _hash(seen),
        np.asarray(thumbnail),
    )


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
