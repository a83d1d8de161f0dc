"""Images as a trained encoder sees them, with their names, and texts as a text tower does."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from simclr_jax.core.errors import UserError
from simclr_jax.core.files import read_text
from simclr_jax.data.dataset import Dataset
from simclr_jax.data.quarantine import Quarantine
from simclr_jax.data.reading import Reader
from simclr_jax.data.records import Source
from simclr_jax.data.sources import LISTED
from simclr_jax.evals.features import Features, extract_features
from simclr_jax.trained.images import choose_images
from simclr_jax.trained.restored import Restored


class Embedded(NamedTuple):
    """Features of a data set, and the names of the images that could be read."""

    source: Source
    features: Features
    names: Sequence[str]
    unreadable: Quarantine


def images_of(
    run: Restored,
    *,
    data: str | None,
    path: str | None,
    split: str | None,
    reading: Mapping[str, Any] | None = None,
) -> Dataset:
    """Returns the images that flags name; all of another folder, with labels if it has classes.

    The arguments are those of `choose_images`.

    Raises:
      UserError: if it is another data set with splits, and none of them is given.
    """
    name = data or run.dataset.name
    needed = () if name in LISTED else ("split",)
    where = {"data": data, "path": path, "split": split}
    dataset = choose_images(run.dataset, **where, needed=needed, reading=reading)
    if name == "folder" and (data or path):
        dataset = dataclasses.replace(dataset, labels_from_folders=None)
    return dataset


def embed(run: Restored, dataset: Dataset, source: Source, *, projected: bool = False) -> Embedded:
    """Returns the features of all images of a source that can be read.

    Args:
      run: whose encoder sees them.
      dataset: how they are read.
      source: the images.
      projected: return the rows that are compared with those of texts, not representations.

    Raises:
      UserError: if one of them has a label that its data set does not know, or rows are asked for
        of a run without a text tower.
    """
    if projected:
        run.require_text()
    unreadable = Quarantine()
    batches = dataset.eval_batches(source, run.network.evaluation.cuts, quarantine=unreadable)
    apply = run.project if projected else run.encode
    features = extract_features(apply, batches, run.mesh)
    reader = Reader(source, dataset.patience)
    names = [reader.record(int(i)).name for i in features.ids]
    return Embedded(source, features, names, unreadable)


def embed_texts(run: Restored, texts: Sequence[str]) -> Features:
    """Returns the rows of texts, in their order, without labels.

    Raises:
      UserError: as `Restored.embed_captions` does.
    """
    rows, n = run.embed_captions(texts), len(texts)
    return Features(np.arange(n), rows, np.full(n, -1, np.int32))


def read_texts(path: str) -> list[str]:
    """Returns the lines of a file, each of which is a text.

    Raises:
      UserError: if it cannot be read, is not UTF-8, or has an empty line, naming it.
    """
    texts = read_text(path, "--texts").removesuffix("\n").split("\n")
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            raise UserError(f"--texts={path}: line {number} is empty; there is one text a line.")
    return texts
