"""Which images a verb is about: the run's own, or those that --data, --path and splits name."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from simclr_jax.core.errors import UserError
from simclr_jax.core.sections import build_section
from simclr_jax.data.dataset import Dataset
from simclr_jax.data.files import absolute_paths
from simclr_jax.data.sources import LISTED

OF_FILES = ("kind", "image_column", "label_column", "caption_column")
EXAMPLES = {"split": "train", "test_split": "test"}


def choose_images(
    own: Dataset,
    *,
    data: str | None,
    path: str | Sequence[str] | None,
    split: str | None,
    test_split: str | None = None,
    needed: Sequence[str] = (),
    reading: Mapping[str, Any] | None = None,
) -> Dataset:
    """Returns the run's data set with what the flags of a verb say in its place.

    The run's splits and classes hold for its own data set alone. A TFDS data set may lie elsewhere
    now; another folder, or another table, means other images.

    Args:
      own: images of the run.
      data: --data, another data set.
      path: --path, where it is.
      split: --split.
      test_split: --test_split.
      needed: flags that must be given for other images than the run's.
      reading: settings of `config.data` that say how they are read, in place of the run's.

    Raises:
      UserError: if a needed flag is missing, or a setting has a value that it cannot have.
    """
    name = data or own.name
    where = absolute_paths(path) if path else own.path if name == own.name else None
    given = {"split": split, "test_split": test_split}
    if name == own.name and (name not in LISTED or where == own.path):
        splits = {key: value or getattr(own, key) for key, value in given.items()}
        return _read_by(dataclasses.replace(own, path=where, **splits), reading)
    if missing := [f"--{key}={EXAMPLES[key]}" for key in needed if not given[key]]:
        raise UserError(
            f"{name}{f' {where}' if where else ''} is another data set than the run's, whose "
            f"splits say nothing about it: give {' and '.join(missing)}, or what its splits are."
        )
    others = dataclasses.replace(
        own,
        name=name,
        path=where,
        split=split or test_split or "all",
        test_split=test_split,
        class_names=None,
        labels_from_folders=False,
        **({} if name == own.name else dict.fromkeys(OF_FILES)),
    )
    return _read_by(others, reading)


def _read_by(dataset: Dataset, reading: Mapping[str, Any] | None) -> Dataset:
    """Returns a data set with some settings changed, which are checked as those of a config."""
    if not reading:
        return dataset
    own = {field.name: getattr(dataset, field.name) for field in dataclasses.fields(dataset)}
    return build_section("config.data", Dataset, own | dict(reading))
