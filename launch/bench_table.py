"""Times every row of `bench` and writes the table on the page about performance.

  python launch/bench_table.py --run --peer_python="$(launch/peer_env.sh)"
  python launch/bench_table.py --run --peer_python=PYTHON --only=loss
  python launch/bench_table.py --write

Rows are kept in launch/bench.json, with their date and machine, as soon as their group is there.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launch.pages import DOCS, replace_between
from simclr_jax.bench.rows import GROUPS, ROWS
from simclr_jax.bench.table import markdown, origin
from simclr_jax.core.files import write_text

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "launch" / "bench.json"
PAGE = DOCS / "performance.md"
START, END = "<!-- bench -->\n", "<!-- /bench -->\n"


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--run", action="store_true", help="time the rows, which takes minutes")
    parser.add_argument("--write", action="store_true", help=f"replace the table in {PAGE.name}")
    parser.add_argument("--only", choices=GROUPS, help="rows of one group")
    parser.add_argument("--peer_python", default="", help="of the programs to compare with")
    given = parser.parse_args()
    for group in ([given.only] if given.only else GROUPS) if given.run else ():
        write_text(KEPT, json.dumps(kept() | timed(group, given.peer_python), indent=1) + "\n")
    if given.write:
        replace_between(PAGE, START, END, section(kept()))
    else:
        print(section(kept()), end="")


def timed(group: str, peer_python: str) -> dict[str, Any]:
    """Runs `bench`; returns its rows by name, each with its date, machine and versions."""
    command = [sys.executable, "-m", "simclr_jax", "bench", group, "--json"]
    run = subprocess.run(
        [*command, f"--peer_python={peer_python}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        check=True,
    )
    answer = json.loads(run.stdout)
    return {row["what"]: {**answer, "rows": [row]} for row in answer["rows"]}


def kept() -> dict[str, Any]:
    """Returns what launch/bench.json holds."""
    return json.loads(KEPT.read_text()) if KEPT.exists() else {}


def section(answers: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns what stands between the two marks: a table for each time and place, as they are."""
    places: dict[str, list[Any]] = {}
    for row in ROWS:
        if row.what in answers:
            answer = answers[row.what]
            places.setdefault(origin(answer), []).extend(answer["rows"])
    missing = [row.what for row in ROWS if row.what not in answers]
    tables = [f"{place}:\n\n{markdown(rows)}\n" for place, rows in places.items()]
    return "".join([*tables, f"Not run: {'; '.join(missing)}.\n" if missing else ""])


if __name__ == "__main__":
    main()
