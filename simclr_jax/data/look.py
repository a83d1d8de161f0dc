"""A look at a few images before a run: what they would teach it, if they are read as they are.

Files of all kinds can be read and yet come out black, empty or tiny. That is no error, so there is
a warning, with what to set.
"""

import collections
from collections.abc import Sequence, Set

import numpy as np
from jaxtyping import Bool

from simclr_jax.data.dataset import Dataset
from simclr_jax.data.decode import fitted_size
from simclr_jax.data.kinds import ENDINGS
from simclr_jax.data.quarantine import Unreadable
from simclr_jax.data.records import Source, has_sounds, left_out, other_kind
from simclr_jax.data.survey import Survey, survey

SAMPLE = 64
DARK = 24  # grey level that not one pixel in a hundred of a nearly black image reaches
WORTH_TELLING = 0.1  # of the images looked at


def look(dataset: Dataset, source: Source, *, view_size: int) -> list[str]:
    """Returns what is worth a warning in images spread evenly over a data set.

    Args:
      dataset: settings by which images are read.
      source: the data set.
      view_size: side of a view in pixels.
    """
    num = min(SAMPLE, len(source))
    seen = survey(dataset, source, np.arange(num) * len(source) // num)
    return advice(seen, dataset, view_size=view_size)


def advice(seen: Survey, dataset: Dataset, *, view_size: int) -> list[str]:
    """Returns what is worth a warning in images that were looked at, with what to set.

    Args:
      seen: the images.
      dataset: how they were read; they need not have been fitted into its canvas.
      view_size: side of a view in pixels.
    """
    notes = [*beside_notes(seen.source, dataset.kind), _unreadable(seen.unreadable, len(seen))]
    if len(seen.rows):
        notes += [
            _deep(seen, dataset),
            _dark(seen),
            _constant(seen, dataset),
            _identical(seen),
            _shrunk(seen, dataset.canvas or view_size, view_size),
        ]
    return [note for note in notes if note]


def beside_notes(source: Source, kind: str | None) -> list[str]:
    """Returns what is worth a warning of files beside those of a source.

    Args:
      source: the data set.
      kind: `config.data.kind`.
    """
    what, other = ("sounds", "images") if has_sounds(source) else ("images", "sounds")
    notes = []
    if kind is None and (num := other_kind(source)):
        counted = f"{num} {other if num > 1 else other[:-1]}"
        notes.append(
            f"{source.name} holds {len(source)} {what} and {counted}, and the {what} are read: "
            f"--config.data.kind={other} reads the {other}."
        )
    return [*notes, *_left_out_note(source, what, ENDINGS[other])]


def _left_out_note(source: Source, what: str, of_other_kind: Set[str]) -> list[str]:
    kinds = collections.Counter(
        {kind: count for kind, count in left_out(source).items() if kind not in of_other_kind}
    )
    if not kinds:
        return []
    named = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(8))
    formats = "WAV or FLAC" if what == "sounds" else "JPEG or PNG"
    return [
        f"{sum(kinds.values())} files beside the {len(source)} {what} are left out, by their "
        f"names no {what}: {named}. To train on such {what}, convert them to {formats}."
    ]


def _unreadable(entries: Sequence[Unreadable], num: int) -> str:
    if not entries:
        return ""
    first = f"{entries[0].name}: {entries[0].reason}"
    return f"{len(entries)} of {num} images looked at cannot be read; the first, {first}."


def _deep(seen: Survey, dataset: Dataset) -> str:
    values = seen.rows["deep_max"]
    values = values[~np.isnan(values)]
    if not values.size or dataset.value_range != "type" or (largest := values.max()) >= 32768:
        return ""
    bits = max(1, int(largest).bit_length())
    return (
        f"The files of 16 bits looked at hold values up to {largest:g} of 65535, which makes them "
        f"dark, with few grey levels. If they are of {bits} bits, set "
        f"--config.data.value_range=0:{2**bits - 1}; =file stretches each by itself."
    )


def _dark(seen: Survey) -> str:
    advice = "Brighten them, or, if they have more than 8 bits, set --config.data.value_range."
    dark = (seen.rows["bright"] < DARK) & ~seen.rows["is_constant"]
    return _worth(dark, seen, "nearly black", advice)


def _constant(seen: Survey, dataset: Dataset) -> str:
    other = 0 if dataset.ground > 127 else 255
    advice = (
        "If they are drawings on transparent ground, such as white on nothing, "
        f"--config.data.ground={other} shows them."
    )
    return _worth(seen.rows["is_constant"], seen, "of one colour", advice)


def _identical(seen: Survey) -> str:
    advice = "Copies are each other's negatives: remove them."
    _, which, counts = np.unique(seen.rows["pixels"], return_inverse=True, return_counts=True)
    same = (counts[which] > 1) & ~seen.rows["is_constant"]
    return _worth(same, seen, "the same as another", advice)


def _shrunk(seen: Survey, canvas: int, view_size: int) -> str:
    """Tells of images that the canvas makes narrower than a view, and which canvas would not."""
    sizes, which = np.unique(seen.rows["size"], axis=0, return_inverse=True)
    shorter, longer = sizes.min(axis=1), sizes.max(axis=1)
    fitted = np.array([min(fitted_size(int(h), int(w), canvas)) for h, w in sizes])
    narrow = fitted < np.minimum(view_size, shorter)
    enough = np.minimum(longer, -(-view_size * longer // shorter))
    needed = int(enough[narrow].max(initial=canvas))
    what = f"narrower than a view of {view_size} px once they fit a canvas of {canvas} px"
    advice = f"Set --config.data.canvas={needed}, or cut them into pieces."
    return _worth(narrow[which.reshape(-1)], seen, what, advice)


def _worth(some: Bool[np.ndarray, " n"], seen: Survey, what: str, advice: str) -> str:
    num, total = int(some.sum()), len(seen.rows)
    if num < WORTH_TELLING * total or not num:
        return ""
    are = "is" if num == 1 else "are"
    first = seen.name(int(some.argmax()))
    return f"{num} of {total} images looked at {are} {what}, such as {first}. {advice}"
