"""Files of a run, on a disk or in a bucket (gs://): written whole, or not at all."""

import contextlib
import csv
import io
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
from etils import epath

from simclr_jax.core.errors import StorageError, UserError

TRIAL_BYTES = 1 << 16
MAX_JSON_BYTES = 16 << 20


def in_a_bucket(path: epath.PathLike) -> bool:
    """Whether a path names an object store, such as gs://BUCKET/runs, and not a file system."""
    return "://" in str(path)


def absolute(path: str) -> str:
    """Returns a path that means the same from any directory; "~" is the user's own."""
    return path if in_a_bucket(path) else os.path.abspath(os.path.expanduser(path))


def expand(path: str) -> str:
    """Returns a path that a user gave, with the home directory in place of ~.

    Raises:
      ValueError: if there is no home directory, or the name is not UTF-8.
    """
    expanded = path if in_a_bucket(path) else os.path.expanduser(path)
    if expanded.startswith("~"):
        raise ValueError("there is no such home directory; give the whole path.")
    try:
        expanded.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{expanded!r} is not UTF-8; give a name that is.") from None
    return expanded


def expand_workdir(path: str) -> str:
    """Returns the path of a workdir that a user gave, as `expand` does.

    Raises:
      ValueError: also if orbax could not read what it writes there, as it takes the path for a glob
        pattern.
    """
    expanded = expand(path)
    whole = absolute(expanded)
    if found := [character for character in "[]*?\\" if path and character in whole]:
        raise ValueError(
            f"the path {whole} has {' '.join(found)} in it, which the checkpoint library takes "
            "for a pattern. Give a path of other characters."
        )
    return expanded


@contextlib.contextmanager
def atomic_write(path: epath.PathLike) -> Iterator[epath.Path]:
    """Yields a path beside `path`; what the block writes there appears as `path` when it ends.

    Readers see what was there before, or all of what is new: a file, or a directory where there
    is none. If the block raises, nothing is left; a process that is killed in it leaves a hidden
    file beside `path`.

    Raises:
      StorageError: if the block or the file system raises an OSError.
    """
    path = epath.Path(path)
    unfinished = path.parent / f".{path.name[:40]}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        yield unfinished
        if not in_a_bucket(path):
            _sync(unfinished)
        if path.is_dir():
            if any(path.iterdir()):
                raise FileExistsError("it is a directory that is not empty")
            path.rmdir()
        unfinished.replace(path)
    except OSError as error:
        raise StorageError(
            f"Cannot write {path}: {reason(error)}. Nothing of it was written."
        ) from error
    finally:
        with contextlib.suppress(OSError):  # what went wrong before is told, not this
            remove(unfinished)


def write_text(path: epath.PathLike, text: str) -> None:
    """Replaces a file by another text, as `atomic_write` does."""
    with atomic_write(path) as unfinished:
        unfinished.write_text(text)


def require_writable(path: epath.PathLike, flag: str) -> None:
    """Writes a little beside `path` and removes it, so that an output is refused before the work.

    Args:
      path: path of the output.
      flag: flag that asks for it, for the message, such as "--output".

    Raises:
      UserError: if the directory is not there, cannot be written to, or has no room.
    """
    path = epath.Path(path)
    trial = path.parent / f".{uuid.uuid4().hex[:8]}.tmp"
    try:
        if not in_a_bucket(path) and not path.parent.is_dir():
            raise FileNotFoundError(f"the directory {path.parent} does not exist")
        trial.write_bytes(bytes(TRIAL_BYTES))
    except OSError as error:
        raise UserError(
            f"{flag}: {path} cannot be written: {reason(error)}. Give a name in a directory that "
            "exists, is writable and has room."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            trial.unlink(missing_ok=True)


def read_json(path: epath.PathLike, cure: str) -> Any:
    """Returns what a JSON file of a run holds.

    Args:
      path: path of the file.
      cure: what to do if it is damaged, for the message.

    Raises:
      UserError: if it is no JSON, or so large or deep that this program has not written it.
      OSError: if it cannot be read.
    """
    with epath.Path(path).open("rb") as file:
        data = file.read(MAX_JSON_BYTES + 1)
    try:
        if len(data) > MAX_JSON_BYTES:
            raise ValueError(f"it has more than {MAX_JSON_BYTES >> 20} MiB")
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        what = "it is empty" if not data else str(error)
        raise UserError(f"{path} is damaged: {what}. {cure}") from error


def read_text(path: str, flag: str) -> str:
    """Returns the text of a file that a person wrote, without a byte order mark; lines end in LF.

    Args:
      path: path of the file.
      flag: flag that names it, for the message, such as "--texts".

    Raises:
      UserError: if it cannot be read, or is not UTF-8.
    """
    try:
        text = epath.Path(absolute(path)).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{flag}={path} is not UTF-8: {error}. Convert it, as iconv does."
        ) from error
    except OSError as error:
        raise UserError(f"{flag}={path} cannot be read: {reason(error)}.") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_table(path: str, flag: str, columns: Sequence[str]) -> list[dict[str, str]]:
    """Returns the lines of a CSV file that a person wrote, by column; "" where a line is short.

    Args:
      path: path of the file.
      flag: flag that names it, for the message, such as "--groups".
      columns: those that it must have; others are left out.

    Raises:
      UserError: as `read_text` does, or if a column or every line is missing.
    """
    rows = csv.DictReader(io.StringIO(read_text(path, flag)))
    wanted = ",".join(columns)
    try:
        if {*columns} - {*(rows.fieldnames or ())}:
            raise UserError(f"{flag}={path}: its first line must have the columns {wanted}.")
        found = [{name: row[name] or "" for name in columns} for row in rows]
    except csv.Error as error:
        raise UserError(f"{flag}={path}, line {rows.line_num}, is no CSV: {error}.") from error
    if not found:
        raise UserError(
            f"{flag}={path} has no lines below the first, {wanted}: there must be one for each "
            "image."
        )
    return found


def append_lines(path: epath.Path, lines: Iterable[str]) -> None:
    """Adds lines to a file, and makes it if it is not there; all of them, or none.

    In a bucket, where nothing can be added to a file, the whole file is written again. That does no
    harm to a file of some megabytes every few seconds, such as lines of metrics.

    Raises:
      OSError: if there is no room, or the file cannot be written; it then stays as it was.
    """
    data = "".join(f"{line}\n" for line in lines).encode()
    if in_a_bucket(path):
        path.write_bytes((path.read_bytes() if path.exists() else b"") + data)
        return
    with Path(path).open("ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            while data:  # one call may write a part, and the next one say that the disk is full
                data = data[file.write(data) :]
        except OSError:
            file.truncate(size)  # no half line
            raise


def file_system(path: epath.PathLike) -> Any:
    """Returns the fsspec file system that a path is on, which remembers no listings."""
    protocol = str(path).partition("://")[0] if in_a_bucket(path) else "file"
    return fsspec.filesystem(protocol, use_listings_cache=False)


def file_sizes(directory: epath.PathLike) -> dict[str, int]:
    """Returns the names of all files below a directory, relative to it, and their sizes in bytes.

    Raises:
      OSError: if there is no such directory, or it cannot be listed.
    """
    top = str(directory).partition("://")[2] or os.path.abspath(directory)
    found = file_system(directory).find(str(directory), detail=True)
    return {name.removeprefix(f"{top}/"): info["size"] for name, info in found.items()}


def remove(path: epath.Path) -> None:
    """Removes a file, or a directory with all that is in it, if it is there."""
    if path.is_dir():
        path.rmtree()
    else:
        path.unlink(missing_ok=True)


def reason(error: OSError) -> str:
    """Returns why the file system refused, without the number and the path."""
    return error.strerror or str(error) or type(error).__name__


def _sync(path: epath.Path) -> None:
    """Waits until what was written is on the disk, so that a power failure leaves no empty file."""
    if path.is_dir():
        return
    with Path(path).open("rb") as file:
        os.fsync(file.fileno())
