"""Judges the encoder of a run by kNN and linear probe, with all labels and with few.

python -m simclr_jax evaluate --workdir=runs/digits
python -m simclr_jax evaluate --workdir=runs/cifar --protocol=knn --fractions=1 --features=encoder
"""

import json
import logging
from collections.abc import Callable, Sequence
from typing import Any

import jax
from absl import flags
from etils import epath
from rich.console import Console
from rich.table import Table

from simclr_jax.cli import app, trained
from simclr_jax.core.errors import UserError, nearest
from simclr_jax.core.types import Batch
from simclr_jax.evals.features import extract_features
from simclr_jax.evals.label_efficiency import label_efficiency
from simclr_jax.evals.representation import effective_rank

log = logging.getLogger(__name__)
PROTOCOLS = ("knn", "linear")
FEATURES = ("pixels", "random_encoder", "encoder")

WORKDIR = flags.DEFINE_string("workdir", "", "Directory of the run.")
PROTOCOL = flags.DEFINE_list("protocol", list(PROTOCOLS), f"Any of {', '.join(PROTOCOLS)}.")
FRACTIONS = flags.DEFINE_list("fractions", ["0.01", "0.1", "1"], "Shares of the labels to use.")
KINDS = flags.DEFINE_list("features", list(FEATURES), f"Any of {', '.join(FEATURES)}.")
DRAWS = flags.DEFINE_integer("draws", 10, "Draws of labels for each fraction below 1.")
K = flags.DEFINE_integer("knn_k", 200, "Neighbours that vote, at most the labels per class.")
TEMPERATURE = flags.DEFINE_float("knn_temperature", 0.1, "Of the votes of neighbours.")
JSON = flags.DEFINE_bool("json", False, "Prints one JSON object instead of a table.")


def main(argv: Sequence[str]) -> int:
    """Runs the verb; returns its exit code."""
    return app.run(_evaluate, argv, required=("workdir",))


def _evaluate() -> None:
    kinds = _checked("features", KINDS.value, FEATURES)
    protocols = _checked("protocol", PROTOCOL.value, PROTOCOLS)
    try:
        fractions = [float(text) for text in FRACTIONS.value]
    except ValueError:
        raise UserError(f"--fractions={FRACTIONS.value} must be numbers in (0, 1].") from None
    run = trained.load(WORKDIR.value)
    train, test = run.labelled_sources()
    encoders: dict[str, Callable[[Batch], jax.Array]] = {"encoder": run.encode}
    if "pixels" in kinds:
        encoders["pixels"] = run.parts.pixels
    if "random_encoder" in kinds:
        encoders["random_encoder"] = run.encode_at_random_initialisation()
    rows = []
    for kind in kinds:
        log.info("%s: %d training and %d test images ...", kind, len(train), len(test))
        train_features, test_features = (
            extract_features(encoders[kind], run.parts.dataset.eval_batches(source), run.parts.mesh)
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


def _checked(flag: str, given: Sequence[str], known: Sequence[str]) -> list[str]:
    for name in given:
        if name not in known:
            raise UserError(f"--{flag}={name} is none of {', '.join(known)}.{nearest(name, known)}")
    return list(given)


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(title="Top-1 accuracy on the test images")
    table.add_column("features")
    table.add_column("protocol")
    for column in ("labels", "top-1", "std", "draws"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row["features"],
            row["protocol"],
            f"{row['num_train']} ({row['label_fraction']:.0%})",
            f"{row['top1']:.3f}",
            f"{row['top1_std']:.3f}",
            str(row["draws"]),
        )
    return table
