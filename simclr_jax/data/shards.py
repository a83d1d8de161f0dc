"""Any source as ArrayRecord shards, in a directory that TFDS reads, too.

A directory holds, in the order in which they are written:
  convert.json                              what is converted, and how
  features.json, label.labels.txt           what a record consists of, as TFDS asks for it
  SPLIT.array_record-00000-of-00004         images, as they were stored
  SPLIT.index-00000-of-00004.jsonl          their names, labels, sizes and SHA-256
  dataset_info.json                         what makes it a data set: all else is there

Each shard is a function of its images and the settings alone, and gets its name when it is whole.
So a conversion that was killed goes on with the first shard that is not there.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import io
import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from simclr_jax.core.errors import UserError
from simclr_jax.core.files import atomic_write, read_json, write_text
from simclr_jax.core.progress import Progress
from simclr_jax.data.dataset import Dataset
from simclr_jax.data.decode import Rendering, UnreadableImageError, decode, open_image
from simclr_jax.data.reading import Reader
from simclr_jax.data.records import Record, Source, digest, name_of

VERSION = "1.0.0"
CHUNK = 16  # images that a thread takes at a time
JPEG_QUALITY = 95
# One record a group, so that each is read by itself. Images are compressed already.
WRITER_OPTIONS = "group_size:1,uncompressed"
_PROTO: Any = tf_example_pb2  # its classes are made when it is imported


class Split(NamedTuple):
    """A part of what is converted: its name in the shards, its images and how they are read."""

    name: str
    dataset: Dataset
    source: Source


@dataclasses.dataclass(frozen=True)
class Converted:
    """What a conversion has written.

    Attributes:
      num_shards: how many shards there are.
      num_images: how many images are in them.
      num_bytes: how large all of them are.
      num_changed: how many images are not stored as they were, but smaller.
      num_unreadable: how many could not be read, and so were not stored smaller.
    """

    num_shards: int
    num_images: int
    num_bytes: int
    num_changed: int
    num_unreadable: int


def convert(
    splits: Sequence[Split], output: epath.Path, *, canvas: int | None, images_per_shard: int
) -> Converted:
    """Writes the images of some sources as shards, or goes on where that was stopped.

    Args:
      splits: what is converted, with the same classes.
      output: directory that is made, or holds the beginning of the same conversion.
      canvas: side in pixels of the square that images are scaled down to fit, and stored anew; as
        they are if None.
      images_per_shard: how many images a shard holds, but for the last of a split.

    Raises:
      UserError: if the directory holds something else, or a class has a name that TFDS cannot keep.
      StorageError: if a file cannot be written; what is whole stays.
      OutageError: if an image cannot be read.
    """
    class_names = splits[0].source.class_names
    _require_class_names(class_names)
    _begin(splits, output, {"canvas": canvas, "images_per_shard": images_per_shard})
    text = tfds.features.Text()
    features = {"image": tfds.features.Image(), "file_name": text}
    features["captions"] = tfds.features.Sequence(text)
    if class_names:
        features["label"] = tfds.features.ClassLabel(names=list(class_names))
    tfds.features.FeaturesDict(features).save_config(str(output))
    progress = Progress("Images converted", sum(len(split.source) for split in splits))
    done: dict[str, list[_Summary]] = {}
    for split in splits:
        store = functools.partial(_stored, split, canvas, bool(class_names))
        num_shards = -(-len(split.source) // images_per_shard)
        done[split.name] = []
        for k in range(num_shards):
            shard = _Shard(output, split.name, f"{k:05d}-of-{num_shards:05d}")
            ids = np.arange(k * images_per_shard, (k + 1) * images_per_shard)
            ids = ids[: len(split.source) - int(ids[0])]
            summary = shard.summary()
            if summary is None:
                summary = shard.write(_in_threads(split, store, ids, progress))
            else:
                progress.add(summary.images)
            done[split.name].append(summary)
    _write_info(output, done)
    shards = [summary for of_split in done.values() for summary in of_split]
    return Converted(
        num_shards=len(shards),
        num_images=sum(shard.images for shard in shards),
        num_bytes=sum(shard.bytes for shard in shards),
        num_changed=sum(shard.smaller for shard in shards),
        num_unreadable=sum(shard.unreadable for shard in shards),
    )


class _Summary(NamedTuple):
    """The first line of an index: what is kept of a shard as a whole."""

    file: str
    bytes: int
    sha256: str
    images: int
    image_bytes: int
    smaller: int
    unreadable: int


class _Shard:
    """One shard with its index, both there or still to be written."""

    def __init__(self, output: epath.Path, split: str, place: str) -> None:
        self._path = output / f"{split}.array_record-{place}"
        self._index = output / f"{split}.index-{place}.jsonl"

    def summary(self) -> _Summary | None:
        """Returns what the index says, None if it or the shard is not whole."""
        try:
            with self._index.open() as file:
                summary = _Summary(**json.loads(file.readline()))
            return summary if self._path.stat().length == summary.bytes else None
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def write(self, records: Generator[tuple[bytes, dict[str, Any]], None, None]) -> _Summary:
        """Writes the shard and then its index."""
        rows = []
        with contextlib.closing(records), atomic_write(self._path) as unfinished:
            with _array_record(unfinished) as write:
                for data, row in records:
                    write(data)
                    rows.append(row)
            with Path(unfinished).open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            num_bytes = unfinished.stat().length
        summary = _Summary(
            file=self._path.name,
            bytes=num_bytes,
            sha256=sha256,
            images=len(rows),
            image_bytes=sum(row["bytes"] for row in rows),
            smaller=sum(row["stored"] == "smaller" for row in rows),
            unreadable=sum(row["stored"] == "unreadable" for row in rows),
        )
        lines = [json.dumps(line) for line in (summary._asdict(), *rows)]
        write_text(self._index, "".join(f"{line}\n" for line in lines))
        return summary


@contextlib.contextmanager
def _array_record(path: epath.Path) -> Iterator[Any]:
    """Yields a function that adds a record to a new file; raises an OSError if it cannot."""
    writer = ArrayRecordWriter(str(path), WRITER_OPTIONS)

    def write(data: bytes) -> None:
        with _as_os_error():
            writer.write(data)

    try:
        yield write
    except BaseException:
        with contextlib.suppress(RuntimeError):  # what went wrong before is told
            writer.close()
        raise
    with _as_os_error():
        writer.close()


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # the only one that ArrayRecord raises
        raise OSError(str(error)) from error


def _in_threads(
    split: Split, store: Any, ids: np.ndarray, progress: Progress
) -> Generator[tuple[bytes, dict[str, Any]], None, None]:
    """Yields what is stored of images, in their order, a few chunks ahead."""
    num_threads = joblib.cpu_count()
    reader = Reader(split.source, split.dataset.patience)
    work = lambda chunk: reader.run(lambda: [store(reader, int(i)) for i in chunk])
    threads = concurrent.futures.ThreadPoolExecutor(num_threads)
    with contextlib.ExitStack() as stack:
        stack.callback(threads.shutdown, cancel_futures=True)
        stack.callback(reader.close)  # first, so that no thread waits for storage that hangs
        step = 4 * num_threads * CHUNK
        for start in range(0, len(ids), step):
            some = ids[start : start + step]
            chunks = [some[i : i + CHUNK] for i in range(0, len(some), CHUNK)]
            for part in threads.map(work, chunks):
                yield from part
                progress.add(len(part))


def _stored(
    split: Split, canvas: int | None, labelled: bool, reader: Reader, i: int
) -> tuple[bytes, dict[str, Any]]:
    """Returns an image as a record, and what the index says of it."""
    try:
        record = reader.record(i)
        data, how = _encoded(record, canvas, split.dataset.rendering)
        name, label, captions = record.name, record.label, record.captions
    except UnreadableImageError:  # of a source that knows; it keeps its place
        data, how, name, label, captions = b"", "unreadable", name_of(split.source, i), -1, ()
    example = _PROTO.Example()
    encoded = [text.encode("utf-8", "surrogateescape") for text in (name, *captions)]
    texts = {"image": [data], "file_name": encoded[:1], "captions": encoded[1:]}
    for key, values in texts.items():
        example.features.feature[key].bytes_list.value.extend(values)
    if labelled:
        example.features.feature["label"].int64_list.value.append(label)
    sha256 = hashlib.sha256(data).hexdigest()
    row = {"name": name, "label": label, "bytes": len(data), "sha256": sha256, "stored": how}
    # Otherwise the order of the features would be another one in each process.
    return example.SerializeToString(deterministic=True), row


def _encoded(record: Record, canvas: int | None, rendering: Rendering) -> tuple[bytes, str]:
    """Returns the bytes that are stored of an image, and whether they are what was there."""
    if isinstance(record.image, np.ndarray):
        pixels = record.image if canvas is None else decode(record.image, canvas=canvas).pixels
        how = "as it was" if pixels.shape[:2] == record.image.shape[:2] else "smaller"
        return _file(pixels, "PNG"), how
    if canvas is None:
        return record.image, "as it was"
    try:
        image = open_image(record.image)
        if max(image.size) <= canvas:
            return record.image, "as it was"
        pixels = decode(record.image, canvas=canvas, rendering=rendering).pixels
    except UnreadableImageError:  # a run that meets it says why
        return record.image, "unreadable"
    return _file(pixels, "JPEG" if image.format == "JPEG" else "PNG"), "smaller"


def _file(pixels: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    options = {"quality": JPEG_QUALITY, "subsampling": 0} if kind == "JPEG" else {}
    Image.fromarray(pixels.squeeze(axis=2) if pixels.shape[2:] == (1,) else pixels).save(
        buffer, kind, **options
    )
    return buffer.getvalue()


def _begin(splits: Sequence[Split], output: epath.Path, settings: Mapping[str, Any]) -> None:
    """Notes what is converted, or compares it with what was begun."""
    plan = {
        "sources": [
            {
                "split": split.name,
                "name": split.source.name,
                "images": len(split.source),
                "fingerprint": split.source.fingerprint,
            }
            for split in splits
        ],
        "class_names": list(splits[0].source.class_names),
        "ground": splits[0].dataset.ground,
        "value_range": splits[0].dataset.value_range,
        **settings,
    }
    path = output / "convert.json"
    if path.exists():
        begun = read_json(path, "Give another --output.")
        if begun != plan:
            differ = [key for key in plan if begun.get(key) != plan[key]]
            raise UserError(
                f"{output} holds a conversion of something else, or by other settings: "
                f"{', '.join(differ)} of {path} differ. Give another --output, or the same command."
            )
        for left in output.glob(".*.tmp"):  # of a process that was killed
            left.unlink()
    elif any(output.iterdir()):
        raise UserError(f"{output} holds files, and no conversion. Give another --output.")
    else:
        write_text(path, json.dumps(plan, indent=1))


def _require_class_names(names: Sequence[str]) -> None:
    for name in names:
        encodable = name.encode("utf-8", "replace").decode() == name
        if name != name.strip() or len(name.splitlines()) != 1 or not encodable:
            raise UserError(
                f"The class {name!r} has a name that TFDS cannot keep: it must be UTF-8, on one "
                "line, without spaces around it. Rename its folder."
            )


def _write_info(output: epath.Path, done: Mapping[str, Sequence[_Summary]]) -> None:
    """Writes what makes the directory a data set; its name says what is in it."""
    contents = digest(shard.sha256 for shards in done.values() for shard in shards)
    info = {
        "name": f"images_{contents[:16]}",
        "version": VERSION,
        "fileFormat": "array_record",
        "splits": [
            {
                "name": name,
                "shardLengths": [str(shard.images) for shard in shards],
                "numBytes": str(sum(shard.image_bytes for shard in shards)),
                "filepathTemplate": "{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            }
            for name, shards in done.items()
        ],
    }
    write_text(output / "dataset_info.json", json.dumps(info, indent=1))
