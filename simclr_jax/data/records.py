"""What a data set is to the rest of the program: a length, and records by index."""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from simclr_jax.core.errors import UserError
from simclr_jax.core.types import Clips, CutsBySize, Sentences
from simclr_jax.data.kinds import ENDINGS

# A data set of each kind that is at hand, for messages.
EXAMPLES = {"images": "--data=digits", "sounds": "--data=midi_instruments"}


class Sound(NamedTuple):
    """A sound of one channel.

    Attributes:
      samples: int16 [n].
      rate: samples per second.
    """

    samples: np.ndarray
    rate: int


@dataclasses.dataclass(frozen=True)
class Record:
    """One example as it is stored.

    Attributes:
      image: the bytes of an encoded file, or uint8 pixels [h, w], [h, w, 1] or [h, w, 3]; no bytes
        where the example is a sound or a text.
      label: class index, -1 where unknown.
      name: name of the image, for people: unique within its data set, the same in every run.
      captions: its captions, of which one is drawn each time that it is trained on; of an example
        that is text alone, its texts, see `core.types.Sentences`.
      sound: the bytes of an encoded file, or samples; None where the example is an image.
    """

    image: bytes | np.ndarray
    label: int
    name: str
    captions: tuple[str, ...] = ()
    sound: bytes | Sound | None = None


def encoded(
    data: bytes, label: int, name: str, captions: tuple[str, ...] = (), *, is_sound: bool
) -> Record:
    """Returns the record of an encoded file, of an image or a sound; see `Record`."""
    image, sound = (b"", data) if is_sound else (data, None)
    return Record(image, label, name, captions, sound)


@runtime_checkable  # so that a type checker can be on in tests
class Source(Protocol):
    """A data set with random access, safe to read from many threads.

    It may also have `__getitems__(ids) -> list[Record | None]` where reading many at once is
    cheaper, with None for those to be read alone, `labels` where all are known beforehand, and
    `image_keys() -> int64 [n]` where two sources may share images: one number for each, equal in
    both for the same stored image; see `count_shared`. And `name_of(id) -> str` where the name of a
    record is known before it is read, `file_of` and `left_out`, see those functions.

    One whose records have captions may have `captions_of(id) -> tuple[str, ...]` where they are
    known before the image is read, and `templates`, captions with {} in place of a class's name.
    Records of sounds come from one whose `has_sounds` is True, and those of texts alone from one
    whose `has_texts` is.

    Attributes:
      name: name for people and for messages.
      class_names: one name per class, empty if unlabelled.
      fingerprint: changes when the list of examples does, not with their content; a run
        compares it on resume, because ids mean nothing in another list.
    """

    name: str
    class_names: tuple[str, ...]
    fingerprint: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Record:
        """Reads one example.

        Raises:
          UnreadableImageError: if what is stored there is no image.
          OSError: if storage fails, which says nothing about the image.
        """
        ...


def read_records(source: Source, ids: np.ndarray) -> Sequence[Record | None]:
    """Reads records at once where the source can, and leaves None where it cannot."""
    read_many = getattr(source, "__getitems__", None)
    return [None] * len(ids) if read_many is None else read_many(ids.tolist())


def file_of(source: Source, i: int) -> str | None:
    """Returns the path of the file that holds record i and nothing else, None if there is none."""
    path = getattr(source, "file_of", None)
    return None if path is None else path(i)


def left_out(source: Source) -> Mapping[str, int]:
    """Returns how many files beside those of a source are not read, by kind."""
    return getattr(source, "left_out", {})


def other_kind(source: Source) -> int:
    """Returns how many files beside a source's sounds are images, or the other way round."""
    endings = ENDINGS["images" if has_sounds(source) else "sounds"]
    return sum(count for kind, count in left_out(source).items() if kind in endings)


def name_of(source: Source, i: int) -> str:
    """Returns what to call record i, without reading it."""
    name = getattr(source, "name_of", None)
    return f"{source.name}/{i}" if name is None else name(i)


def has_sounds(source: object) -> bool:
    """Returns whether a source is of sounds, and not of images."""
    return getattr(source, "has_sounds", False)


def has_texts(source: object) -> bool:
    """Returns whether a source is of texts alone, and not of images or sounds."""
    return getattr(source, "has_texts", False)


def examples_of(what: Source | CutsBySize) -> str:
    """Returns what examples are called in messages: "images", "sounds" or "texts".

    Args:
      what: where they come from, or what views are of them.
    """
    if isinstance(what, Sentences) or has_texts(what):
        return "texts"
    return "sounds" if isinstance(what, Clips) or has_sounds(what) else "images"


def require_readable(source: Source, cuts: CutsBySize) -> None:
    """Checks that what a network reads is what a source holds.

    Texts alone may be read from any source that has captions.

    Raises:
      UserError: if it is not, with what works.
    """
    there, wanted = examples_of(source), examples_of(cuts)
    if wanted in (there, "texts"):
        return
    works = f"Name a data set of {wanted}, such as {EXAMPLES[wanted]}"
    if there == "texts":
        works += "; a text tower sees texts: `embed --texts=FILE`, or embed_text of simclr_jax.load"
    elif other_kind(source):
        works += f"; of a folder or tars that hold both, --config.data.kind={wanted} takes them"
    raise UserError(
        f"{source.name} holds {there}, and the encoder of this run reads {wanted}. {works}."
    )


def captions_of(source: Source, i: int) -> tuple[str, ...]:
    """Returns the captions of record i, without reading its image where the source can."""
    captions = getattr(source, "captions_of", None)
    return source[i].captions if captions is None else captions(i)


def count_shared(source: Source, other: Source) -> int:
    """Returns how many images of `other` are stored in `source`, too.

    Copies of an image under another name are not recognised.
    """
    here, there = map(image_keys, (source, other))
    return 0 if here is None or there is None else int(np.isin(there, here).sum())


def image_keys(source: Source) -> Int[np.ndarray, " n"] | None:
    """Returns one number for each stored image, or None if the source cannot tell them apart."""
    keys = getattr(source, "image_keys", None)
    return None if keys is None else keys()


def image_key(text: str) -> int:
    """Returns a 64-bit number for the text that says which stored image is meant."""
    data = text.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True)


def digest(parts: Iterable[str]) -> str:
    """Returns the SHA-256 of a list of strings; file names may hold undecodable bytes."""
    sha256 = hashlib.sha256()
    for part in parts:
        sha256.update(part.encode("utf-8", "surrogateescape") + b"\0")
    return sha256.hexdigest()
