"""Compares groups of images: accuracy, neighbours and similarity, with intervals of the gaps.

The CSV file has the columns name and group, with names as `embed` writes them.

python -m simclr_jax bias --workdir=runs/mine --groups=scanners.csv
"""

import json
from collections.abc import Sequence

from absl import flags
from etils import epath

from simclr_jax.cli import app, own_encoder, reading
from simclr_jax.cli.tables import print_table
from simclr_jax.data.sources import SOURCES
from simclr_jax.report.groups import groups_table
from simclr_jax.trained.groups import FILE, judge_groups

WORKDIR = app.define_workdir()
STEP = flags.DEFINE_integer("step", None, "Of the checkpoint; the newest whole one if left out.")
own_encoder.define()
GROUPS = app.define_path("groups", "CSV file with the columns name,group.")
DATA = flags.DEFINE_string("data", None, f"{', '.join(SOURCES)}; the run's own if left out.")
PATH = flags.DEFINE_string("path", None, "The folder or file, or where prepared data sets are.")
SPLIT = flags.DEFINE_string("split", None, "Of --data, the images with labels to fit on.")
TEST_SPLIT = flags.DEFINE_string("test_split", None, "Of --data, the images in groups.")
JSON = flags.DEFINE_bool("json", False, "Prints one JSON object instead of a table.")


def main(argv: Sequence[str]) -> int:
    """Runs the verb; returns its exit code."""
    return reading.run(_bias, argv, required=("workdir", "groups"))


def _bias(settings: reading.Settings) -> None:
    found = judge_groups(
        WORKDIR.value,
        GROUPS.value,
        step=STEP.value,
        data=DATA.value,
        path=PATH.value,
        split=SPLIT.value,
        test_split=TEST_SPLIT.value,
        reading=settings,
    )
    if JSON.value:
        print(json.dumps(found))
        return
    print_table(groups_table(found))
    print(f"Written to {epath.Path(WORKDIR.value) / FILE}")
