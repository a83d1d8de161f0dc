"""Says which images to label next, from their features, in a CSV file of their names.

python -m simclr_jax select --workdir=runs/mine --count=100 --output=next.csv
python -m simclr_jax select --workdir=runs/mine --count=100 --labelled=next.csv --output=then.csv
python -m simclr_jax select --workdir=runs/digits --count=50 --curve=10,20,50,100

With labels, --curve says what a linear probe fitted on so many chosen labels is worth on the test
images, beside as many random ones: mean and standard deviation over --draws.
"""

import csv
import io
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import flags
from etils import epath

from simclr_jax.cli import app, own_encoder, reading
from simclr_jax.cli.tables import print_table
from simclr_jax.core.errors import UserError
from simclr_jax.core.files import read_table, require_writable, write_text
from simclr_jax.core.ranges import Count
from simclr_jax.core.sections import checked
from simclr_jax.data.dataset import Dataset
from simclr_jax.data.records import Source
from simclr_jax.data.sources import SOURCES
from simclr_jax.evals.selection import (
    METHODS,
    choose,
    learning_curve,
    require_count,
    require_counts,
    require_method,
)
from simclr_jax.report.tables import Table
from simclr_jax.trained import restored
from simclr_jax.trained.embedding import Embedded, embed, images_of
from simclr_jax.trained.images import choose_images

WORKDIR = app.define_workdir()
STEP = flags.DEFINE_integer("step", None, "Of the checkpoint; the newest whole one if left out.")
own_encoder.define()
COUNT = flags.DEFINE_integer("count", 0, "How many images to choose.")
METHOD = flags.DEFINE_string("method", METHODS[0], f"One of {', '.join(METHODS)}.")
SEED = flags.DEFINE_integer("seed", 0, "Of the first image, or of a random choice.", lower_bound=0)
DATA = flags.DEFINE_string("data", None, f"{', '.join(SOURCES)}; the run's own if left out.")
PATH = flags.DEFINE_string("path", None, "The folder or file, or where prepared data sets are.")
SPLIT = flags.DEFINE_string("split", None, "Which images; of another folder all.")
TEST_SPLIT = flags.DEFINE_string("test_split", None, "Images that --curve judges on.")
LABELLED = app.define_path("labelled", "CSV file whose column name says which have labels already.")
CURVE = flags.DEFINE_list("curve", [], "Numbers of labels to judge by a linear probe.")
DRAWS = flags.DEFINE_integer("draws", 5, "Choices of each kind for --curve.")
OUTPUT = app.define_path("output", "The .csv file to write; D/selected.csv if left out.")
JSON = flags.DEFINE_bool("json", False, "Prints one JSON object instead of a table.")


def main(argv: Sequence[str]) -> int:
    """Runs the verb; returns its exit code."""
    return reading.run(_select, argv, required=("workdir", "count"))


def _select(settings: reading.Settings) -> None:
    output = epath.Path(OUTPUT.value or epath.Path(WORKDIR.value) / "selected.csv")
    run = restored.load(WORKDIR.value, STEP.value)
    require_writable(output, "--output")
    where = {"data": DATA.value, "path": PATH.value, "split": SPLIT.value, "reading": settings}
    dataset = images_of(run, **where)
    labelled = read_table(LABELLED.value, "--labelled", ["name"]) if LABELLED.value else []
    source = dataset.open(dataset.split)
    require_method(METHOD.value)
    num_free = max(0, len(source) - len({row["name"] for row in labelled}))
    require_count(COUNT.value, num_free, len(source))
    judging = _judging(run, source, where) if CURVE.value else None
    pool = embed(run, dataset, source)
    known = _indices([row["name"] for row in labelled], pool.names)
    chosen = choose(
        pool.features.features, COUNT.value, method=METHOD.value, seed=SEED.value, known=known
    )
    names = [pool.names[i] for i in chosen]
    rows = _curve(run, pool, judging) if judging else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([("name",), *((name,) for name in names)])
    write_text(output, text.getvalue())
    if JSON.value:
        print(json.dumps({"output": str(output), "names": names, "curve": rows}))
        return
    if rows:
        print_table(_table(rows))
    print(f"{output}: {len(names)} of {len(pool.names)} {run.examples} of {pool.source.name}")


def _indices(labelled: Sequence[str], names: Sequence[str]) -> list[int]:
    """Returns which images the lines of --labelled name."""
    index = {name: i for i, name in enumerate(names)}
    if unknown := [name for name in labelled if name not in index]:
        raise UserError(
            f"--labelled={LABELLED.value}: {len(unknown)} of {len(labelled)} lines name no image, "
            f"such as {unknown[0]!r}; names are as {names[0]!r}."
        )
    return [index[name] for name in labelled]


class _Judging(NamedTuple):
    """What --curve asks for: numbers of labels, draws, and the images to judge on."""

    counts: Sequence[int]
    draws: int
    dataset: Dataset
    test: Source


def _judging(run: restored.Restored, pool: Source, where: dict[str, Any]) -> _Judging:
    try:
        counts = [checked("--curve", int(text), Count) for text in CURVE.value]
    except ValueError:
        raise UserError(f"--curve={','.join(CURVE.value)} must be whole numbers.") from None
    require_counts(counts, len(pool))
    draws, needed = checked("--draws", DRAWS.value, Count), ("test_split",)
    dataset = choose_images(run.dataset, **where, test_split=TEST_SPLIT.value, needed=needed)
    test = dataset.open_test(pool)
    if test is None or not test.class_names:
        raise UserError("--curve needs labelled images to judge on: say which, --test_split=test.")
    return _Judging(counts, draws, dataset, test)


def _curve(run: restored.Restored, pool: Embedded, judging: _Judging) -> list[dict[str, Any]]:
    return learning_curve(
        pool.features,
        embed(run, judging.dataset, judging.test).features,
        judging.counts,
        method=METHOD.value,
        num_classes=len(judging.test.class_names),
        draws=judging.draws,
    )


def _table(rows: Sequence[dict[str, Any]]) -> Table:
    methods = list(dict.fromkeys(row["method"] for row in rows))
    lines = []
    for count in dict.fromkeys(row["count"] for row in rows):
        cells = {row["method"]: row for row in rows if row["count"] == count}
        shown = lambda row: f"{100 * row['top1']:.1f}\u00b1{100 * row['top1_std']:.1f}"
        lines.append([f"{count}", *(shown(cells[method]) for method in methods)])
    notes = ["Top-1 of a linear probe in %, mean and standard deviation over draws."]
    return Table("Accuracy by labels", ["labels", *methods], lines, 0, notes)
