"""Whether a checkpoint is what was written: SHA-256 of its files, in a file of `sha256sum -c`.

Neither the checkpoint library nor the file systems notice a flipped bit: weights would be read
that nobody has trained.
"""

import concurrent.futures
import hashlib
import json
from typing import NamedTuple

from etils import epath

from simclr_jax.core.errors import StorageError
from simclr_jax.core.files import file_sizes, reason, write_text

SUMS = "SHA256SUMS"
# orbax writes these when it commits, after the sums; nothing is restored from them.
UNSUMMED = frozenset({"_CHECKPOINT_METADATA", "commit_success.txt", SUMS})
NUM_THREADS = 16
CHUNK_BYTES = 1 << 22


class Condition(NamedTuple):
    """What a check of a checkpoint found.

    Attributes:
      damage: what is wrong with which file, "" if nothing is.
      summed: whether there are sums at all; checkpoints of older versions have none.
    """

    damage: str
    summed: bool

    def __str__(self) -> str:
        if self.damage:
            return self.damage
        return "whole" if self.summed else "unknown: it is older than the check"


def write_sums(directory: epath.Path) -> None:
    """Writes the SHA-256 of every file of a checkpoint beside them.

    Takes one second for each gigabyte, divided by the cores that are free (at most 16 files at
    once).
    """
    names = [name for name in sorted(file_sizes(directory)) if name not in UNSUMMED]
    with concurrent.futures.ThreadPoolExecutor(NUM_THREADS) as threads:
        sums = threads.map(lambda name: _sha256(directory / name), names)
    lines = (f"{digest}  {name}\n" for digest, name in zip(sums, names, strict=True))
    write_text(directory / SUMS, "".join(lines))


def check(directory: epath.Path) -> Condition:
    """Reads a whole checkpoint and compares it with its sums.

    Raises nothing: a file that cannot be read is damage.
    """
    try:
        there = file_sizes(directory).keys()
        names = there - UNSUMMED
        if not names:
            return Condition("it holds no files", summed=False)
        if SUMS not in there:
            lost = _was_summed(directory)
            return Condition(f"{SUMS} is missing" if lost else "", summed=lost)
        sums = _read_sums(directory / SUMS)
    except OSError as error:
        return Condition(f"it cannot be read: {reason(error)}", summed=True)
    if missing := sorted(sums.keys() - names):
        return Condition(f"{missing[0]} is missing{_others(missing)}", summed=True)
    if unknown := sorted(names - sums.keys()):
        return Condition(f"{unknown[0]} is not in {SUMS}{_others(unknown)}", summed=True)
    with concurrent.futures.ThreadPoolExecutor(NUM_THREADS) as threads:
        found = threads.map(lambda name: _compare(directory / name, sums[name]), sorted(sums))
        damaged = [f"{name} {what}" for name, what in zip(sorted(sums), found, strict=True) if what]
    return Condition(damaged[0] + _others(damaged) if damaged else "", summed=True)


def _read_sums(path: epath.Path) -> dict[str, str]:
    sums = {}
    for line in path.read_bytes().decode("utf-8", "replace").splitlines():
        digest, separator, name = line.partition("  ")
        if len(digest) != 64 or not separator:
            raise StorageError(f"{SUMS} has a line that is none: {line[:80]!r}")
        sums[name] = digest
    return sums


def _was_summed(directory: epath.Path) -> bool:
    """Whether the version that wrote a checkpoint wrote sums; if so, absent ones are lost."""
    path = directory / "data" / "metadata"
    try:
        return "sums" in json.loads(path.read_bytes()) if path.exists() else False
    except ValueError:
        return False


def _compare(path: epath.Path, digest: str) -> str:
    try:
        return "" if _sha256(path) == digest else "has changed since it was written"
    except OSError as error:
        return f"cannot be read: {reason(error)}"


def _sha256(path: epath.Path) -> str:
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            sha256.update(chunk)
    return sha256.hexdigest()


def _others(files: list[str]) -> str:
    return f", and so {len(files) - 1} more" if len(files) > 1 else ""
