"""Where the files in a tar lie, so that any of them can be read without the others.

A tar has no table of contents: it is walked through once, from header to header. The index is kept
beside it, if its folder can be written to, and is used as long as size and time of the tar are the
same.
"""

import collections
import dataclasses
import gzip
import json
import logging
import os
import tarfile
import zlib
from typing import TypeAlias

from etils import epath

from simclr_jax.core.errors import StorageError, UserError
from simclr_jax.core.files import atomic_write, reason

log = logging.getLogger(__name__)
VERSION = 1
# What reading a gzip file of JSON raises if it is neither.
DAMAGED = (
    OSError,
    EOFError,
    zlib.error,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
)
MAX_HEAD_BYTES = 100
JSON_ESCAPE = 6  # characters for one
BLOCK = tarfile.BLOCKSIZE
CLASS, MAX_CLASS_BYTES = "cls", 1000
Place: TypeAlias = tuple[int, int]  # offset and length in bytes
Sample: TypeAlias = dict[str, Place]  # extension, as in "a/1.seg.png" -> "seg.png"


@dataclasses.dataclass(frozen=True)
class TarIndex:
    """What a tar holds.

    Attributes:
      samples: by the path of their files up to the first dot of the name, in the order of the tar.
      classes: content of the file "cls", by sample, of those that have one.
      left_out: how many members are no plain files with a name and an extension, by kind.
    """

    samples: dict[str, Sample]
    classes: dict[str, str]
    left_out: dict[str, int]


def index_tar(path: str) -> TarIndex:
    """Returns the index of a tar: the one that is kept beside it, if that fits this tar.

    Raises:
      UserError: if the file is no tar, is compressed or cut off, or holds a name twice.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason(error)}.") from error
    kept, head = _kept_at(path), [VERSION, status.st_size, status.st_mtime_ns]
    index = _read(kept, head)
    if index is None:
        index = _walk(path, status.st_size)
        _write(kept, head, index)
    return index


def _kept_at(path: str) -> epath.Path:
    folder, name = os.path.split(path)
    return epath.Path(folder or ".") / f".{name}.index.json.gz"


def _read(path: epath.Path, head: list[int]) -> TarIndex | None:
    """Returns what is kept, None if there is none, or it is damaged or of another tar."""
    try:
        with path.open("rb") as file, gzip.GzipFile(fileobj=file) as packed:
            if json.loads(packed.readline(MAX_HEAD_BYTES)) != head:
                return None
            # What is said of a member is shorter than the member, its escapes in JSON apart.
            found = json.loads(packed.read(JSON_ESCAPE * head[1]))
        samples = {
            key: {
                extension: (int(offset), int(length)) for extension, (offset, length) in s.items()
            }
            for key, s in found["samples"].items()
        }
        inside = (0 <= o <= o + n <= head[1] for s in samples.values() for o, n in s.values())
        return TarIndex(samples, found["classes"], found["left_out"]) if all(inside) else None
    except FileNotFoundError:
        return None
    except DAMAGED as error:
        log.info("%s is no index, and is made anew: %s.", path, error)
        return None


def _write(path: epath.Path, head: list[int], index: TarIndex) -> None:
    try:
        with (
            atomic_write(path) as unfinished,
            unfinished.open("wb") as file,
            gzip.GzipFile(fileobj=file, mode="wb", mtime=0) as packed,
        ):
            packed.write(json.dumps(head).encode() + b"\n")
            packed.write(json.dumps(dataclasses.asdict(index)).encode())
    except StorageError as error:  # the next start walks through the tar again
        log.info("The index of a tar is not kept: %s", error)


def _walk(path: str, size: int) -> TarIndex:
    """Returns the index of a tar, from its headers."""
    index, left_out, end = TarIndex({}, {}, {}), collections.Counter[str](), 0
    try:
        with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                # It would keep all of them; its stub lacks the attribute.
                tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue]
                if member.offset_data + member.size > size or tar.offset <= end:
                    raise UserError(f"{path} is cut off or damaged at {member.name!r}. {_BRING}")
                end = tar.offset
                if member.isdir():
                    continue
                if kind := _odd(member):
                    left_out[kind] += 1
                    continue
                _add(index, path, member)
                if member.name.lower().endswith(f".{CLASS}"):
                    index.classes[_key(member)] = _read_class(path, member)
            file.seek(end)
            if file.read(BLOCK) != bytes(BLOCK):  # a block of zeros is the end
                raise UserError(f"{path} is cut off or damaged at byte {end:,}. {_BRING}")
    except UserError:
        raise
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise UserError(
            f"{path} is no tar that can be read at random: {error}. A compressed one is unpacked "
            "once, with gunzip or zstd -d."
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason(error)}.") from error
    return TarIndex(index.samples, index.classes, dict(left_out))


def _odd(member: tarfile.TarInfo) -> str:
    """Returns what a member is if it is no file that a data set can hold, "" if it is one."""
    if not member.isreg():
        return "links or devices"
    if member.issparse():
        return "sparse files"
    *folders, name = member.name.split("/")
    if member.name.startswith("/") or ".." in folders:
        return "paths that lead out of the tar"
    if name.startswith("."):
        return "hidden files"
    return "" if "." in name else "without extension"


def _key(member: tarfile.TarInfo) -> str:
    folder, slash, name = member.name.rpartition("/")
    return folder + slash + name.partition(".")[0]


def _add(index: TarIndex, path: str, member: tarfile.TarInfo) -> None:
    extension = member.name.rpartition("/")[2].partition(".")[2].lower()
    sample = index.samples.setdefault(_key(member), {})
    if extension in sample:
        raise UserError(f"{path} holds {member.name!r} twice.")
    sample[extension] = (member.offset_data, member.size)


def _read_class(path: str, member: tarfile.TarInfo) -> str:
    data = read_place(path, (member.offset_data, min(member.size, MAX_CLASS_BYTES + 1)))
    try:
        if len(data) > MAX_CLASS_BYTES:
            raise ValueError(f"it has more than {MAX_CLASS_BYTES} bytes")
        return data.decode().strip()
    except ValueError as error:
        raise UserError(f"{path}: {member.name!r} is no class: {error}.") from error


def read_place(path: str, place: Place) -> bytes:
    """Reads what lies at a place in a tar.

    Raises:
      UserError: if the tar ends before.
      OSError: if storage fails.
    """
    offset, length = place
    with open(path, "rb", buffering=0) as file:
        data = os.pread(file.fileno(), length, offset)
    if len(data) < length:
        raise UserError(f"{path} has become shorter since it was indexed; start again.")
    return data


_BRING = "Bring a whole copy of it."
