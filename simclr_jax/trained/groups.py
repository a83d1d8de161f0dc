"""Judges a trained encoder by groups of images; what is found stands in D/groups.json."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Int

from simclr_jax.core.errors import UserError
from simclr_jax.core.files import read_json, read_table, require_writable, write_text
from simclr_jax.evals.groups import compare_groups, measure_images, require_comparable
from simclr_jax.evals.knn import knn_predict
from simclr_jax.evals.linear import linear_probe, predict
from simclr_jax.trained import restored
from simclr_jax.trained.embedding import embed
from simclr_jax.trained.images import choose_images

FILE = "groups.json"
_MOST_VOTERS = 200
_CURE = "Move it away, and judge the groups again."


def judge_groups(
    workdir: str,
    groups: str,
    *,
    step: int | None = None,
    data: str | None = None,
    path: str | None = None,
    split: str | None = None,
    test_split: str | None = None,
    reading: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Compares groups of test images, and writes D/groups.json.

    Args:
      workdir: directory of a run or an import.
      groups: CSV file with the columns "name" and "group"; images that it does not name are left
        out. Names are those that `embed` writes.
      step: number of the checkpoint; the newest whole one if None.
      data: "digits", "folder" or "tfds/NAME"; the run's own if None.
      path: the folder, or the directory of prepared data sets.
      split: split of `data`, the images with labels to fit on.
      test_split: split of `data`, the images in groups.
      reading: settings of `config.data` that these images are read by, in place of the run's.

    Returns:
      "train_data", "test_data", "step", "num_test" (images in a group), and "groups", the rows of
      `evals.groups.compare_groups`.

    Raises:
      UserError: if there is no run, its images have no labels, or the file does not fit them.
    """
    run = restored.load(workdir, step)
    require_writable(epath.Path(workdir) / FILE, "--workdir")
    named = _read(groups)
    needed = ("split", "test_split")
    dataset = choose_images(
        run.dataset,
        data=data,
        path=path,
        split=split,
        test_split=test_split,
        needed=needed,
        reading=reading,
    )
    train_source, test_source, _ = run.open_labelled(dataset)
    train = embed(run, dataset, train_source).features
    test = embed(run, dataset, test_source)
    if unknown := sorted({*named} - {*test.names}):
        raise UserError(
            f"--groups={groups}: {len(unknown)} of its names are of no image of "
            f"{test_source.name}, such as {unknown[0]!r}; names are as {test.names[0]!r}."
        )
    rows = [
        i for i, name in enumerate(test.names) if name in named and test.features.labels[i] >= 0
    ]
    own = [named[test.names[i]] for i in rows]
    require_comparable(own, f"--groups={groups}, its images with labels: ")
    features, labels = test.features.features[rows], test.features.labels[rows]
    fitted = train.labels >= 0
    num_classes = len(train_source.class_names)
    correct = _correct(train.features[fitted], train.labels[fitted], features, labels, num_classes)
    found = {
        "train_data": train_source.name,
        "test_data": test_source.name,
        "step": run.step,
        "num_test": len(rows),
        "groups": compare_groups(measure_images(features, labels, own, correct), own),
    }
    write_text(epath.Path(workdir) / FILE, json.dumps(found, indent=2) + "\n")
    return found


def read_groups(workdir: epath.PathLike) -> dict[str, Any] | None:
    """Returns what D/groups.json holds, None if no groups were judged.

    Raises:
      UserError: if the file is damaged.
    """
    path = epath.Path(workdir) / FILE
    if not path.exists():
        return None
    found = read_json(path, _CURE)
    if not isinstance(found, dict) or not isinstance(found.get("groups"), list):
        raise UserError(f"{path} is damaged: it has no groups. {_CURE}")
    return found


def _read(path: str) -> dict[str, str]:
    """Returns name -> group of a CSV file."""
    named: dict[str, str] = {}
    for line, row in enumerate(read_table(path, "--groups", ("name", "group")), 2):
        if not row["name"] or not row["group"] or row["name"] in named:
            raise UserError(
                f"--groups={path}, line {line}: each image needs one name and one group, once."
            )
        named[row["name"]] = row["group"]
    require_comparable([*named.values()], f"--groups={path}: ")
    return named


def _correct(
    train: np.ndarray,
    train_labels: Int[np.ndarray, " n"],
    features: np.ndarray,
    labels: Int[np.ndarray, " m"],
    num_classes: int,
) -> dict[str, np.ndarray]:
    """Returns whether kNN and a linear probe are right about each image."""
    k = max(1, min(_MOST_VOTERS, len(train_labels) // num_classes))
    voted = knn_predict(train, train_labels, features, num_classes=num_classes, k=k)
    probe = linear_probe(train, train_labels, num_classes=num_classes)
    predicted = {"kNN": voted, "linear probe": predict(probe, features)}
    return {name: np.asarray(classes) == labels for name, classes in predicted.items()}
