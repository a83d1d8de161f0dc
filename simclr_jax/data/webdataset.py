"""Tars of images or sounds, in WebDataset's layout, read at random without unpacking."""

import collections
import json
import logging
import time
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int

from simclr_jax.core.errors import UserError
from simclr_jax.data.classes import number_labels, quote, shorten
from simclr_jax.data.columns import Columns, caption_in, captions_if_readable, captions_of, label_of
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
from simclr_jax.data.kinds import IMAGES, SOUNDS, are_sounds, ending_of
from simclr_jax.data.records import Record, digest, encoded
from simclr_jax.data.tar_index import CLASS, Place, Sample, TarIndex, index_tar, read_place

log = logging.getLogger(__name__)
TEXT, METADATA = "txt", "json"
NOWHERE: Place = (0, 0)
TELL_EVERY_SECONDS = 10.0


class WebDataset:
    """Samples of tars, in their order: files of one name up to its first dot are one sample.

    Its image is the file with the ending of an image; its .cls holds its class, its .txt its
    caption. `Columns` says otherwise: `image` is an ending, such as "left.jpg", and `label` and
    `caption` are keys of its .json. Where the first samples have more sounds than images, these are
    sounds.

    Attributes:
      has_sounds: whether these are sounds.
      left_out: how many files belong to no sample with an image, by kind.
    """

    def __init__(
        self,
        path: Paths,
        split: str,
        columns: Columns,
        class_names: Sequence[str] | None = None,
        kind: str | None = None,
    ):
        """Reads where the samples are, from the tars or from what is kept beside them.

        Args:
          path: folders of tars, or patterns of their names.
          split: "all", or what names of tars begin with, or what folders of them are called.
          columns: what is read of a sample.
          class_names: the classes in the order of their numbers; those found if None.
          kind: "images" or "sounds"; whichever the first tar has more of if None.

        Raises:
          UserError: if there are no tars or no images in them, or one cannot be read.
        """
        self.name = source_name("webdataset", path, split)
        self._tars, is_named = find_files(path, split, (".tar",))
        if split != "all" and not is_named:
            raise no_split(self.name, split, splits_in_names(self._tars))
        self._short = short_names(self._tars)
        self._columns = columns
        self.left_out: collections.Counter[str] = collections.Counter()
        self._names: list[str] = []  # tar and path of the image in it
        tar_of: list[int] = []
        images: list[Place] = []
        texts: list[Place] = []
        classes: list[str] = []
        for t, index in enumerate(_index(self._tars)):
            self.left_out.update(index.left_out)
            if not images:
                self.has_sounds = self._are_sounds(index, kind)
            for key, sample in index.samples.items():
                ending = self._image_of(key, sample)
                if ending is None:
                    self.left_out.update(f".{other}" for other in sample)
                    continue
                self._names.append(f"{self._short[t]}: {key}.{ending}")
                tar_of.append(t)
                images.append(sample[ending])
                texts.append(sample.get(TEXT if columns.caption is None else METADATA, NOWHERE))
                classes.append(self._class_of(t, key, sample, index))
        if not images:
            kinds = [f"{count} {kind}" for kind, count in self.left_out.most_common()]
            wanted = columns.image or ", ".join(sorted(IMAGES | SOUNDS))
            raise UserError(
                f"No {kind or 'images'} in {self.name}: looked for files ending in {wanted}; found "
                f"{shorten(kinds) or 'none'}. --config.data.image_column says another ending."
            )
        self._tar_of = np.array(tar_of, np.int32)
        self._images, self._texts = np.array(images, np.int64), np.array(texts, np.int64)
        self.labels, self.class_names = number_labels(classes, class_names, self.name)
        if columns.caption is not None:
            self._require_captions()
        places = zip(self._names, classes, images, texts, strict=True)
        self.fingerprint = digest(json.dumps([*parts]) for parts in places)

    def _are_sounds(self, index: TarIndex, kind: str | None) -> bool:
        if self._columns.image is not None:
            return are_sounds([f"x.{self._columns.image}"])
        names = (f"x.{name}" for sample in index.samples.values() for name in sample)
        return are_sounds(names, kind)

    def _image_of(self, key: str, sample: Sample) -> str | None:
        """Returns the ending of a sample's image, None if it has none."""
        if (asked := self._columns.image) is not None:
            ending = asked.lower().removeprefix(".")
            return ending if ending in sample else None
        wanted, what = (SOUNDS, "sounds") if self.has_sounds else (IMAGES, "images")
        found = [name for name in sample if ending_of(f"x.{name}") in wanted]
        if len(found) > 1:
            raise UserError(
                f"{self.name}: {key} has the {what} {quote(found)}; say which one is read, "
                f"--config.data.image_column={found[0]}."
            )
        return found[0] if found else None

    def _class_of(self, t: int, key: str, sample: Sample, index: TarIndex) -> str:
        name = f"{self._short[t]}: {key}"
        column = self._columns.label
        if column is None:
            return label_of(index.classes.get(key), f"{name}.{CLASS}")
        if METADATA not in sample:
            return ""
        where = f"{name}.{METADATA}"
        try:
            metadata = _parse(read_place(self._tars[t], sample[METADATA]))
        except ValueError as error:
            raise UserError(f"{where} cannot be read: {error}.") from error
        if column not in metadata:
            raise UserError(
                f"config.data.label_column={column!r}: {where} has no such key, only "
                f"{quote(list(metadata))}."
            )
        return label_of(metadata[column], where)

    def _require_captions(self) -> None:
        """Checks that the first text can be read: with a wrong setting none could."""
        with_text = np.flatnonzero(self._texts[:, 1])
        try:
            _ = self.captions_of(int(with_text[0])) if with_text.size else None
        except UnreadableImageError as error:
            raise UserError(f"{error}.") from error

    def __len__(self) -> int:
        return len(self._names)

    def image_keys(self) -> Int[np.ndarray, " n"]:
        """Returns one number for each image, by its tar and its place there."""
        return file_keys(self._tars)[self._tar_of] + self._images[:, 0]

    def __getitem__(self, index: int, /) -> Record:
        tar, name = self._tars[self._tar_of[index]], self._names[index]
        data = read_place(tar, _place(self._images, index))
        captions = captions_if_readable(lambda: self.captions_of(index))
        return encoded(data, self.labels[index], name, captions, is_sound=self.has_sounds)

    def captions_of(self, index: int) -> tuple[str, ...]:
        """Returns the captions of an image, without reading it."""
        tar, name, text = self._tars[self._tar_of[index]], self._names[index], self._texts[index]
        if not text.any():
            return ()
        try:
            return self._captions(read_place(tar, _place(self._texts, index)), name)
        except UnreadableImageError:
            raise
        except ValueError as error:
            raise UnreadableImageError(f"its captions cannot be read: {error}", name) from error

    def _captions(self, text: bytes, name: str) -> tuple[str, ...]:
        column = self._columns.caption
        if column is None:
            return caption_in(text, name)
        metadata = _parse(text)
        if column not in metadata:
            raise UserError(
                f"config.data.caption_column={column!r}: there is no such key, only "
                f"{quote(list(metadata))}"
            )
        return captions_of(metadata[column], name)

    def name_of(self, index: int) -> str:
        """Returns tar and path of an image, such as "train-001.tar: a/17.jpg"."""
        return self._names[index]


def _place(places: Int[np.ndarray, "n 2"], index: int) -> Place:
    offset, length = places[index]
    return int(offset), int(length)


def _index(tars: Sequence[str]) -> Iterator[TarIndex]:
    """Yields the indices of tars, and tells how far it is where that takes long."""
    told = time.monotonic()
    for i, tar in enumerate(tars):
        yield index_tar(tar)
        if time.monotonic() - told > TELL_EVERY_SECONDS:
            told = time.monotonic()
            log.info("Looked through %d of %d tars.", i + 1, len(tars))


def _parse(data: bytes) -> dict[str, object]:
    """Returns the object that a .json holds.

    Raises:
      ValueError: if it holds none.
    """
    try:
        found = json.loads(data)
    except RecursionError as error:
        raise ValueError("it is too deep") from error
    if not isinstance(found, dict):
        raise ValueError("it is no object, such as {...}")
    return found
