"""Judges a run: its classifier if it has one, or its encoder by kNN and linear probe.

python -m simclr_jax evaluate --workdir=runs/digits
python -m simclr_jax evaluate --workdir=runs/cifar --protocol=knn --fractions=1 --features=encoder
python -m simclr_jax evaluate --workdir=runs/imported --data=tfds/imagenet2012 --path=DIR
"""

import dataclasses
import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import flags
from etils import epath
from rich.console import Console
from rich.table import Table

from simclr_jax.build.resolve import frozen_networks
from simclr_jax.cli import app, own_encoder, restored
from simclr_jax.cli.images import choose_images
from simclr_jax.cli.restored import Restored
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
from simclr_jax.evals.results import FILE, Row, add_results, by_images

log = logging.getLogger(__name__)
PROTOCOLS = ("classifier", "knn", "linear")
FEATURES = ("pixels", "random_features", "encoder")

WORKDIR = app.define_workdir()
STEP = flags.DEFINE_integer("step", None, "Of the checkpoint; the newest whole one if left out.")
own_encoder.define()
PROTOCOL = flags.DEFINE_list(
    "protocol",
    None,
    f"Any of {', '.join(PROTOCOLS)}. By default the classifier, or knn,linear without one.",
)
FRACTIONS = flags.DEFINE_list("fractions", ["0.01", "0.1", "1"], "Shares of the labels to use.")
KINDS = flags.DEFINE_list("features", list(FEATURES), f"Any of {', '.join(FEATURES)}.")
DRAWS = flags.DEFINE_integer("draws", 10, "Draws of labels for each fraction below 1.")
K = flags.DEFINE_integer("knn_k", 200, "Neighbours that vote, at most the labels per class.")
TEMPERATURE = flags.DEFINE_float("knn_temperature", 0.1, "Of the votes of neighbours.")
DATA = flags.DEFINE_string("data", None, "digits, folder or tfds/NAME; the run's own if left out.")
PATH = flags.DEFINE_string("path", None, "The folder, or the directory of prepared data sets.")
SPLIT = flags.DEFINE_string("split", None, "Of --data, the images with labels to fit on.")
TEST_SPLIT = flags.DEFINE_string("test_split", None, "Of --data, the images to judge on.")
JSON = flags.DEFINE_bool("json", False, "Prints one JSON object instead of a table.")


def main(argv: Sequence[str]) -> int:
    """Runs the verb; returns its exit code."""
    return app.run(_evaluate, argv, required=("workdir",))


def _evaluate() -> None:
    kinds = _checked("features", KINDS.value, FEATURES)
    run = restored.load(WORKDIR.value, STEP.value)
    require_writable(epath.Path(WORKDIR.value) / FILE, "--workdir")
    default = ["knn", "linear"] if run.model.classifier is None else ["classifier"]
    protocols = _checked("protocol", PROTOCOL.value or default, PROTOCOLS)
    features_protocols = [name for name in protocols if name != "classifier"]
    dataset = choose_images(
        run.dataset,
        data=DATA.value,
        path=PATH.value,
        split=SPLIT.value,
        test_split=TEST_SPLIT.value,
        needed=("split", "test_split") if features_protocols else ("test_split",),
    )
    dataset = dataclasses.replace(dataset, labels_from_folders=dataset.name == "folder")
    rows = _evaluate_classifier(run, dataset) if "classifier" in protocols else []
    if features_protocols:
        rows += _evaluate_features(run, dataset, kinds, features_protocols)
    rows = [{**row, "step": run.step} for row in rows]
    recorded = add_results(WORKDIR.value, rows)
    if JSON.value:
        print(json.dumps({"workdir": WORKDIR.value, "step": run.step, "results": rows}))
    else:
        for alike in by_images(recorded):
            Console().print(_table(alike))
        print(f"Written to {epath.Path(WORKDIR.value) / 'results.json'}")


def _evaluate_classifier(run: Restored, dataset: Dataset) -> list[dict[str, Any]]:
    if run.model.classifier is None:
        raise UserError(
            f"--protocol=classifier: {WORKDIR.value} has no classifier; leave the flag out, and "
            "its encoder is judged."
        )
    names = run.dataset.class_names
    if names is None and dataset.name != run.dataset.name:
        raise UserError(
            f"Nobody knows the names of the classes that the classifier of {WORKDIR.value} tells "
            f"apart, so it is judged on {run.dataset.name} alone; leave out --data={dataset.name}."
        )
    fitted_on = run.training_images()
    test = dataclasses.replace(dataset, class_names=names).open_test(fitted_on)
    if test is None:
        raise UserError(f"{dataset.name} has no test_split: say which images, --test_split=test.")
    if len(test.class_names) != run.model.classifier.features:
        raise UserError(
            f"The classifier of {WORKDIR.value} tells {run.model.classifier.features} classes "
            f"apart, and {test.name} has {len(test.class_names)}: judge it on its own classes."
        )
    log.info("classifier: %d images of %s ...", len(test), test.name)
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


def _settings() -> dict[str, Any]:
    """Returns the flags that `label_efficiency` takes, checked."""
    try:
        fractions = [float(text) for text in FRACTIONS.value]
    except ValueError:
        raise UserError(f"--fractions={','.join(FRACTIONS.value)} must be numbers.") from None
    return {
        "fractions": [checked("--fractions", value, Fraction) for value in fractions],
        "draws": checked("--draws", DRAWS.value, Count),
        "k": checked("--knn_k", K.value, Count),
        "temperature": checked("--knn_temperature", TEMPERATURE.value, Positive),
    }


def _evaluate_features(
    run: Restored, dataset: Dataset, kinds: Sequence[str], protocols: Sequence[str]
) -> list[dict[str, Any]]:
    settings = _settings()
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
            "%s: %d images of %s to fit on, %d of %s to judge ...",
            kind, len(train), train.name, len(test), test.name,
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
            protocols=protocols,
            **settings,
        )
        rows += [row | what for row in judged]
        rank = float(effective_rank(test_features.features))
        log.info("%s: effective rank %.1f of %d", kind, rank, test_features.features.shape[1])
    return rows


def _checked(flag: str, given: Sequence[str], known: Sequence[str]) -> list[str]:
    for name in given:
        if name not in known:
            raise UserError(
                f"--{flag}={name} is none of {', '.join(known)}.{did_you_mean(name, known)}"
            )
    return list(given)


def _table(rows: Sequence[Row]) -> Table:
    first = rows[0]
    table = Table(
        title=f"Fitted on {first['train_data']}, judged on {first['test_data']}, step "
        f"{first['step']}"
    )
    table.add_column("features")
    table.add_column("protocol")
    for column in ("labels", "top-1", "top-5", "std", "draws"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row["features"],
            row["protocol"],
            f"{row['num_train']} ({row['label_fraction']:.0%})" if "num_train" in row else "",
            f"{row['top1']:.3f}",
            f"{row['top5']:.3f}" if "top5" in row else "",
            f"{row['top1_std']:.3f}" if "top1_std" in row else "",
            str(row["draws"]) if "draws" in row else "",
        )
    return table
