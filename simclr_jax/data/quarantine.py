"""The list of images that could not be read, so that they are known and not only missing."""

import json
import logging
from typing import NamedTuple

from etils import epath

from simclr_jax.core.errors import UserError
from simclr_jax.core.files import append_lines, reason, write_text

log = logging.getLogger(__name__)


class Unreadable(NamedTuple):
    """One image that could not be read: its index in the source, its name, and why."""

    id: int
    name: str
    reason: str


class Quarantine:
    """Collects unreadable images, each once, and writes them as JSON lines while they come.

    A resumed run reads its file first, so that nothing is written twice and the count goes on.
    Lines stand in the order of the data, not in that in which threads met the images. Where
    several processes load, process 0 writes `path` and process P writes STEM.P.jsonl beside it,
    each for its own rows.

    Attributes:
      entries: the images so far, by name.
    """

    def __init__(self, path: epath.PathLike | None = None, *, process_index: int = 0):
        self.entries: dict[str, Unreadable] = {}
        self._unwritten: list[str] = []  # the disk was full
        self._path = None if path is None else epath.Path(path)
        if self._path is None:
            return
        if process_index:
            self._path = self._path.with_suffix(f".{process_index}{self._path.suffix}")
        if self._path.exists():
            self._read(self._path)

    @property
    def count(self) -> int:
        """Returns how many different images could not be read."""
        return len(self.entries)

    def add(self, unreadable: Unreadable) -> None:
        """Notes an image, unless it is known already."""
        if unreadable.name in self.entries:
            return
        self.entries[unreadable.name] = unreadable
        if self._path is None:
            return
        self._unwritten.append(json.dumps(unreadable._asdict()))
        try:
            append_lines(self._path, self._unwritten)
        except OSError as error:  # it waits for the next one, and is counted all the same
            log.warning("%s waits: %s.", self._path, reason(error))
        else:
            self._unwritten = []

    def _read(self, path: epath.Path) -> None:
        text = path.read_text()
        whole, _, torn = text.rpartition("\n")
        try:
            for line in whole.splitlines():
                entry = Unreadable(**json.loads(line))
                self.entries[entry.name] = entry
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{path} is no list of unreadable images ({error}); move it away and start again."
            ) from error
        if torn:  # the process died while it wrote this line; the image will come again
            write_text(path, whole + "\n" if whole else "")
