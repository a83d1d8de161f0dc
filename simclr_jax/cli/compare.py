"""Puts runs side by side, from what their workdirs hold: training, accuracy, settings that differ.

Nothing is judged anew: what a workdir lacks is a dash, with the command that makes it.

python -m simclr_jax compare --workdir=runs/simclr --workdir=runs/byol --output=methods.html
python -m simclr_jax compare --workdir=runs/{simclr,byol,dino} --json
"""

import json
from collections.abc import Sequence

from absl import flags
from etils import epath

from simclr_jax.cli import app
from simclr_jax.cli.tables import print_table
from simclr_jax.core.errors import UserError
from simclr_jax.core.files import expand_workdir, require_writable
from simclr_jax.report.comparison import (
    facts,
    missing,
    read_runs,
    settings_that_differ,
    tables,
    write_comparison,
)

WORKDIRS = app.define_paths("workdir", "Directory of a run or an import.", expand_workdir)
OUTPUT = app.define_path("output", "The .html file to write; none if left out.")
JSON = flags.DEFINE_bool("json", False, "Prints one JSON object instead of tables.")


def main(argv: Sequence[str]) -> int:
    """Runs the verb; returns its exit code."""
    return app.run(_compare, argv, required=("workdir",))


def _compare() -> None:
    output = epath.Path(OUTPUT.value) if OUTPUT.value else None
    if output is not None and output.suffix != ".html":
        raise UserError(f"--output={output} must end in .html.")
    if output is not None:
        require_writable(output, "--output")
    runs = read_runs(WORKDIRS.value)
    if output is not None:
        write_comparison(runs, output)
    if JSON.value:
        rows = [{**facts(run), "results": run.results} for run in runs]
        settings = settings_that_differ(runs)
        print(json.dumps({"runs": rows, "settings": settings, "missing": missing(runs)}))
        return
    for table in tables(runs):
        print_table(table)
    if commands := missing(runs):
        print("What makes the dashes:", *commands, sep="\n  ")
    if output is not None:
        print(f"Written to {output}")
