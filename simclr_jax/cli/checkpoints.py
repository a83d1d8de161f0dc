"""Lists the checkpoints of a run, and checks every file of each of them.

python -m simclr_jax checkpoints --workdir=runs/digits
"""

import json
from collections.abc import Sequence

from absl import flags
from rich.console import Console
from rich.table import Table

from simclr_jax.cli import app
from simclr_jax.core.errors import UserError
from simclr_jax.train.checkpoint import Checkpoints, Stored

WORKDIR = app.define_workdir()
JSON = flags.DEFINE_bool("json", False, "Prints one JSON object instead of a table.")


def main(argv: Sequence[str]) -> int:
    """Runs the verb; returns its exit code, which is 1 if a checkpoint is damaged."""
    damaged: list[Stored] = []
    code = app.run(lambda: damaged.extend(_checkpoints()), argv, required=("workdir",))
    return code or (app.FAILED if damaged else app.DONE)


def _checkpoints() -> list[Stored]:
    checkpoints = Checkpoints(WORKDIR.value)
    survey = checkpoints.survey()
    if not survey:
        raise UserError(f"{checkpoints.directory} holds no finished checkpoint.")
    if JSON.value:
        rows = [{**stored._asdict(), "condition": str(stored.condition)} for stored in survey]
        print(json.dumps({"workdir": WORKDIR.value, "checkpoints": rows}))
    else:
        Console().print(_table(survey, str(checkpoints.directory)))
    return [stored for stored in survey if stored.condition.damage]


def _table(survey: Sequence[Stored], directory: str) -> Table:
    table = Table(title=directory)
    for column in ("step", "size", "noted"):
        table.add_column(column, justify="right")
    table.add_column("files")
    for stored in survey:
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in stored.metrics.items())
        size = f"{stored.num_bytes / 1e6:,.1f} MB"
        table.add_row(str(stored.step), size, metrics, str(stored.condition))
    return table
