"""D/results.json: a row for each figure, which says what was judged on which images."""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from etils import epath

from simclr_jax.core.errors import UserError
from simclr_jax.core.files import read_json, write_text

log = logging.getLogger(__name__)
Row: TypeAlias = Mapping[str, Any]
FILE = "results.json"
CURE = "Move it away, and judge again."
IMAGES = ("train_data", "test_data")
OF_FEATURES = ("knn", "linear")  # protocols that fit on a share of the labels


def read_results(workdir: epath.PathLike) -> list[Row]:
    """Returns the rows of D/results.json, none if nothing was judged yet.

    Raises:
      UserError: if the file is damaged.
    """
    path = epath.Path(workdir) / FILE
    rows = read_json(path, CURE) if path.exists() else []
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path} is damaged: it is no list of rows. {CURE}")
    known = [row for row in rows if all(key in row for key in IMAGES)]
    if len(known) < len(rows):
        log.warning(
            "%d rows of %s do not say which images they are about, and are left out; judge again.",
            len(rows) - len(known), path,
        )  # fmt: skip
    for row in known:
        if row.get("protocol") in OF_FEATURES and "label_fraction" not in row:
            raise UserError(f"{path} is damaged: {row} has no label_fraction. {CURE}")
    return known


def add_results(workdir: epath.PathLike, rows: Sequence[Row]) -> list[Row]:
    """Writes rows beside those that are in D/results.json, and returns all.

    A row takes the place of what was judged in the same way on the same images, and of all that
    was judged on them at another step. Rows on other images stay.
    """
    kept = [row for row in read_results(workdir) if not _replaced(row, rows)]
    write_text(epath.Path(workdir) / FILE, json.dumps([*kept, *rows], indent=2) + "\n")
    return [*kept, *rows]


def own_first(rows: Sequence[Row], own: str | None) -> list[Row]:
    """Returns the rows with those on the run's own test images first, else in their order.

    Args:
      rows: as `read_results` gives them, where what was judged last is last.
      own: name of the run's own test images, None if it has none.
    """
    return sorted(rows, key=lambda row: own is None or row["test_data"] != own)


def by_images(rows: Sequence[Row]) -> list[list[Row]]:
    """Returns the rows grouped by the images that they were fitted and judged on, in order."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in IMAGES), []).append(row)
    return list(groups.values())


def _replaced(old: Row, rows: Sequence[Row]) -> bool:
    def replaces(new: Row) -> bool:
        alike = ("protocol", "features", "label_fraction")
        return all(old[key] == new[key] for key in IMAGES) and (
            old["step"] != new["step"] or all(old.get(key) == new.get(key) for key in alike)
        )

    return any(map(replaces, rows))
