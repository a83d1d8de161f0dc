"""Judges a trained network: its classifier, or else its encoder by kNN and linear probe."""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from etils import epath

from simclr_jax.build.resolve import frozen_networks
from simclr_jax.core.errors import UserError, did_you_mean
from simclr_jax.core.files import require_writable
from simclr_jax.core.ranges import Count, Fraction, Positive
from simclr_jax.core.sections import checked
from simclr_jax.core.types import Batch
from simclr_jax.data.dataset import Dataset
from simclr_jax.data.records import Source
from simclr_jax.evals.classifier import classifier_accuracy
from simclr_jax.evals.features import extract_features
from simclr_jax.evals.label_efficiency import label_efficiency
from simclr_jax.evals.representation import effective_rank
from simclr_jax.evals.results import FILE, add_results
from simclr_jax.trained import restored, towers
from simclr_jax.trained.images import choose_images
from simclr_jax.trained.restored import Restored

log = logging.getLogger(__name__)
PROTOCOLS = ("classifier", "knn", "linear", *towers.PROTOCOLS)
FEATURES = ("pixels", "random_features", "encoder")
FRACTIONS = (0.01, 0.1, 1.0)


def evaluate(
    workdir: str,
    *,
    step: int | None = None,
    protocol: Sequence[str] | None = None,
    features: Sequence[str] = FEATURES,
    fractions: Sequence[float | int] = FRACTIONS,
    draws: int = 10,
    knn_k: int = 200,
    knn_temperature: float = 0.1,
    data: str | None = None,
    path: str | Sequence[str] | None = None,
    split: str | None = None,
    test_split: str | None = None,
    templates: Sequence[str] | None = None,
    reading: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Judges a checkpoint of a workdir, and adds the figures to D/results.json.

    Args:
      workdir: directory of a run or an import.
      step: number of the checkpoint; the newest whole one if None.
      protocol: any of `PROTOCOLS`; by default the classifier, or kNN and linear probe without one.
      features: any of `FEATURES`, what kNN and linear probe judge.
      fractions: shares of the labels to use, in (0, 1].
      draws: class-balanced draws of labels for each fraction below 1.
      knn_k: neighbours that vote, at most the labels per class.
      knn_temperature: temperature of their votes.
      data: one of `data.sources.SOURCES`; the run's own if None.
      path: the folder or file, or the directory of prepared data sets.
      split: split of `data`, the images with labels to fit on.
      test_split: split of `data`, the images to judge on.
      templates: for zero_shot, captions with {} in place of the name of a class; those of the data
        set if None.
      reading: settings of `config.data` that these images are read by, in place of the run's, such
        as {"outage_seconds": 3600}.

    Returns:
      A row for each figure: "protocol", "features", "top1" in [0, 1], "train_data", "test_data",
      "num_train", "num_test", "step", for features also "effective_rank", over all test images, and
      what else its protocol says.

    Raises:
      UserError: if there is no run, or its images are not what a protocol needs.
    """
    kinds = _known("features", features, FEATURES)
    settings = {
        "fractions": [checked("--fractions", float(value), Fraction) for value in fractions],
        "draws": checked("--draws", draws, Count),
        "k": checked("--knn_k", knn_k, Count),
        "temperature": checked("--knn_temperature", knn_temperature, Positive),
    }
    run = restored.load(workdir, step)
    require_writable(epath.Path(workdir) / FILE, "--workdir")
    default = ["knn", "linear"] if run.model.classifier is None else ["classifier"]
    protocols = _known("protocol", protocol or default, PROTOCOLS)
    of_features = [name for name in protocols if name in ("knn", "linear")]
    of_towers = [name for name in protocols if name in towers.PROTOCOLS]
    dataset = choose_images(
        run.dataset,
        data=data,
        path=path,
        split=split,
        test_split=test_split,
        needed=("split", "test_split") if of_features else ("test_split",),
        reading=reading,
    )
    dataset = dataclasses.replace(dataset, labels_from_folders=dataset.name == "folder")
    rows = _evaluate_classifier(workdir, run, dataset) if "classifier" in protocols else []
    if of_features:
        rows += _evaluate_features(run, dataset, kinds, protocols=of_features, **settings)
    if of_towers:
        rows += towers.evaluate_towers(run, dataset, of_towers, templates)
    rows = [{**row, "step": run.step} for row in rows]
    add_results(workdir, rows)
    return rows


def _evaluate_classifier(workdir: str, run: Restored, dataset: Dataset) -> list[dict[str, Any]]:
    if run.model.classifier is None:
        raise UserError(
            f"--protocol=classifier: {workdir} has no classifier; leave the flag out, and "
            "its encoder is judged."
        )
    names = run.dataset.class_names
    if names is None and dataset.name != run.dataset.name:
        raise UserError(
            f"Nobody knows the names of the classes that the classifier of {workdir} tells "
            f"apart, so it is judged on {run.dataset.name} alone; leave out --data={dataset.name}."
        )
    fitted_on = run.training_images()
    test = dataclasses.replace(dataset, class_names=names).open_test(fitted_on)
    if test is None:
        raise UserError(
            f"{dataset.name} has no test_split: say which {run.examples}, --test_split=test."
        )
    if len(test.class_names) != run.model.classifier.features:
        raise UserError(
            f"The classifier of {workdir} tells {run.model.classifier.features} classes "
            f"apart, and {test.name} has {len(test.class_names)}: judge it on its own classes."
        )
    log.info("classifier: %d %s of %s ...", len(test), run.examples, test.name)
    batches = dataset.eval_batches(test, run.network.evaluation.cuts)
    accuracy = classifier_accuracy(run.classify, batches, run.mesh)
    what = {"protocol": "classifier", "features": "encoder", **_labels_used(run, fitted_on)}
    return [{**what, "test_data": test.name, "num_classes": len(test.class_names), **accuracy}]


def _labels_used(run: Restored, fitted_on: Source | None) -> dict[str, Any]:
    if fitted_on is None:
        return {"train_data": f"unknown, imported from {run.config['imported']['checkpoint']}"}
    taught = bool(frozen_networks(run.config["method"]["name"]))  # a teacher gives the labels
    return {
        "train_data": fitted_on.name,
        "label_fraction": 0.0 if taught else run.dataset.fraction,
        "num_train": 0 if taught else len(fitted_on),
    }


def _evaluate_features(
    run: Restored, dataset: Dataset, kinds: Sequence[str], **settings: Any
) -> list[dict[str, Any]]:
    train, test, seen = run.open_labelled(dataset)
    what = {
        "train_data": train.name,
        "test_data": test.name,
        "num_classes": len(train.class_names),
        **({"pretrained_on_test": seen} if seen else {}),
    }
    encoders: dict[str, Callable[[Batch], jax.Array]] = {"encoder": run.encode}
    if "pixels" in kinds:
        encoders["pixels"] = run.network.pixels
    if "random_features" in kinds:
        encoders["random_features"] = run.encode_with_random_features(dataset, train)
    rows = []
    for kind in kinds:
        log.info(
            "%s: %d %s of %s to fit on, %d of %s to judge ...",
            kind, len(train), run.examples, train.name, len(test), test.name,
        )  # fmt: skip
        train_features, test_features = (
            extract_features(
                encoders[kind],
                dataset.eval_batches(source, run.network.evaluation.cuts),
                run.mesh,
            )
            for source in (train, test)
        )
        judged = label_efficiency(
            train_features,
            test_features,
            name=kind,
            num_classes=len(train.class_names),
            **settings,
        )
        rank = float(effective_rank(test_features.features))
        rows += [row | what | {"effective_rank": rank} for row in judged]
        log.info("%s: effective rank %.1f of %d", kind, rank, test_features.features.shape[1])
    return rows


def _known(flag: str, given: Sequence[str], known: Sequence[str]) -> list[str]:
    for name in given:
        if name not in known:
            raise UserError(
                f"--{flag}={name} is none of {', '.join(known)}.{did_you_mean(name, known)}"
            )
    return list(given)
