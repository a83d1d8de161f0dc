"""The list of a run's images, kept with it: their names, sizes and, if asked for, contents.

Positions in the stream of images mean nothing in another list, and a file of the same name may
hold another image. So a resumed run compares the lists, and says which files differ.
"""

import concurrent.futures
import dataclasses
import gzip
import hashlib
import json
import logging
import os
import stat
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from etils import epath

from simclr_jax.core.errors import UserError
from simclr_jax.core.files import atomic_write, reason
from simclr_jax.data.classes import shorten
from simclr_jax.data.files import NO_FILE
from simclr_jax.data.records import Source, file_of, name_of

log = logging.getLogger(__name__)
NAME = "images.jsonl.gz"
MISSING = -1
THREADS, CHUNK = 32, 1000  # storage behind a network answers many questions at once


@dataclasses.dataclass(frozen=True)
class Listing:
    """What is known of the image files of a run.

    Attributes:
      names: names of the files, below the folder.
      sizes: sizes of the files in bytes; `MISSING` of one that is not there.
      hashes: SHA-256 of what they hold, in hexadecimal; empty if not asked for.
      accepted: for each time that the list changed and the run went on all the same, its step, the
        digest before and the digest after.
      fingerprint: fingerprint of the source, which labels and captions change, too; "" in a list
        from before it was kept.
    """

    names: Sequence[str]
    sizes: Sequence[int]
    hashes: Sequence[str]
    accepted: Sequence[Sequence[Any]] = ()
    fingerprint: str = ""

    def rows(self) -> dict[str, tuple[Any, ...]]:
        """Returns what is known of each file, by its name."""
        columns = (self.sizes, self.hashes) if self.hashes else (self.sizes,)
        return dict(zip(self.names, zip(*columns, strict=True), strict=True))

    def digest(self) -> str:
        """Returns eight hexadecimal digits that differ where two lists do."""
        sha256 = hashlib.sha256(self.fingerprint.encode())
        for name, known in self.rows().items():
            sha256.update(json.dumps([name, *known]).encode())
        return sha256.hexdigest()[:8]


def list_images(source: Source, *, hashed: bool) -> Listing | None:
    """Looks at the files of a source; None if its images are not files of their own.

    Args:
      source: the data set.
      hashed: read all files, for what they hold.

    Raises:
      UserError: if one of them cannot be looked at.
    """
    if file_of(source, 0) is None:
        return None

    def look(ids: range) -> list[tuple[str, int, str]]:
        return [_look(name_of(source, i), str(file_of(source, i)), hashed) for i in ids]

    ids = range(len(source))
    with concurrent.futures.ThreadPoolExecutor(THREADS) as threads:
        parts = threads.map(look, [ids[i : i + CHUNK] for i in range(0, len(ids), CHUNK)])
        names, sizes, hashes = zip(*(row for part in parts for row in part), strict=True)
    return Listing(names, sizes, hashes if hashed else (), fingerprint=source.fingerprint)


def continued(
    workdir: str, now: Listing, *, step: int, accept: str, examples: str
) -> Listing | None:
    """Compares images with those that a run has been trained on; None if it has kept no list.

    Args:
      workdir: directory of the run.
      now: images of the run as they are now.
      step: step that it goes on from.
      accept: digest of a list that may differ from the one kept; see `config.data.accept_images`.
      examples: what is in the files, such as "images".

    Returns:
      `now`, with a note if it takes the place of another list.

    Raises:
      UserError: if files differ, naming some, or the list that was kept is damaged.
    """
    path = epath.Path(workdir) / NAME
    if not path.exists():
        return None
    before = _read(path)
    now = dataclasses.replace(now, accepted=before.accepted)
    differences = _differences(before.rows(), now.rows())
    if not differences and before.fingerprint not in ("", now.fingerprint):
        differences = ["the files are the same, and what is said of them, labels or captions, not"]
    if not differences:
        return now
    said, digest = "; ".join(differences), now.digest()
    if accept != digest:
        raise UserError(
            f"The {examples} are not those that the run in {workdir} was trained on: {said}. Bring "
            f"them back, use another --workdir, or go on with the {examples} as they are: "
            f"--config.data.accept_images={digest}. {path} keeps that."
        )
    log.warning("The run goes on with other %s than before, as accepted: %s.", examples, said)
    return dataclasses.replace(now, accepted=[*before.accepted, [step, before.digest(), digest]])


def write(workdir: str, listing: Listing) -> None:
    """Writes the list of a run's images into its directory.

    Raises:
      StorageError: if it cannot be written.
    """
    with (
        atomic_write(epath.Path(workdir) / NAME) as unfinished,
        unfinished.open("wb") as file,
        gzip.GzipFile(fileobj=file, mode="wb", mtime=0) as packed,
    ):
        head = {"accepted": listing.accepted, "fingerprint": listing.fingerprint}
        packed.write(json.dumps(head).encode() + b"\n")
        for name, known in listing.rows().items():
            packed.write(json.dumps([name, *known]).encode() + b"\n")


def _look(name: str, path: str, hashed: bool) -> tuple[str, int, str]:
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            return name, MISSING, ""
        contents = hashlib.sha256(Path(path).read_bytes()).hexdigest() if hashed else ""
        return name, status.st_size, contents
    except OSError as error:
        if error.errno in NO_FILE:  # a table may name such
            return name, MISSING, ""
        raise UserError(f"{path} cannot be looked at: {reason(error)}.") from error


def _read(path: epath.Path) -> Listing:
    try:
        with path.open("rb") as file, gzip.GzipFile(fileobj=file) as packed:
            head = {"fingerprint": "", **json.loads(packed.readline())}
            rows = [json.loads(line) for line in packed]
        names, sizes, *hashes = zip(*rows, strict=True)
        hashed = hashes[0] if hashes else ()
        return Listing(names, sizes, hashed, head["accepted"], head["fingerprint"])
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is damaged: {error}. Bring a copy back; or move it away, and the run goes on "
            "if the names of its files are the same."
        ) from error


def _differences(before: dict[str, tuple[Any, ...]], now: dict[str, tuple[Any, ...]]) -> list[str]:
    """Returns in words what is gone, new or of other contents, and the first names of each."""
    gone = [name for name in before if name not in now]
    new = [name for name in now if name not in before]
    other = []
    for name, known in now.items():
        if name in before and (differ := _other(before[name], known)):
            other.append(f"{name} ({differ})")
    kinds = {"gone": gone, "new": new, "of other contents": other}
    return [
        f"{len(names)} {'file is' if len(names) == 1 else 'files are'} {kind}: {shorten(names, 3)}"
        for kind, names in kinds.items()
        if names
    ]


def _other(before: tuple[Any, ...], now: tuple[Any, ...]) -> str:
    if MISSING in (before[0], now[0]) and before[0] != now[0]:
        return f"{'not there' if before[0] == MISSING else 'there'} then"
    if before[0] != now[0]:
        return f"{before[0]} bytes then, {now[0]} now"
    both = len(before) == len(now) == 2
    return "of the same size" if both and before[1] != now[1] else ""
