"""Batches of one process, decoded by grain's threads in the global order.

What grain sees as one element is a chunk of a few dozen rows: one by one, its bookkeeping
would cost more than decoding a small image, and whole batches would leave threads idle at the
start. Threads only, no worker processes: Pillow decodes outside Python's global lock. The
position is the step number alone, so there is no iterator state to save.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeAlias

import grain
import jax
import joblib
import numpy as np

from simclr_jax.core.errors import UserError
from simclr_jax.core.types import Clips, Cuts, CutsBySize, Sentences
from simclr_jax.data.batch import HostBatch, empty_batch
from simclr_jax.data.cut import cut
from simclr_jax.data.decode import RENDERING, Rendering, decode
from simclr_jax.data.images import Example, Images
from simclr_jax.data.order import Order, process_rows, random_words
from simclr_jax.data.quarantine import (
    Quarantine,
    TooManyUnreadableError,
    Unreadable,
    most_unreadable,
)
from simclr_jax.data.reading import PATIENCE, Patience, Reader
from simclr_jax.data.records import Record, Source, examples_of
from simclr_jax.data.sounds import clip_sound, decode_sound
from simclr_jax.data.stand_ins import StandIns
from simclr_jax.data.text import tokenizer_of
from simclr_jax.data.text_table import require_texts

Batches: TypeAlias = Generator[HostBatch, None, None]

CHUNK_ROWS = 32


def train_batches(
    source: Source,
    cuts: CutsBySize | None = None,
    *,
    batch_size: int,
    canvas: int | None,
    seed: int,
    first_step: int,
    num_steps: int,
    max_unreadable: float = 1.0,
    quarantine: Quarantine | None = None,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int | None = None,
    patience: Patience = PATIENCE,
    rendering: Rendering = RENDERING,
) -> Batches:
    """Yields this process's rows of global batches `first_step` to `num_steps` - 1.

    Each has the entries of `batch.empty_batch`, with b = batch_size / process_count: at the top
    left what each view shows of the image, and its height and width there (`cut.cut`). Where views
    are cut, and which of an image's captions is drawn, depends on seed, step and row of the global
    batch. Another image stands in for an unreadable one, the same on any number of processes, and
    none twice in a batch while there are others; see `stand_ins`.

    Args:
      source: the data set.
      cuts: how many views there are, how large, and what they show; None: one, of all the image.
      batch_size: rows of the global batch.
      canvas: side in pixels of the square that each image is fitted into before it is cut; None
        for sounds.
      seed: seed of the shuffle and of the cuts.
      first_step: optimizer steps taken already.
      num_steps: optimizer steps of the whole run, counted from step 0.
      max_unreadable: share of all images that may turn out unreadable, from 0 to 1.
      quarantine: where unreadable images are noted.
      process_index: this process.
      process_count: processes that share each global batch.
      num_threads: decoding threads; one per core that this process may use if None.
      patience: how long storage is waited for.
      rendering: how what files store becomes grey levels.

    Raises:
      TooManyUnreadableError: while iterating, if this process has met more unreadable images than
        that, or none is readable.
      OutageError: while iterating, if storage fails or hangs for too long.
    """
    if not 0 <= first_step <= num_steps:
        raise ValueError(f"first_step must be from 0 to num_steps={num_steps}, got {first_step}.")
    order = Order(len(source), batch_size, seed, process_index, process_count)
    all_rows = Order(len(source), batch_size, seed)
    layout = _Layout(batch_size // process_count, num_steps - first_step)
    reader = Reader(source, patience)
    shown = cuts or _whole(canvas)
    images = Images(source, reader, _decoder(shown, canvas, rendering))
    most = most_unreadable(max_unreadable, len(source))

    def read_chunk(index: int) -> "_Chunk":
        step, rows = layout.rows(index)
        step += first_step
        place = _Place(shown, seed, step, source, rendering.channels)
        chunk = _Chunk.empty(place, order.rows[rows])
        stand_ins = StandIns(len(source), seed, lambda: all_rows.ids(step))

        def look(i: int, record: Record | None = None) -> Example | None:
            example = chunk.readable(images.get(i, record))
            if len(chunk.unreadable) > most:
                raise _EnoughError
            return example

        ids = order.ids(step)[rows]
        with contextlib.suppress(_EnoughError):  # the rest of the chunk will not be asked for
            for row, (i, record) in enumerate(zip(ids, reader.records(ids), strict=True)):
                example = look(int(i), record) or stand_ins.find(int(chunk.rows[row]), look)
                if example is not None:
                    chunk.put(row, example)
        return chunk

    batches = _stream(read_chunk, layout, reader, quarantine or Quarantine(), num_threads)
    return _require_readable(batches, source, most=most)


def eval_batches(
    source: Source,
    cuts: CutsBySize | None = None,
    *,
    batch_size: int,
    canvas: int | None,
    indices: Sequence[int] | np.ndarray | None = None,
    quarantine: Quarantine | None = None,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int | None = None,
    patience: Patience = PATIENCE,
    rendering: Rendering = RENDERING,
) -> Batches:
    """Yields every example once, in order, in batches of one shape.

    Batches are those of `train_batches` with "valid", bool [b]. Rows that fill up the last
    batch are not valid and have id -1; unreadable images are not valid and keep their id. Both
    are black, with label -1. All processes yield the same number of batches. Where views are
    cut, or captions drawn, at random, the seed is 0.

    Args:
      source: the data set.
      cuts: how many views there are, how large, and what they show; None: one, of all the image.
      batch_size: rows of the global batch.
      canvas: side in pixels of the square that each image is fitted into before it is cut; None
        for sounds.
      indices: the examples to read, in this order; all if None.
      quarantine: where unreadable images are noted.
      process_index: this process.
      process_count: processes that share each global batch.
      num_threads: decoding threads; one per core that this process may use if None.
      patience: how long storage is waited for.
      rendering: how what files store becomes grey levels.

    Raises:
      UserError: at the end, if not one image could be read.
      OutageError: as for `train_batches`.
    """
    ids = np.arange(len(source)) if indices is None else np.asarray(indices, np.int64)
    if ids.size and not 0 <= ids.min() <= ids.max() < len(source):
        raise ValueError(
            f"indices must be from 0 to {len(source) - 1}, got {ids.min()} to {ids.max()}."
        )
    mine = process_rows(batch_size, process_index, process_count)
    num_batches = math.ceil(len(ids) / batch_size)
    padded = np.full(num_batches * batch_size, -1, np.int64)
    padded[: len(ids)] = ids
    layout = _Layout(len(mine), num_batches)
    reader = Reader(source, patience)
    shown = cuts or _whole(canvas)
    images = Images(source, reader, _decoder(shown, canvas, rendering))

    def read_chunk(index: int) -> "_Chunk":
        step, rows = layout.rows(index)
        place = _Place(shown, 0, step, source, rendering.channels)
        chunk = _Chunk.empty(place, mine[rows])
        chunk.batch["valid"] = np.zeros(rows.stop - rows.start, bool)
        chunk_ids = padded[step * batch_size + mine[rows]]
        chunk_ids = chunk_ids[chunk_ids >= 0]  # padding is at the end
        chunk.batch["id"][: len(chunk_ids)] = chunk_ids  # also those that turn out unreadable
        for row, (i, record) in enumerate(zip(chunk_ids, reader.records(chunk_ids), strict=True)):
            example = chunk.readable(images.get(int(i), record))
            if example is not None:
                chunk.put(row, example)
                chunk.batch["valid"][row] = True
        return chunk

    quarantine = quarantine or Quarantine()
    batches = _stream(read_chunk, layout, reader, quarantine, num_threads)
    batches = _require_readable(batches, source, most=len(source))
    return _require_one_valid(batches, source, len(ids), quarantine)


def _whole(canvas: int | None) -> Cuts:
    """Returns one view that shows all of an image, which is no larger than its canvas."""
    assert canvas is not None  # who has no cuts has images
    return Cuts(canvas, 1, lambda words, size: np.array([[0, 0, *size]], np.int32))


def _decoder(
    cuts: CutsBySize, canvas: int | None, rendering: Rendering
) -> Callable[[Record], np.ndarray]:
    """Returns what makes pixels, or samples, of a record; of texts there is nothing to decode."""
    if isinstance(cuts, Clips):
        return lambda record: decode_sound(record, cuts.rate)
    if isinstance(cuts, Sentences):
        return lambda record: require_texts(record, cuts.num_texts)
    if canvas is None:
        raise UserError("config.data.canvas is missing; it must be a number of pixels.")

    def pixels(record: Record) -> np.ndarray:
        if record.sound is not None:
            raise UserError("it is a sound, and images are wanted: name a data set of images.")
        return decode(record.image, canvas=canvas, rendering=rendering).pixels

    return pixels


class _EnoughError(Exception):
    """More images are unreadable than the run allows."""


@dataclasses.dataclass(frozen=True)
class _Layout:
    """How a process's rows of each batch are cut into chunks."""

    num_rows: int
    num_batches: int

    @property
    def chunks_per_batch(self) -> int:
        return math.ceil(self.num_rows / CHUNK_ROWS)

    def rows(self, index: int) -> tuple[int, slice]:
        """Returns batch number and rows of chunk `index`."""
        step, chunk = divmod(index, self.chunks_per_batch)
        start = chunk * CHUNK_ROWS
        return step, slice(start, min(start + CHUNK_ROWS, self.num_rows))


@dataclasses.dataclass(frozen=True)
class _Place:
    """How the examples of one batch become its rows."""

    cuts: CutsBySize
    seed: int
    step: int
    source: Source
    channels: int


@dataclasses.dataclass(frozen=True)
class _Chunk:
    """Rows of a batch, and the images that could not be read on the way, in order."""

    place: _Place
    rows: np.ndarray  # their numbers in the global batch
    batch: HostBatch
    unreadable: dict[int, Unreadable]

    @classmethod
    def empty(cls, place: _Place, rows: np.ndarray) -> "_Chunk":
        batch = empty_batch(len(rows), place.cuts, place.source, channels=place.channels)
        return cls(place, rows, batch, {})

    def readable(self, found: Example | Unreadable) -> Example | None:
        """Returns an image; of one that cannot be read, notes why, and returns None."""
        if isinstance(found, Example):
            return found
        self.unreadable[found.id] = found
        return None

    def put(self, row: int, example: Example) -> None:
        """Fills a row: cuts what its views show out of an image or a sound, and its texts."""
        self.batch["label"][row], self.batch["id"][row] = example.label, example.id
        place, decoded = self.place, example.decoded
        which = (place.seed, place.step, int(self.rows[row]))
        if (tokenizer := tokenizer_of(place.source)) is not None:
            drawn = random_words(*which, stream=1).random_raw() % len(example.captions)
            self._put_texts(row, example.captions, int(drawn), tokenizer)
        if isinstance(place.cuts, Sentences):
            return
        words = random_words(*which)
        if isinstance(place.cuts, Clips):
            self.batch["audio"][row] = clip_sound(decoded, place.cuts, words)
            return
        arrays = (place.cuts, self.batch["image"], self.batch["size"])
        for cuts, images, sizes in zip(*map(jax.tree.leaves, arrays), strict=True):
            boxes = cuts.boxes(words, (decoded.shape[0], decoded.shape[1]))
            for view, box in enumerate(boxes):
                part = cut(decoded, box, cuts.size)
                images[row, view, : part.shape[0], : part.shape[1]] = part
                sizes[row, view] = part.shape[:2]

    def _put_texts(self, row: int, texts: tuple[str, ...], drawn: int, tokenizer: Any) -> None:
        """Fills in the tokens of the text that was drawn, or of the first ones."""
        shape = self.batch["text_length"].shape[1:]  # [v], or [] beside an image
        said = texts[: shape[0]] if shape and shape[0] > 1 else (texts[drawn],)
        tokens = [tokenizer(text) for text in said]
        self.batch["text"][row] = np.reshape([x.ids for x in tokens], (*shape, -1))
        self.batch["text_length"][row] = np.reshape([x.length for x in tokens], shape)
        self.batch["text_id"][row] = tokens[0].hash


class _Chunks:
    """What grain asks of a data source: a length, and elements by index from any thread."""

    def __init__(self, num_chunks: int, read: Callable[[int], _Chunk]):
        self._num_chunks = num_chunks
        self._read = read

    def __len__(self) -> int:
        return self._num_chunks

    def __getitem__(self, index: int) -> _Chunk:
        return self._read(index)


def _stream(
    read_chunk: Callable[[int], _Chunk],
    layout: _Layout,
    reader: Reader,
    quarantine: Quarantine,
    num_threads: int | None,
) -> Generator[tuple[HostBatch, list[Unreadable]], None, None]:
    """Yields batches put together from chunks that grain's threads read ahead.

    With each comes what was found unreadable on the way to it.
    """
    if not layout.num_batches:
        return
    threads = joblib.cpu_count() if num_threads is None else num_threads
    options = grain.ReadOptions(
        num_threads=threads,
        # One batch ahead, and for small batches still work for every thread.
        prefetch_buffer_size=max(layout.chunks_per_batch, 2 * threads),
    )
    read = lambda index: reader.run(lambda: read_chunk(index))
    source = _Chunks(layout.num_batches * layout.chunks_per_batch, read)
    chunks = iter(grain.MapDataset.source(source).to_iter_dataset(options))
    try:
        for _ in range(layout.num_batches):
            parts = [next(chunks) for _ in range(layout.chunks_per_batch)]
            unreadable = [entry for part in parts for entry in part.unreadable.values()]
            for entry in unreadable:
                quarantine.add(entry)
            join = lambda *rows: np.concatenate(rows)
            yield jax.tree.map(join, *(part.batch for part in parts)), unreadable
    finally:
        reader.close()
        chunks.close()  # drops what is queued; a thread ends after the chunk it is at


def _require_readable(
    batches: Generator[tuple[HostBatch, list[Unreadable]], None, None], source: Source, *, most: int
) -> Batches:
    """Yields batches as long as no more than `most` images turn out unreadable."""
    met: set[int] = set()
    with contextlib.closing(batches):
        for batch, unreadable in batches:
            met.update(entry.id for entry in unreadable)
            if len(met) > most:
                raise TooManyUnreadableError(len(met), source, unreadable[-1])
            yield batch


def _require_one_valid(
    batches: Batches, source: Source, num_examples: int, quarantine: Quarantine
) -> Batches:
    num_seen = num_valid = 0
    with contextlib.closing(batches):
        for batch in batches:
            num_seen += int((batch["id"] >= 0).sum())
            num_valid += int(batch["valid"].sum())
            yield batch
    # A process that saw only a part cannot tell, and must not leave the others waiting.
    if num_valid == 0 and num_seen == num_examples > 0:
        last = next(reversed(quarantine.entries.values()))
        raise UserError(
            f"None of {num_examples} {examples_of(source)} of {source.name} can be read; the last "
            f"one, {last.name}: {last.reason}."
        )
