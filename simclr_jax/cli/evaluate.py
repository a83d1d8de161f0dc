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

from simclr_jax.cli import app, restored
from simclr_jax.core.errors import UserError, did_you_mean
from simclr_jax.core.sections import build_section
from simclr_jax.core.types import Batch
from simclr_jax.data.dataset import Dataset
from simclr_jax.evals.classifier import classifier_accuracy
from simclr_jax.evals.features import extract_features
from simclr_jax.evals.label_efficiency import label_efficiency
from simclr_jax.evals.representation import effective_rank

log = logging.getLogger(__name__)
PROTOCOLS = ("classifier", "knn", "linear")
FEATURES = ("pixels", "random_encoder", "encoder")

WORKDIR = flags.DEFINE_string("workdir", "", "Directory of the run.")
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
    run = restored.load(WORKDIR.value)
    default = ["knn", "linear"] if run.model.classifier is None else ["classifier"]
    protocols = _checked("protocol", PROTOCOL.value or default, PROTOCOLS)
    if DATA.value is not None:
        data = {
            "name": DATA.value,
            "path": PATH.value,
            "labels_from_folders": DATA.value == "folder",
        }
        run = dataclasses.replace(run, dataset=dataclasses.replace(run.dataset, **data))
    splits = {"split": SPLIT.value, "test_split": TEST_SPLIT.value}
    dataset = dataclasses.replace(run.dataset, **{k: v for k, v in splits.items() if v})
    run = dataclasses.replace(run, dataset=dataset)
    rows = _evaluate_classifier(run) if "classifier" in protocols else []
    if features_protocols := [name for name in protocols if name != "classifier"]:
        rows += _evaluate_features(run, kinds, features_protocols)
    rows = [{**row, "step": run.step} for row in rows]
    path = epath.Path(WORKDIR.value) / "results.json"
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(rows, indent=2) + "\n")
    unfinished.replace(path)
    if JSON.value:
        print(json.dumps({"workdir": WORKDIR.value, "step": run.step, "results": rows}))
    else:
        Console().print(_table(rows))
        print(f"Written to {path}")


def _evaluate_classifier(run: restored.Restored) -> list[dict[str, Any]]:
    if run.model.classifier is None or run.dataset.test_split is None:
        lacking = "test_split" if run.model.classifier is not None else "classifier"
        raise UserError(f"--protocol=classifier: {WORKDIR.value} has no {lacking}.")
    test = run.dataset.open(run.dataset.test_split)
    if len(test.class_names) != run.model.classifier.features:
        raise UserError(
            f"The classifier of {WORKDIR.value} tells {run.model.classifier.features} classes "
            f"apart, and {test.name} has {len(test.class_names)}: judge it on its own classes."
        )
    log.info("classifier: %d test images ...", len(test))
    batches = run.dataset.eval_batches(test, run.network.evaluation.cuts)
    accuracy = classifier_accuracy(run.classify, batches, run.mesh)
    return [{"protocol": "classifier", "features": "encoder", **_labels_used(run), **accuracy}]


def _labels_used(run: restored.Restored) -> dict[str, Any]:
    if "method" not in run.config:  # of an import nobody knows
        return {}
    if "teacher" in run.config["method"]:
        return {"label_fraction": 0.0, "num_train": 0}
    dataset = build_section("config.data", Dataset, run.config["data"])
    return {"label_fraction": dataset.fraction, "num_train": len(dataset.open_train())}


def _evaluate_features(
    run: restored.Restored, kinds: Sequence[str], protocols: Sequence[str]
) -> list[dict[str, Any]]:
    try:
        fractions = [float(text) for text in FRACTIONS.value]
    except ValueError:
        raise UserError(f"--fractions={FRACTIONS.value} must be numbers in (0, 1].") from None
    train, test = run.labelled_sources()
    encoders: dict[str, Callable[[Batch], jax.Array]] = {"encoder": run.encode}
    if "pixels" in kinds:
        encoders["pixels"] = run.network.pixels
    if "random_encoder" in kinds:
        encoders["random_encoder"] = run.encode_at_random_initialisation()
    rows = []
    for kind in kinds:
        log.info("%s: %d training and %d test images ...", kind, len(train), len(test))
        train_features, test_features = (
            extract_features(
                encoders[kind],
                run.dataset.eval_batches(source, run.network.evaluation.cuts),
                run.mesh,
            )
            for source in (train, test)
        )
        rows += label_efficiency(
            train_features,
            test_features,
            name=kind,
            num_classes=len(train.class_names),
            fractions=fractions,
            draws=DRAWS.value,
            protocols=protocols,
            k=K.value,
            temperature=TEMPERATURE.value,
        )
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


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="Top-1 accuracy on the test images")
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
