"""A folder of one's own images as a data set."""

import collections
import os
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int

from simclr_jax.core.errors import UserError, did_you_mean
from simclr_jax.data.records import Record, digest, image_key

# Names of folders that are parts of a data set rather than classes, in lower case.
SPLITS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation"})
EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
)


class Folder:
    """Any tree of image files, listed once in sorted order and read lazily.

    Files count by extension (`EXTENSIONS`, in either case). Hidden files and folders are left
    out; links to folders are followed, except back to a folder that they are in.

    Attributes:
      left_out: how many other files there are, by extension, in lower case.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: str = "all",
        labels_from_folders: bool | None = False,
        class_names: Sequence[str] | None = None,
    ):
        self._root = os.path.expanduser(path)
        if not os.path.isdir(self._root):
            what = "is a file" if os.path.exists(self._root) else "does not exist"
            raise UserError(
                f"The image folder {self._root} {what}; path must name a directory of images."
            )
        top = "" if split == "all" else f"{split.rstrip('/')}/"
        if top.startswith("/") or not os.path.isdir(os.path.join(self._root, top)):
            folders = sorted(e.name for e in os.scandir(self._root) if e.is_dir())
            raise UserError(
                f"{self._root} has no folder for split={split!r}; split='all' takes every image "
                f"in it. Its folders: {shorten(folders) or 'none'}.{did_you_mean(split, folders)}"
            )
        self.name = f"folder {os.path.join(self._root, top).rstrip('/')}"
        self._files, self._links, self.left_out = _list_images(self._root, top)
        if not self._files:
            seen = [f"{count} {kind}" for kind, count in self.left_out.most_common()] or [
                "no files"
            ]
            raise UserError(
                f"No images in {os.path.join(self._root, top)}: looked in all its folders for "
                f"files ending in {', '.join(sorted(EXTENSIONS))}; found {shorten(seen)}."
            )
        self.class_names: tuple[str, ...] = ()
        self.labels = [-1] * len(self._files)
        if labels_from_folders is not False:
            self._label_by_folder(top, class_names, required=labels_from_folders is True)
        self.fingerprint = digest([*self._files, *self.class_names])

    def _label_by_folder(
        self, top: str, class_names: Sequence[str] | None, *, required: bool
    ) -> None:
        inside = [file.removeprefix(top).rpartition("/")[0] for file in self._files]
        folders = [folder.partition("/")[0] for folder in inside]
        found, where = sorted(set(folders)), os.path.join(self._root, top)
        if "" in found or {name.lower() for name in found} <= SPLITS:
            if not required:
                return
            if "" in found:
                raise UserError(
                    f"labels_from_folders needs every image in a class folder, but "
                    f"{self._files[folders.index('')]!r} lies directly in {where}."
                )
            raise UserError(
                f"labels_from_folders takes the folders in {where} for classes, and {quote(found)} "
                "look like splits: say which of them is which, --config.data.split=train "
                "--config.data.test_split=test (--split and --test_split of `evaluate`)."
            )
        self.class_names = tuple(found if class_names is None else class_names)
        index = {name: k for k, name in enumerate(self.class_names)}
        if strange := [name for name in found if name not in index]:
            raise UserError(
                f"{where} has folders for classes, {quote(strange)}, that are none of the "
                f"{len(index)} expected ones, {quote(self.class_names)}: those of the training "
                "images, of the run or of its teacher. Rename the folders, or move them away."
            )
        self.labels = [index[name] for name in folders]

    def __len__(self) -> int:
        return len(self._files)

    def image_keys(self) -> Int[np.ndarray, " n"]:
        """Returns one number for each image: of its file, whatever links lead to it."""
        identities: dict[str, str] = {}

        def key(name: str) -> int:
            path = os.path.join(self._root, name)
            folder, file = os.path.split(os.path.realpath(path) if name in self._links else path)
            if folder not in identities:
                stat = os.stat(folder)
                identities[folder] = f"{stat.st_dev} {stat.st_ino}"
            return image_key(f"{identities[folder]}/{file}")

        return np.fromiter(map(key, self._files), np.int64, len(self._files))

    def __getitem__(self, index: int, /) -> Record:
        name = self._files[index]
        with open(self.file_of(index), "rb") as file:
            return Record(file.read(), self.labels[index], name)

    def file_of(self, index: int) -> str:
        """Returns the path of an image."""
        return os.path.join(self._root, self._files[index])

    def name_of(self, index: int) -> str:
        """Returns the path of an image below the folder."""
        return self._files[index]


def _list_images(root: str, top: str) -> tuple[list[str], frozenset[str], collections.Counter[str]]:
    """Returns the sorted image paths below root/top, which of them are links, and what else is."""
    files: list[str] = []
    links: list[str] = []
    others: collections.Counter[str] = collections.Counter()
    pending: list[tuple[str, tuple[tuple[int, int], ...]]] = [(top, ())]
    while pending:
        prefix, ancestors = pending.pop()
        here = os.path.join(root, prefix)
        try:
            stat = os.stat(here)
            identity = (stat.st_dev, stat.st_ino)
            if identity in ancestors:
                continue  # a link back up
            with os.scandir(here) as entries:
                listing = [e for e in entries if not e.name.startswith(".")]
        except OSError as error:
            raise UserError(f"Cannot list the image folder {here}: {error.strerror}.") from error
        for entry in listing:
            extension = os.path.splitext(entry.name)[1].lower()
            if _is(entry.is_dir):
                pending.append((f"{prefix}{entry.name}/", (*ancestors, identity)))
            elif _is(entry.is_file) and extension in EXTENSIONS:  # no pipes, no devices
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


def quote(names: Sequence[str]) -> str:
    """Returns names as people list them, at most eight."""
    return shorten([repr(name) for name in names])


def shorten(names: Sequence[str], limit: int = 8) -> str:
    """Returns the first of some names, and how many more there are."""
    more = f", and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
