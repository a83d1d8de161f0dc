"""Trains and judges a run for each value of a setting, and shows what the setting does.

python -m simclr_jax sweep --config=simclr_digits --workdir=runs/color
    --key=augment.color_strength --values=0,0.25,0.5,1 --seeds=0,1

Each run has a directory below --workdir. Those that are done are left as they are, and one that was
stopped goes on: give the same command again. One that fails, as one that diverges, does not keep
the others from being made; the exit code is then 1. With --key=augment.min_area,
--values=0.08,0.2,0.5 it finds how much of an image the views should share.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags
from etils import epath

from simclr_jax.cli import app, recipe
from simclr_jax.cli.tables import print_table
from simclr_jax.core.errors import PartlyFailedError, UserError
from simclr_jax.report.sweep import as_row, failures, sweep_table
from simclr_jax.sweeps import PAGE, sweep
from simclr_jax.trained.evaluate import FRACTIONS

CONFIG = recipe.define("simclr_digits")
KEY = flags.DEFINE_string("key", "", "Setting that differs, such as augment.color_strength.")
VALUES = flags.DEFINE_list("values", [], "Its values, as --config.KEY=VALUE takes them.")
SEEDS = flags.DEFINE_list("seeds", [], "Runs of each value; the recipe's own seed if left out.")
SHARES = flags.DEFINE_list("fractions", list(map(str, FRACTIONS)), "Shares of the labels to use.")
WORKDIR = app.define_workdir("Directory of the sweep; each run has one in it.")
JSON = flags.DEFINE_bool("json", False, "Prints one JSON object instead of a table.")


def main(argv: Sequence[str]) -> int:
    """Runs the verb; returns its exit code."""
    return app.run(_sweep, argv, required=("config", "key", "values", "workdir"))


def _sweep() -> None:
    key = KEY.value.removeprefix("config.")
    given = CONFIG()
    points = sweep(
        lambda value: given.changed(key, value).config,
        key=key,
        values=VALUES.value,
        seeds=_numbers("seeds", SEEDS.value, int),
        workdir=WORKDIR.value,
        fractions=_numbers("fractions", SHARES.value, float),
    )
    if JSON.value:
        print(json.dumps({"key": key, "runs": [*map(as_row, points)]}))
    else:
        print_table(sweep_table(key, points))
        print(f"Written to {epath.Path(WORKDIR.value) / PAGE}")
    if failed := failures(key, points):
        raise PartlyFailedError(
            f"{len(failed)} of {len(points)} runs failed:\n" + "\n".join(failed) + "\nThe others "
            "are done. The same command tries these again; other --values leave them out."
        )


def _numbers(flag: str, texts: Sequence[str], kind: Callable[[str], Any]) -> list[Any]:
    try:
        return [kind(text) for text in texts]
    except ValueError:
        raise UserError(f"--{flag}={','.join(texts)} must be numbers, such as 0,1.") from None
