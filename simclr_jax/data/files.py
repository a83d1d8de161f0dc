"""Which files `config.data.path` and a split name: of folders, tables, tars and parquet alike."""

import collections
import errno
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Int

from simclr_jax.core.errors import UserError, did_you_mean
from simclr_jax.core.files import absolute
from simclr_jax.data.classes import quote
from simclr_jax.data.decode import UnreadableImageError
from simclr_jax.data.records import image_key

Paths: TypeAlias = str | os.PathLike[str] | Sequence[str]
_COMMA = re.compile(r",(?![^{}]*\})")  # not one within braces
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
# What the system says of a path that leads to no file, and not of storage that fails.
NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)


def absolute_paths(path: Paths) -> str | tuple[str, ...]:
    """Returns what `path` names so that it means the same from any directory."""
    paths = tuple(absolute(part) for part in split_paths(path))
    return paths[0] if len(paths) == 1 else paths


def source_name(name: str, path: Paths | None, split: str) -> str:
    """Returns the name of a source as `sources.open_source` opens it, which stands in results."""
    if path is None or name.startswith("tfds/"):  # whose path is the directory of all data sets
        return f"{name}/{split}"
    where = f"{name} {','.join(split_paths(path))}"
    if name == "folder":
        return os.path.join(where, "" if split == "all" else split).rstrip("/")
    return f"{where}/{split}"


def split_paths(path: Paths) -> list[str]:
    """Returns the paths that stand in a list, or between the commas of a text, "~" expanded.

    A text that is a path as it stands is one, whatever commas it has.
    """
    if not isinstance(path, str | os.PathLike):
        return [os.path.expanduser(part) for part in path]
    text = os.path.expanduser(os.fspath(path))
    if os.path.exists(text):
        return [text]
    return [os.path.expanduser(part) for part in _COMMA.split(text) if part] or [text]


def find_files(path: Paths, split: str, extensions: Collection[str]) -> tuple[list[str], bool]:
    """Returns the files of a split, sorted within each path, and whether their names say so.

    A path is a file, a folder that is searched with its subfolders, or a pattern with braces, such
    as train-{000..099}.tar or {a,b}.tar. A file is of a split if a folder that it is in, below
    the path, is called so, or if its name begins with that word, as train-00000-of-00008.parquet.
    Where no name says so, returns all files, and False.

    Args:
      path: one or several, see `split_paths`.
      split: name of the split; "all" takes every file.
      extensions: endings of names that count in a folder, in lower case.

    Raises:
      UserError: if a path is not there, or holds no such file.
    """
    found: dict[str, str] = {}  # path -> the part of it that may say which split it is
    for pattern in split_paths(path):
        for place in _expand(pattern):
            if os.path.isdir(place):
                names, _, _ = list_files(place, "", extensions)
                found |= {os.path.join(place, name): name for name in names}
            elif os.path.exists(place):
                found[place] = os.path.basename(place)
            else:
                raise UserError(
                    f"config.data.path: {place} does not exist; it must name a folder or a file "
                    f"ending in {', '.join(extensions)}, or several with commas between."
                )
    if not found:
        where = ", ".join(split_paths(path))
        raise UserError(
            f"config.data.path: no files in {where} end in {', '.join(extensions)}; looked in all "
            "folders below."
        )
    if split == "all":
        return list(found), False
    named = [name for name, below in found.items() if split in _words(below)]
    return named or list(found), bool(named)


def list_files(
    root: str, top: str, extensions: Collection[str]
) -> tuple[list[str], frozenset[str], collections.Counter[str]]:
    """Lists the files below root/top that have one of some extensions, as paths below the root.

    Returns:
      Their paths, sorted; which of them are links; and how many others there are, by extension.

    Raises:
      UserError: if a folder cannot be listed.
    """
    files: list[str] = []
    links: list[str] = []
    others: collections.Counter[str] = collections.Counter()
    pending: list[tuple[str, tuple[tuple[int, int], ...]]] = [(top, ())]
    while pending:
        prefix, ancestors = pending.pop()
        here = os.path.join(root, prefix)
        try:
            status = os.stat(here)
            identity = (status.st_dev, status.st_ino)
            if identity in ancestors:
                continue  # a link back up
            with os.scandir(here) as entries:
                listing = [e for e in entries if not e.name.startswith(".")]
        except OSError as error:
            raise UserError(f"Cannot list the folder {here}: {error.strerror}.") from error
        for entry in listing:
            extension = os.path.splitext(entry.name)[1].lower()
            if _is(entry.is_dir):
                pending.append((f"{prefix}{entry.name}/", (*ancestors, identity)))
            elif _is(entry.is_file) and extension in extensions:  # no pipes, no devices
                files.append(prefix + entry.name)
                if entry.is_symlink():
                    links.append(files[-1])
            else:
                others[extension or "without extension"] += 1
    return sorted(files), frozenset(links), others


def _is(test: Callable[[], bool]) -> bool:
    try:
        return test()
    except OSError:  # a link to itself, or a disk that went away
        return False


def no_split(what: str, split: str, there: Collection[str]) -> UserError:
    """Returns the error for a split that a data set does not have."""
    return UserError(
        f"{what} has no split {split!r}; split='all' takes everything. Splits: "
        f"{quote(list(there)) or 'none'}."
        f"{did_you_mean(split, there)}"
    )


def splits_in_names(files: Sequence[str]) -> list[str]:
    """Returns the words that files' names begin with, which may be splits."""
    return sorted({_words(os.path.basename(file))[-1] for file in files})


def short_names(files: Sequence[str]) -> list[str]:
    """Returns names of files below the folder that they share, for people and for comparisons."""
    top = os.path.commonpath([os.path.dirname(os.path.abspath(file)) for file in files])
    return [os.path.relpath(file, top) for file in files]


def file_keys(files: Sequence[str]) -> Int[np.ndarray, " n"]:
    """Returns one number for each file, the same by whatever path its folder is reached."""
    identities: dict[str, str] = {}

    def key(path: str) -> int:
        folder, name = os.path.split(path)
        if folder not in identities:
            identities[folder] = _identity(folder)
        return image_key(f"{identities[folder]}/{name}")

    return np.fromiter(map(key, files), np.int64, len(files))


def read_image_file(path: str, name: str) -> bytes:
    """Returns the content of a file that a user named, which may be a device.

    Raises:
      UnreadableImageError: if it is something else than a file.
      OSError: if it is not there, or storage fails.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise UnreadableImageError(f"{path} is no file", name)
    with open(path, "rb") as file:
        return file.read()


def _identity(folder: str) -> str:
    try:
        found = os.stat(folder or ".")
    except OSError:  # not there: its name is all that is known
        return folder
    return f"{found.st_dev} {found.st_ino}"


def _words(below: str) -> list[str]:
    """Returns the folders of a relative path, and the word that its file's name begins with."""
    *folders, name = below.split(os.sep)
    return [*folders, re.split(r"[^A-Za-z0-9]", name, maxsplit=1)[0]]


def _expand(pattern: str) -> Iterator[str]:
    """Yields the paths that a pattern with braces stands for, in its order."""
    found = None if os.path.exists(pattern) else _BRACES.search(pattern)
    if found is None:
        yield pattern
        return
    numbers = _RANGE.fullmatch(found[1])
    if numbers is None:
        choices = iter(found[1].split(","))
    else:
        first, last = numbers.groups()
        choices = (str(k).zfill(len(first)) for k in range(int(first), int(last) + 1))
    for choice in choices:
        yield from _expand(f"{pattern[: found.start()]}{choice}{pattern[found.end() :]}")
