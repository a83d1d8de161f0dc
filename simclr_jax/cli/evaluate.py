"""Judges a run: its classifier if it has one, or its encoder by kNN and linear probe.

python -m simclr_jax evaluate --workdir=runs/digits
python -m simclr_jax evaluate --workdir=runs/cifar --protocol=knn --fractions=1 --features=encoder
python -m simclr_jax evaluate --workdir=runs/imported --data=tfds/imagenet2012 --path=DIR
"""

import json
from collections.abc import Sequence

from absl import flags
from etils import epath
from rich.console import Console
from rich.table import Table

from simclr_jax.cli import app, own_encoder
from simclr_jax.core.errors import UserError
from simclr_jax.data.sources import SOURCES
from simclr_jax.evals.results import Row, by_images, read_results
from simclr_jax.trained.evaluate import FEATURES, FRACTIONS, PROTOCOLS, evaluate

WORKDIR = app.define_workdir()
STEP = flags.DEFINE_integer("step", None, "Of the checkpoint; the newest whole one if left out.")
own_encoder.define()
PROTOCOL = flags.DEFINE_list(
    "protocol",
    None,
    f"Any of {', '.join(PROTOCOLS)}. By default the classifier, or knn,linear without one.",
)
SHARES = flags.DEFINE_list("fractions", list(map(str, FRACTIONS)), "Shares of the labels to use.")
KINDS = flags.DEFINE_list("features", list(FEATURES), f"Any of {', '.join(FEATURES)}.")
DRAWS = flags.DEFINE_integer("draws", 10, "Draws of labels for each fraction below 1.")
K = flags.DEFINE_integer("knn_k", 200, "Neighbours that vote, at most the labels per class.")
TEMPERATURE = flags.DEFINE_float("knn_temperature", 0.1, "Of the votes of neighbours.")
DATA = flags.DEFINE_string("data", None, f"{', '.join(SOURCES)}; the run's own if left out.")
PATH = flags.DEFINE_string("path", None, "The folder or file, or where prepared data sets are.")
SPLIT = flags.DEFINE_string("split", None, "Of --data, the images with labels to fit on.")
TEST_SPLIT = flags.DEFINE_string("test_split", None, "Of --data, the images to judge on.")
JSON = flags.DEFINE_bool("json", False, "Prints one JSON object instead of a table.")


def main(argv: Sequence[str]) -> int:
    """Runs the verb; returns its exit code."""
    return app.run(_evaluate, argv, required=("workdir",))


def _evaluate() -> None:
    rows = evaluate(
        WORKDIR.value,
        step=STEP.value,
        protocol=PROTOCOL.value,
        features=KINDS.value,
        fractions=_fractions(),
        draws=DRAWS.value,
        knn_k=K.value,
        knn_temperature=TEMPERATURE.value,
        data=DATA.value,
        path=PATH.value,
        split=SPLIT.value,
        test_split=TEST_SPLIT.value,
    )
    if JSON.value:
        step = rows[0]["step"]
        print(json.dumps({"workdir": WORKDIR.value, "step": step, "results": rows}))
    else:
        for alike in by_images(read_results(WORKDIR.value)):
            Console().print(_table(alike))
        print(f"Written to {epath.Path(WORKDIR.value) / 'results.json'}")


def _fractions() -> list[float]:
    try:
        return [float(text) for text in SHARES.value]
    except ValueError:
        raise UserError(f"--fractions={','.join(SHARES.value)} must be numbers.") from None


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
