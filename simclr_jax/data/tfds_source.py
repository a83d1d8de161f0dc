"""A data set that TFDS has prepared as ArrayRecord or TFRecord, read without TensorFlow.

Only `dataset_info.json`, `features.json` and the shards are used, never the data set's own
builder code, which may need TensorFlow or the network.
"""

import os
import re
import shlex
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from jaxtyping import Int
from tensorflow_datasets.core import constants

from simclr_jax.core.errors import UserError, did_you_mean
from simclr_jax.data.records import Record, digest, image_key
from simclr_jax.data.tfrecord import TfRecordExamples


def open_tfds(name: str, split: str, path: str | os.PathLike[str] | None) -> "Prepared":
    """Opens NAME[/CONFIG][:VERSION] below a directory of data sets.

    Raises:
      UserError: if it has not been prepared there, or has no such split or no images.
    """
    data_dir = epath.Path(path or constants.DATA_DIR).expanduser()
    return Prepared(_prepared_directory(data_dir, name), f"tfds/{name}", split, f"tfds/{name}")


def open_shards(path: str | os.PathLike[str], split: str) -> "Prepared":
    """Opens one prepared data set by its own directory, such as what `data convert` has written.

    Raises:
      UserError: if none is there, or it has no such split or no images.
    """
    directory = epath.Path(path).expanduser()
    if not (directory / "dataset_info.json").exists():
        raise UserError(
            f"{directory} holds no finished data set of shards: there is no dataset_info.json in "
            f"it. Make it, or go on making it, with\n  simclr-jax data convert DIR "
            f"--output={shlex.quote(str(directory))}"
        )
    return Prepared(directory, f"array_record {directory}", split)


class Prepared:
    """One split of a data set as TFDS prepares it; images stay encoded until they are needed.

    Label and image are found by type: the feature called "image" ("label"), or else the only
    one of its type. Without such a label every label is -1. A text called "file_name" names
    images, and a sequence of texts called "captions" describes them.
    """

    def __init__(
        self, directory: epath.Path, called: str, split: str, identity: str | None = None
    ) -> None:
        """Opens it.

        Args:
          directory: where its shards and dataset_info.json are.
          called: what to call it.
          split: images to take, in TFDS's split syntax.
          identity: a name that is the same wherever the directory is; its name and version if None.
        """
        builder: Any = tfds.builder_from_directory(directory)
        features = builder.info.features
        self.name = f"{called}/{split}"
        images = [key for key, f in features.items() if isinstance(f, tfds.features.Image)]
        image = _choose(images, "image")
        if image is None:
            raise UserError(
                f"{directory} has no single image feature, and none called 'image'; "
                f"its features: {', '.join(sorted(features))}."
            )
        if features[image].np_dtype not in (np.uint8, np.uint16):
            raise UserError(
                f"The images of {directory} are {np.dtype(features[image].np_dtype)}, which "
                "TFDS stores in the channels of a PNG; only uint8 and uint16 images are read here."
            )
        self._image = image
        labels = [key for key, f in features.items() if isinstance(f, tfds.features.ClassLabel)]
        self._label = _choose(labels, "label")
        self.class_names = tuple(features[self._label].names) if self._label else ()
        known = dict(features.items())
        self._file_name = isinstance(known.get("file_name"), tfds.features.Text)
        lists = known.get("captions")
        self._captions = isinstance(lists, tfds.features.Sequence) and isinstance(
            lists.feature, tfds.features.Text
        )
        try:
            self._examples = _examples(builder, split, dict.fromkeys(images, _SKIP), directory)
        except ValueError as error:
            if isinstance(error, UserError):
                raise
            splits = builder.info.splits
            have = ", ".join(f"{key!r} ({info.num_examples:,})" for key, info in splits.items())
            raise UserError(
                f"{called} has no split {split!r}, or nothing in it. It has {have}, and parts and "
                f"sums of them in TFDS's syntax, such as 'train[:50%]'."
                f"{did_you_mean(split, splits)}"
            ) from error
        self._data_set = builder.info.full_name
        self._shards = builder.info.splits[split].file_instructions
        version = str(builder.info.version)
        listed = f"{identity or self._data_set}/{split}"
        self.fingerprint = digest([listed, version, str(len(self._examples))])

    def __len__(self) -> int:
        return len(self._examples)

    def image_keys(self) -> Int[np.ndarray, " n"]:
        """Returns one number for each image, by shard and place; see `records.Source`."""
        shards = [
            image_key(f"{self._data_set}/{os.path.basename(shard.filename)}")
            + np.arange(shard.skip, shard.skip + shard.take)
            for shard in self._shards
        ]
        return np.concatenate(shards)

    def __getitem__(self, index: int, /) -> Record:
        return self._record(index, self._examples[index])

    def __getitems__(self, indices: list[int], /) -> list[Record]:
        """Reads many at once, which ArrayRecord does several times faster than one by one."""
        examples = self._examples.__getitems__(indices)
        return [self._record(i, example) for i, example in zip(indices, examples, strict=True)]

    def _record(self, index: int, example: dict[str, Any]) -> Record:
        label = -1 if self._label is None else int(example[self._label])
        name = f"{self.name}/{index}"
        if self._file_name:
            name = _text(example["file_name"])
        captions = tuple(map(_text, example["captions"])) if self._captions else ()
        return Record(example[self._image], label, name, captions)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


_SKIP = tfds.decode.SkipDecoding()
_NEEDS_TENSORFLOW = "(this one command needs `pip install tensorflow`; training does not)."


def _examples(builder: Any, split: str, decoders: dict[str, Any], directory: epath.Path) -> Any:
    """Returns what gives the examples of a split by index.

    Raises:
      UserError: if they are stored in a format that is read from its beginning only.
      ValueError: if there is no such split.
    """
    formats = {file_format.value for file_format in builder.info.available_file_formats()}
    if "array_record" in formats:
        return builder.as_data_source(split, decoders=decoders, file_format="array_record")
    if formats == {"tfrecord"}:
        parts = builder.info.splits[split].file_instructions
        return TfRecordExamples(builder.info.features, decoders, parts)
    raise UserError(
        f"{directory} is stored as {', '.join(sorted(formats))}, which cannot be read at random. "
        f"Convert it once, beside what is there, with\n  tfds convert_format "
        f"--dataset_version_dir={shlex.quote(str(directory))} --out_file_format=array_record\n"
        f"{_NEEDS_TENSORFLOW}"
    )


def _prepared_directory(data_dir: epath.Path, name: str) -> epath.Path:
    """Returns data_dir/NAME[/CONFIG]/VERSION, the newest version if none is asked for."""
    dataset, _, version = name.partition(":")
    home = data_dir / dataset
    pattern = re.escape(version) if version else r"\d+\.\d+\.\d+"
    below = sorted(d.name for d in home.iterdir() if d.is_dir()) if home.is_dir() else []
    prepared = [
        d for d in below if re.fullmatch(pattern, d) and (home / d / "dataset_info.json").exists()
    ]
    if prepared:
        return home / max(prepared, key=lambda d: [int(part) for part in d.split(".")])
    there = sorted(d.name for d in data_dir.iterdir() if d.is_dir()) if data_dir.is_dir() else []
    raise UserError(
        f"No prepared data set {name!r} in {data_dir}"
        + (f", only {', '.join(below)} in {home}" if below else f" ({', '.join(there) or 'empty'})")
        + ". Nothing is downloaded unasked. If it is elsewhere, give that directory as path; if "
        f"not, prepare it once with\n  tfds build {shlex.quote(name)} "
        f"--data_dir={shlex.quote(str(data_dir))} --file_format=array_record\n{_NEEDS_TENSORFLOW}"
    )


def _choose(keys: list[str], preferred: str) -> str | None:
    if preferred in keys:
        return preferred
    return keys[0] if len(keys) == 1 else None
