"""Where metrics go: D/metrics.jsonl (one object a logged step) and D/tensorboard/."""

import json
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import UInt8

from simclr_jax.core.errors import UserError
from simclr_jax.core.files import append_lines, in_a_bucket, reason, write_text
from simclr_jax.train.tensorboard import TensorBoard

log = logging.getLogger(__name__)


class MetricsWriter:
    """Collects the values of a step and writes them as one line and one set of scalars.

    After a resume the lines after the checkpoint are dropped, so that no step appears twice, and so
    is a line that a killed process left half written. Where several processes train, only one of
    them writes. In a bucket there are no files for TensorBoard.
    """

    def __init__(self, workdir: str, *, writes: bool = True) -> None:
        """Names the workdir; no file is touched before `open`, and none without `writes`."""
        self._workdir = epath.Path(workdir)
        self._path = self._workdir / "metrics.jsonl"
        self._writes = writes
        self._board: TensorBoard | None = None
        self._unwritten: list[str] = []  # the disk was full
        self.last_row: dict[str, Any] = {}  # written, by this run or by the one that it resumes
        self.pending: dict[str, float] = {}  # waits for `write`

    def open(self, *, first_step: int) -> None:
        """Opens the files of a run that starts, or goes on, at `first_step`."""
        if not self._writes:
            return
        rows = rewind(self._path, first_step)
        self.last_row = rows[-1] if rows else {}
        if in_a_bucket(self._workdir):
            log.info("No files for TensorBoard in a bucket; %s has all values.", self._path)
            return
        self._board = TensorBoard(self._workdir / "tensorboard", first_step=first_step)

    def add(self, **values: float) -> None:
        """Adds values to the line of the current step, which `write` closes.

        "eval_seconds" is time that training stood still; it does not count as throughput.
        """
        self.pending |= values

    def write(self, step: int, values: Mapping[str, float]) -> dict[str, Any]:
        """Writes the line of `step`: `values` and what was added before. Returns it."""
        row = {"step": step, **values, **self.pending}
        self.pending, self.last_row = {}, row
        if not self._writes:
            return row
        self._unwritten.append(json.dumps(row))
        self._flush()
        if self._board is not None:
            self._board.scalars({name: row[name] for name in row if name != "step"}, step)
        return row

    def write_image(self, name: str, image: np.ndarray, step: int) -> None:
        """Shows one uint8 [h, w, 3] picture in TensorBoard."""
        if self._board is not None:
            self._board.image(name, image, step)

    def close(self) -> None:
        """Writes what is left and closes the files."""
        if self._board is not None:
            self._board.close()
        if self._unwritten and not self._flush():
            log.error("%d lines of %s are lost.", len(self._unwritten), self._path)

    def _flush(self) -> bool:
        """Writes the lines that wait, all or none; returns whether that went well."""
        try:
            append_lines(self._path, self._unwritten)
        except OSError as error:
            if len(self._unwritten) == 1:
                log.warning("%s waits: %s.", self._path, reason(error))
            return False
        self._unwritten = []
        return True


def read_metrics(workdir: epath.PathLike) -> list[dict[str, Any]]:
    """Returns the rows of D/metrics.jsonl; a torn last line is left out.

    Raises:
      UserError: if another line is no row.
    """
    return read_rows(epath.Path(workdir) / "metrics.jsonl")


def rewind(path: epath.Path, first_step: int) -> list[dict[str, Any]]:
    """Drops the rows after a step, and a torn one, from such a file; returns the others."""
    rows = [row for row in read_rows(path) if row["step"] <= first_step]
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return rows


def read_rows(path: epath.Path) -> list[dict[str, Any]]:
    """Returns the rows of a file with one for each step; a torn last line is left out.

    Raises:
      UserError: if another line is no row.
    """
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            rows.append({**row, "step": int(row["step"])})
        except (ValueError, KeyError, TypeError, RecursionError):
            if number < len(lines):  # what stands behind the last line break is torn, or nothing
                raise UserError(
                    f"{path} is damaged: line {number} is no row of {path.stem}: {line[:80]!r}. "
                    "Remove that line, or bring a copy of the file back; without the file a run "
                    "goes on, and its rows begin there."
                ) from None
    return rows


def view_sheet(views: UInt8[np.ndarray, "m v h w 3"]) -> UInt8[np.ndarray, "rows columns 3"]:
    """Lays augmented views out as a picture: one image a column, its views below each other."""
    m, v, h, w, c = views.shape
    return views.transpose(1, 2, 0, 3, 4).reshape(v * h, m * w, c)
