"""Judges a run: its classifier if it has one, or its encoder by kNN and linear probe.

python -m simclr_jax evaluate --workdir=runs/digits
python -m simclr_jax evaluate --workdir=runs/cifar --protocol=knn --fractions=1 --features=encoder
python -m simclr_jax evaluate --workdir=runs/clip --protocol=zero_shot,retrieval
python -m simclr_jax evaluate --workdir=runs/imported --data=tfds/imagenet2012 --path=DIR

Transfer, the encoder on several data sets in one table: --data comes once for each, and --path,
--split and --test_split once for all of them or once for each, in the same order; --path= is none.

python -m simclr_jax evaluate --workdir=runs/cifar --data=tfds/cifar10 --data=digits
    --split=train --test_split=test

How images are read is set as in `train`: --config.data.outage_seconds=3600, label_column and the
like.
"""

import json
from collections.abc import Sequence

from absl import flags
from etils import epath
from rich.console import Console
from rich.table import Table

from simclr_jax.cli import app, own_encoder, reading
from simclr_jax.cli.tables import print_table
from simclr_jax.core.errors import UserError
from simclr_jax.data.sources import SOURCES
from simclr_jax.evals.results import Row, by_images, read_results
from simclr_jax.report.transfer import transfer_table
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
DATA = flags.DEFINE_multi_string(
    "data", [], f"{', '.join(SOURCES)}; several times for several; the run's own if left out."
)
PATH = flags.DEFINE_multi_string("path", [], "The folder or file, or where prepared data sets are.")
SPLIT = flags.DEFINE_multi_string("split", [], "Of --data, the images with labels to fit on.")
TEMPLATES = flags.DEFINE_multi_string(
    "template",
    None,
    "For zero_shot, a caption with {} in place of a class's name; may be given several times.",
)
TEST_SPLIT = flags.DEFINE_multi_string("test_split", [], "Of --data, the images to judge on.")
JSON = flags.DEFINE_bool("json", False, "Prints one JSON object instead of a table.")


def main(argv: Sequence[str]) -> int:
    """Runs the verb; returns its exit code."""
    return reading.run(_evaluate, argv, required=("workdir",))


def _evaluate(settings: reading.Settings) -> None:
    fractions, rows = _fractions(), []
    for images in _images():
        rows += evaluate(
            WORKDIR.value,
            step=STEP.value,
            protocol=PROTOCOL.value,
            features=KINDS.value,
            fractions=fractions,
            draws=DRAWS.value,
            knn_k=K.value,
            knn_temperature=TEMPERATURE.value,
            templates=TEMPLATES.value,
            reading=settings,
            **images,
        )
    if JSON.value:
        step = rows[0]["step"]
        print(json.dumps({"workdir": WORKDIR.value, "step": step, "results": rows}))
    else:
        judged = by_images(read_results(WORKDIR.value))
        for alike in judged:
            Console().print(_table(alike))
        if len(judged) > 1:
            print_table(transfer_table(judged))
        print(f"Written to {epath.Path(WORKDIR.value) / 'results.json'}")


def _images() -> list[dict[str, str | None]]:
    """Returns the flags that name images, for each data set."""
    given = {flag.name: flag.value for flag in (DATA, PATH, SPLIT, TEST_SPLIT)}
    num = max(1, len(DATA.value))
    for name, values in given.items():
        if len(values) not in (0, 1, num):
            raise UserError(
                f"--{name} is given {len(values)} times, and --data {len(DATA.value)} times: give "
                "it once for all data sets, or once for each."
            )
    at = lambda values, i: (values[i if len(values) == num else 0] if values else "") or None
    return [{name: at(values, i) for name, values in given.items()} for i in range(num)]


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
    for column in ("labels", "top-1", "top-5", "std", "draws", "chance"):
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
            f"{row['top1_chance']:.3f}" if "top1_chance" in row else "",
        )
    return table
