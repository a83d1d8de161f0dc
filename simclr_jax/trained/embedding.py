"""Images as a trained encoder sees them, with their names."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

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


def images_of(run: Restored, *, data: str | None, path: str | None, split: str | None) -> Dataset:
    """Returns what the flags of a verb name; of another folder all, with labels if it has classes.

    Raises:
      UserError: if it is another data set with splits, and none of them is given.
    """
    name = data or run.dataset.name
    needed = () if name in LISTED else ("split",)
    dataset = choose_images(run.dataset, data=data, path=path, split=split, needed=needed)
    if name == "folder" and (data or path):
        dataset = dataclasses.replace(dataset, labels_from_folders=None)
    return dataset


def embed(run: Restored, dataset: Dataset, source: Source) -> Embedded:
    """Returns the features of all images of a source that can be read.

    Raises:
      UserError: if one of them has a label that its data set does not know.
    """
    unreadable = Quarantine()
    batches = dataset.eval_batches(source, run.network.evaluation.cuts, quarantine=unreadable)
    features = extract_features(run.encode, batches, run.mesh)
    reader = Reader(source, dataset.patience)
    names = [reader.record(int(i)).name for i in features.ids]
    return Embedded(source, features, names, unreadable)
