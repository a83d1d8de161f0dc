"""The comparison of groups of images, as a table for the terminal and the page."""

from collections.abc import Mapping, Sequence
from typing import Any

from simclr_jax.report.tables import Table

PERCENT = ("kNN", "linear probe", "class purity", "group purity")
NOTES = (
    "kNN, linear probe: accuracy in %, fitted on all labels. Class and group purity: share in % of "
    "the 10 nearest other images that are of an image's class or group. Similarity: mean cosine "
    "with the other images of its group.",
    "Gap: the group's mean less that of all other images; in brackets the interval that holds 95 % "
    "of bootstrap samples. *: it does not hold 0.",
)


def groups_table(found: Mapping[str, Any]) -> Table:
    """Returns a row for each group and measure of what `trained.groups` found."""
    rows = [_cells(row) for row in found["groups"]]
    title = f"Groups of {found['test_data']}, step {found['step']}"
    heads = ["group", "measure", "images", "mean", "gap", "95 %"]
    return Table(title, heads, rows, 2, NOTES)


def _cells(row: Mapping[str, Any]) -> Sequence[str]:
    scale, digits = (100, 1) if row["measure"] in PERCENT else (1, 3)
    shown = lambda value: f"{scale * value:+.{digits}f}"
    star = "" if row["low"] <= 0 <= row["high"] else " *"
    interval = f"[{shown(row['low'])}, {shown(row['high'])}]{star}"
    mean = f"{scale * row['mean']:.{digits}f}"
    return [row["group"], row["measure"], f"{row['num']:,}", mean, shown(row["gap"]), interval]
