"""A look at a few images before a run: what they would teach it, if they are read as they are.

Files of all kinds can be read and yet come out black, empty or tiny. That is no error, so it is
said, with what to set.
"""

import collections
import concurrent.futures
import contextlib
import functools
from collections.abc import Sequence
from typing import NamedTuple

import joblib
import numpy as np

from simclr_jax.data.dataset import Dataset
from simclr_jax.data.decode import (
    UnreadableImageError,
    decode,
    fitted_size,
    is_deep,
    open_image,
)
from simclr_jax.data.reading import Reader
from simclr_jax.data.records import Source, left_out, name_of

SAMPLE = 64
CANVAS_PX = 96  # black, empty and equal are seen at this size
DARK = 24  # grey level that not one pixel in a hundred of a nearly black image reaches
WORTH_TELLING = 0.1  # of the images looked at


class Seen(NamedTuple):
    """What one image is like.

    Attributes:
      name: name of the image.
      size: (height, width) of the image in pixels.
      bright: grey level that one pixel in a hundred is above.
      is_constant: whether all pixels are alike.
      pixels: pixels of the image made small, as bytes.
      deep_max: largest value of a file of more than 8 bits a channel; None of others.
    """

    name: str
    size: tuple[int, int]
    bright: float
    is_constant: bool
    pixels: bytes
    deep_max: float | None


def look(dataset: Dataset, source: Source, *, view_size: int) -> list[str]:
    """Returns what is worth a warning in images spread evenly over a data set.

    Args:
      dataset: settings by which images are read.
      source: the data set.
      view_size: side of a view in pixels.
    """
    num = min(SAMPLE, len(source))
    ids = [i * len(source) // num for i in range(num)]
    reader = Reader(source, dataset.patience)
    see = lambda i: reader.run(functools.partial(_see, reader, dataset, source, i))
    # The reader is closed first, so that no thread waits for storage that hangs.
    threads = concurrent.futures.ThreadPoolExecutor(joblib.cpu_count())
    with threads, contextlib.closing(reader):
        found = list(threads.map(see, ids))
    images = [one for one in found if isinstance(one, Seen)]
    reasons = [one for one in found if isinstance(one, str)]
    notes = [_left_out(source), _unreadable(reasons, num)]
    if images:
        notes += [
            _deep(images, dataset),
            _dark(images),
            _constant(images, dataset),
            _identical(images),
            _shrunk(images, dataset.canvas, view_size),
        ]
    return [note for note in notes if note]


def _see(reader: Reader, dataset: Dataset, source: Source, i: int) -> Seen | str:
    """Returns what image i is like, or why it cannot be read."""
    try:
        record = reader.record(i)
        pixels, size = decode(record.image, canvas=CANVAS_PX, rendering=dataset.rendering)
        deep_max = None
        if isinstance(record.image, bytes) and is_deep(image := open_image(record.image)):
            deep_max = float(np.nanmax(np.asarray(image)))
    except UnreadableImageError as error:
        return f"{error.name or name_of(source, i)}: {error.reason}"
    return Seen(
        name=record.name,
        size=size,
        bright=float(np.percentile(pixels, 99)),
        is_constant=bool(pixels.min() == pixels.max()),
        pixels=pixels.tobytes(),
        deep_max=deep_max,
    )


def _left_out(source: Source) -> str:
    kinds = collections.Counter(dict(left_out(source)))
    if not kinds:
        return ""
    named = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(8))
    return (
        f"{sum(kinds.values())} files beside the {len(source)} images are left out, by their "
        f"names no images: {named}. To train on such images, convert them to JPEG or PNG."
    )


def _unreadable(reasons: Sequence[str], num: int) -> str:
    if not reasons:
        return ""
    return f"{len(reasons)} of {num} images looked at cannot be read; the first, {reasons[0]}."


def _deep(images: Sequence[Seen], dataset: Dataset) -> str:
    largest = max((one.deep_max for one in images if one.deep_max is not None), default=None)
    if largest is None or dataset.value_range != "type" or largest >= 32768:
        return ""
    bits = max(1, int(largest).bit_length())
    return (
        f"The files of 16 bits looked at hold values up to {largest:g} of 65535, which makes them "
        f"dark, with few grey levels. If they are of {bits} bits, set "
        f"--config.data.value_range=0:{2**bits - 1}; =file stretches each by itself."
    )


def _dark(images: Sequence[Seen]) -> str:
    advice = "Brighten them, or, if they have more than 8 bits, set --config.data.value_range."
    dark = [one for one in images if one.bright < DARK and not one.is_constant]
    return _worth(dark, images, "nearly black", advice)


def _constant(images: Sequence[Seen], dataset: Dataset) -> str:
    other = 0 if dataset.ground > 127 else 255
    advice = (
        "If they are drawings on transparent ground, such as white on nothing, "
        f"--config.data.ground={other} shows them."
    )
    return _worth([one for one in images if one.is_constant], images, "of one colour", advice)


def _identical(images: Sequence[Seen]) -> str:
    advice = "Copies are each other's negatives: remove them."
    counts = collections.Counter(one.pixels for one in images if not one.is_constant)
    same = [one for one in images if counts[one.pixels] > 1]
    return _worth(same, images, "the same as another", advice)


def _shrunk(images: Sequence[Seen], canvas: int, view_size: int) -> str:
    """Tells of images that the canvas makes narrower than a view, and which canvas would not."""
    narrow, needed = [], canvas
    for one in images:
        shorter, longer = min(one.size), max(one.size)
        if min(fitted_size(*one.size, canvas)) < min(view_size, shorter):
            narrow.append(one)
            needed = max(needed, min(longer, -(-view_size * longer // shorter)))
    what = f"narrower than a view of {view_size} px once they fit a canvas of {canvas} px"
    advice = f"Set --config.data.canvas={needed}, or cut them into pieces."
    return _worth(narrow, images, what, advice)


def _worth(some: Sequence[Seen], images: Sequence[Seen], what: str, advice: str) -> str:
    if len(some) < WORTH_TELLING * len(images) or not some:
        return ""
    are = "is" if len(some) == 1 else "are"
    which = f"{len(some)} of {len(images)} images looked at {are} {what}, such as {some[0].name}"
    return f"{which}. {advice}"
