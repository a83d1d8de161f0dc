"""The list of images that could not be read, so that they are known and not just missing."""

import json
import logging
import math
from typing import NamedTuple

from etils import epath

from simclr_jax.core.errors import UserError
from simclr_jax.core.files import append_lines, reason, write_text
from simclr_jax.data.records import Source, examples_of

log = logging.getLogger(__name__)


class Unreadable(NamedTuple):
    """One image that could not be read: its index in the source, its name, and why."""

    id: int
    name: str
    reason: str


class TooManyUnreadableError(UserError):
    """More images of a run cannot be read than its config allows."""

    def __init__(self, count: int, source: Source, last: Unreadable) -> None:
        """Says how many, of which data set, and which one was too many."""
        super().__init__(
            f"{count} of the {len(source)} {examples_of(source)} of {source.name} cannot be read, "
            f"which is more than config.data.max_unreadable allows; the last one, {last.name}: "
            f"{last.reason}. Mend or remove them, or go on without them: "
            "--config.data.max_unreadable=1 allows any share."
        )


def most_unreadable(share: float, num_examples: int) -> int:
    """Returns how many images of a data set may be unreadable; one at least must be readable."""
    return min(math.floor(share * num_examples + 1e-6), num_examples - 1)


class Quarantine:
    """Collects unreadable images, each once, and writes them as JSON lines while they come.

    A resumed run reads its file first, so that nothing is written twice and the count goes on.
    Lines stand in the order of the data, not in that in which threads met the images. Where
    several processes load, process 0 writes `path` and process P writes STEM.P.jsonl beside it,
    each for its own rows.

    Attributes:
      entries: the images so far, by name.
      met: those among them that were added since this start, by index in the source.
      path: the file; None where there is none.
    """

    def __init__(self, path: epath.PathLike | None = None, *, process_index: int = 0):
        self.entries: dict[str, Unreadable] = {}
        self.met: dict[int, Unreadable] = {}
        self._unwritten: list[str] = []  # the disk was full
        self.path = None if path is None else epath.Path(path)
        if self.path is None:
            return
        if process_index:
            self.path = self.path.with_suffix(f".{process_index}{self.path.suffix}")
        if self.path.exists():
            self._read(self.path)

    @property
    def count(self) -> int:
        """Returns how many different images could not be read."""
        return len(self.entries)

    def add(self, unreadable: Unreadable) -> None:
        """Notes an image, unless it is known already."""
        self.met[unreadable.id] = unreadable
        if unreadable.name in self.entries:
            return
        self.entries[unreadable.name] = unreadable
        if self.path is None:
            return
        if self.count == 10 ** (len(str(self.count)) - 1):  # 1, 10, 100, ...
            log.warning(
                "Unreadable: %d so far, all named in %s; the last one, %a: %s.",
                self.count, self.path, *unreadable[1:],
            )  # fmt: skip
        self._unwritten.append(json.dumps(unreadable._asdict()))
        try:
            append_lines(self.path, self._unwritten)
        except OSError as error:  # it waits for the next one, and is counted all the same
            log.warning("%s waits: %s.", self.path, reason(error))
        else:
            self._unwritten = []

    def _read(self, path: epath.Path) -> None:
        entries, torn = _entries(path)
        self.entries = {entry.name: entry for entry in entries}
        if torn:  # the process died while it wrote this line; the image will come again
            write_text(path, "".join(f"{json.dumps(entry._asdict())}\n" for entry in entries))


def read_quarantine(workdir: epath.PathLike) -> list[Unreadable]:
    """Returns the images that no process of a run could read, each once.

    Raises:
      UserError: if a list of them holds something else.
    """
    lists = sorted(epath.Path(workdir).glob("quarantine*.jsonl"))
    return [*{entry.name: entry for path in lists for entry in _entries(path)[0]}.values()]


def _entries(path: epath.Path) -> tuple[list[Unreadable], bool]:
    """Returns the images in a list, and whether a torn line is left out."""
    whole, _, torn = path.read_text().rpartition("\n")
    try:
        return [Unreadable(**json.loads(line)) for line in whole.splitlines()], bool(torn)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{path} is no list of unreadable images ({error}); move it away and start again."
        ) from error
