"""Puts runs side by side, from what their workdirs hold: training, accuracy, settings that differ.

Nothing is judged anew: what a workdir lacks is a dash, with the command that makes it.

python -m simclr_jax compare --workdir=runs/simclr --workdir=runs/byol --output=methods.html
python -m simclr_jax compare --workdir=runs/{simclr,byol,dino} --json
"""

import json
from collections.abc import Sequence

import rich.box
import rich.table
from absl import flags
from etils import epath
from rich.console import Console
from rich.text import Text

from simclr_jax.cli import app
from simclr_jax.core.errors import UserError
from simclr_jax.core.files import expand_workdir, require_writable
from simclr_jax.report.comparison import (
    Table,
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
        _print(table)
    if commands := missing(runs):
        print("What makes the dashes:", *commands, sep="\n  ")
    if output is not None:
        print(f"Written to {output}")


def _print(table: Table) -> None:
    shown = rich.table.Table(title=Text(table.title), box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for i, head in enumerate(table.heads):
        if i < table.first_number:
            shown.add_column(Text(head), overflow="fold")
        else:  # no number is broken over lines
            longest = max(map(len, [*head.split(), *(row[i] for row in table.rows)]))
            shown.add_column(Text(head), justify="right", min_width=longest)
    for row in table.rows:
        shown.add_row(*map(Text, row))
    console = Console()
    # A figure that is cut off reads as another one: rather lines that are too long.
    width = max(console.width, console.measure(shown).minimum)
    console.print(shown, width=width, crop=False)
    console.print(*map(Text, table.notes), sep="\n")
