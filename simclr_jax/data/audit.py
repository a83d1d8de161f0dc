"""A whole data set looked at before a run: what is in it, twice in it, or in two splits of it."""

import collections
import dataclasses
import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from simclr_jax.data.dataset import Dataset
from simclr_jax.data.duplicates import same_groups, similar_groups
from simclr_jax.data.folder import SPLITS
from simclr_jax.data.look import advice
from simclr_jax.data.records import Source, left_out
from simclr_jax.data.sources import suitable_sizes
from simclr_jax.data.survey import Survey, survey

MAX_OUTAGES = 16  # files that storage refuses; from then on it is the storage
SIDES_PX = (32, 64, 96, 128, 160, 224, 320, 512, 1024, 2048, 4096)  # of the histogram
# Pillow's modes in words.
DEPTHS = {
    "1": "1 channel, 1 bit",
    "L": "1 channel, 8 bits",
    "LA": "1 channel and alpha, 8 bits",
    "P": "palette",
    "RGB": "3 channels, 8 bits",
    "RGBA": "3 channels and alpha, 8 bits",
    "CMYK": "4 inks, 8 bits",
    "YCbCr": "3 channels, 8 bits",
    "I": "1 channel, 32 bits",
    "F": "1 channel, floats",
}


class Member(NamedTuple):
    """One image of an audit: row `row` of part `part`."""

    part: int
    row: int


@dataclasses.dataclass(frozen=True)
class Audit:
    """What was found in the parts of a data set, such as train and test.

    Attributes:
      parts: what was looked at.
      copies: images that are the same byte for byte, in groups.
      similar: images that look the same but are stored differently, in groups; of copies only one.
      sizes: side of the canvas and of a view in pixels that suit the first part; None if none of it
        can be read.
      notes: what is worth a warning, with what to set.
    """

    parts: Sequence[Survey]
    copies: Sequence[Sequence[Member]]
    similar: Sequence[Sequence[Member]]
    sizes: tuple[int, int] | None
    notes: Sequence[str]

    def name(self, member: Member) -> str:
        """Returns what to call an image."""
        return self.parts[member.part].name(member.row)

    @property
    def leaks(self) -> list[Sequence[Member]]:
        """Returns the groups of copies and similar images that are in more than one part."""
        return [g for g in (*self.copies, *self.similar) if len({one.part for one in g}) > 1]


def splits_of(path: str) -> list[str]:
    """Returns the folders in a folder that are splits of a data set; ["all"] if they are not."""
    if not os.path.isdir(path):
        return ["all"]
    with os.scandir(path) as entries:
        folders = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    are_splits = folders and {name.lower() for name in folders} <= SPLITS
    return folders if are_splits else ["all"]


def audit(datasets: Sequence[Dataset], sources: Sequence[Source]) -> Audit:
    """Looks at every image of some sources.

    Args:
      datasets: how each source is read.
      sources: the parts of a data set, such as train and test.

    Raises:
      OutageError: if storage refuses more than `MAX_OUTAGES` files of one.
    """
    parts = [
        survey(dataset, source, np.arange(len(source)), max_outages=MAX_OUTAGES)
        for dataset, source in zip(datasets, sources, strict=True)
    ]
    members = [Member(p, row) for p, part in enumerate(parts) for row in range(len(part.rows))]
    rows = np.concatenate([part.rows for part in parts])
    named = lambda group: [members[i] for i in group]
    once = np.sort(np.unique(rows["content"], return_index=True)[1])
    once = once[~rows["is_constant"][once]]  # of one colour all look the same
    similar = [once[group] for group in similar_groups(rows["thumbnail"][once])]
    sizes = suitable_sizes(parts[0].rows["size"]) if len(parts[0].rows) else None
    found = Audit(
        parts, [*map(named, same_groups(rows["content"]))], [*map(named, similar)], sizes, ()
    )
    notes = _leak_notes(found)
    for dataset, part in zip(datasets, parts, strict=True):
        canvas, view = sizes or (dataset.canvas, 1)
        own = advice(part, dataclasses.replace(dataset, canvas=canvas), view_size=view)
        notes += [f"{part.source.name}: {note}" for note in own]
    return dataclasses.replace(found, notes=notes)


def facts(found: Audit) -> dict[str, Any]:
    """Returns all that was found, for JSON."""
    places = lambda groups: [
        [{"part": one.part, "name": found.name(one)} for one in group] for group in groups
    ]
    return {
        "parts": [_part_facts(part) for part in found.parts],
        "copies": places(found.copies),
        "similar": places(found.similar),
        "leaks": places(found.leaks),
        "suggested": dict(zip(("canvas", "size"), found.sizes, strict=True)) if found.sizes else {},
        "notes": list(found.notes),
    }


def sides(part: Survey) -> dict[str, dict[str, int]]:
    """Returns how many images have a shorter and a longer side of so many pixels."""
    edges = [0, *SIDES_PX, np.iinfo(np.int32).max]
    names = [f"{low} to {high - 1}" for low, high in itertools.pairwise(edges[:-1])]
    names.append(f"{SIDES_PX[-1]} and more")
    size = part.rows["size"]
    return {
        kind: dict(zip(names, np.histogram(side, edges)[0].tolist(), strict=True))
        for kind, side in (("shorter", size.min(axis=1)), ("longer", size.max(axis=1)))
    }


def formats(part: Survey) -> Mapping[str, int]:
    """Returns how many images have which format, channels and depth, most first."""
    counts = collections.Counter(zip(part.rows["format"], part.rows["mode"], strict=True))
    return {
        f"{kind.decode()}, {_depth(mode.decode())}": count
        for (kind, mode), count in counts.most_common()
    }


def classes(part: Survey) -> dict[str, int]:
    """Returns how many of the images that can be read have which label; empty without labels."""
    names, labels = part.source.class_names, part.rows["label"]
    counts = {name: int((labels == k).sum()) for k, name in enumerate(names)}
    unknown = int((labels < 0).sum())
    return counts | ({"without a label": unknown} if names and unknown else {})


def num_in_groups(groups: Sequence[Sequence[Member]], part: int) -> int:
    """Returns how many images of a part are in some group."""
    return sum(one.part == part for group in groups for one in group)


def spread(part: Survey, num: int) -> Int[np.ndarray, " m"]:
    """Returns rows spread evenly over a part, at most so many."""
    num = min(num, len(part.rows))
    return np.arange(num) * len(part.rows) // max(num, 1)


def _depth(mode: str) -> str:
    return "1 channel, 16 bits" if mode.startswith("I;16") else DEPTHS.get(mode, f"mode {mode}")


def _leak_notes(found: Audit) -> list[str]:
    notes = []
    for i, part in enumerate(found.parts):
        leaked = num_in_groups(found.leaks, i)
        if i and leaked:
            example = next(one for group in found.leaks for one in group if one.part == i)
            notes.append(
                f"{leaked} of the {len(part)} images of {part.source.name} are copies of images of "
                f"another part, or look the same, such as {found.name(example)}. What is judged on "
                "them was fitted to them: remove them from one part."
            )
    return notes


def _part_facts(part: Survey) -> dict[str, Any]:
    return {
        "name": part.source.name,
        "images": len(part),
        "unreadable": [entry._asdict() for entry in part.unreadable],
        "left_out": dict(left_out(part.source)),
        "formats": formats(part),
        "sides": sides(part),
        "classes": classes(part),
    }
