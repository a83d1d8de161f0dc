"""Folders of one's own images, or sounds, as a data set."""

import collections
import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from simclr_jax.core.errors import UserError, did_you_mean
from simclr_jax.data.classes import number_labels, quote, shorten
from simclr_jax.data.columns import MAX_CAPTION_BYTES, caption_in, captions_if_readable
from simclr_jax.data.files import Paths, file_keys, list_files, source_name, split_paths
from simclr_jax.data.kinds import IMAGES, SOUNDS, TEXT, are_sounds, ending_of
from simclr_jax.data.records import Record, digest, encoded

# Names of folders that are parts of a data set rather than classes, in lower case.
SPLITS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation"})


class Folder:
    """Any tree of image files, or several as one, listed once in sorted order and read lazily.

    Files count by extension (`kinds.IMAGES`, in either case). Where more files are sounds than
    images, the sounds are the data set, unless `kind` says which. The caption of x.jpg is what
    x.txt beside it holds. Hidden files and folders are left out; links to folders are followed,
    except back to a folder that they are in. With several folders, names are relative to the one
    that holds them all.

    Attributes:
      has_sounds: whether these are sounds.
      left_out: how many other files there are, by extension, in lower case.
    """

    def __init__(
        self,
        path: Paths,
        split: str = "all",
        labels_from_folders: bool | None = False,
        class_names: Sequence[str] | None = None,
        kind: str | None = None,
    ):
        roots = split_paths(path)
        inside = "" if split == "all" else f"{split.rstrip('/')}/"
        for root in roots:
            _require_folder(root, inside, split)
        several = len(roots) > 1
        self._root = os.path.commonpath(map(os.path.abspath, roots)) if several else roots[0]
        prefixes = [f"{os.path.relpath(root, self._root)}/" if several else "" for root in roots]
        where = ", ".join(os.path.join(root, inside) for root in roots)
        self.name = source_name("folder", path, split)
        self.left_out: collections.Counter[str] = collections.Counter()
        links: set[str] = set()
        found: list[tuple[str, str]] = []  # path below the root, and below the folder that is given
        for top in (os.path.normpath(prefix + inside) for prefix in prefixes):
            top = "" if top == "." else f"{top}/"
            files, linked, others = list_files(self._root, top, IMAGES | SOUNDS | {TEXT})
            found += [(file, file.removeprefix(top)) for file in files]
            links |= linked
            self.left_out += others
        found.sort()
        self.has_sounds = are_sounds((file for file, _ in found), kind)
        found = self._choose(found)
        self._files, self._links = [file for file, _ in found], links
        if not self._files:
            seen = [f"{count} {kind}" for kind, count in self.left_out.most_common()] or [
                "no files"
            ]
            raise UserError(
                f"No {kind or 'images'} in {where}: looked in all its folders for files ending in "
                f"{', '.join(sorted(IMAGES))}, and for sounds, {', '.join(sorted(SOUNDS))}; found "
                f"{shorten(seen)}."
            )
        if several:
            self._require_each_once()
        self.class_names: tuple[str, ...] = ()
        self.labels = [-1] * len(self._files)
        if labels_from_folders is not False:
            folders = [below.rpartition("/")[0].partition("/")[0] for _, below in found]
            if self._are_classes(folders, where, required=labels_from_folders is True):
                names = class_names or sorted(set(folders))
                self.labels, self.class_names = number_labels(folders, names, where)
        self.fingerprint = digest([*self._files, *self.class_names, *self._texts.values()])

    def _choose(self, found: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        """Returns the files of the kind that is read, and notes their texts and what is left."""
        kinds = [ending_of(file) for file, _ in found]
        wanted = SOUNDS if self.has_sounds else IMAGES
        chosen = [one for one, kind in zip(found, kinds, strict=True) if kind in wanted]
        texts = [file for (file, _), kind in zip(found, kinds, strict=True) if kind == TEXT]
        stems = {_stem(file) for file, _ in chosen} if texts else set()
        self._texts = {_stem(text): text for text in texts if _stem(text) in stems}
        self.left_out.update(kind for kind in kinds if kind not in wanted)
        self.left_out -= collections.Counter({TEXT: len(self._texts)})
        return chosen

    def _require_each_once(self) -> None:
        """Makes sure that folders that are taken together share no file."""
        first: dict[int, str] = {}
        pairs = []
        for key, file in zip(self.image_keys().tolist(), self._files, strict=True):
            if key in first:
                pairs.append(f"{first[key]} = {file}")
            first[key] = file
        if pairs:
            raise UserError(
                f"{len(pairs)} images of {self.name} are in it twice, {shorten(pairs, 3)}: copies "
                "are each other's negatives. Give folders that share none, in config.data.path."
            )

    def _are_classes(self, folders: Sequence[str], where: str, *, required: bool) -> bool:
        """Whether the folders that the images are in, "" if in none, can be classes."""
        found = sorted(set(folders))
        if "" not in found and not {name.lower() for name in found} <= SPLITS:
            return True
        if not required:
            return False
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

    def __len__(self) -> int:
        return len(self._files)

    def image_keys(self) -> Int[np.ndarray, " n"]:
        """Returns one number for each image: of its file, whatever links lead to it."""
        path = lambda name: os.path.join(self._root, name)
        return file_keys(
            [os.path.realpath(path(n)) if n in self._links else path(n) for n in self._files]
        )

    def __getitem__(self, index: int, /) -> Record:
        name = self._files[index]
        with open(self.file_of(index), "rb") as file:
            data = file.read()
        captions = captions_if_readable(lambda: self.captions_of(index))
        return encoded(data, self.labels[index], name, captions, is_sound=self.has_sounds)

    def captions_of(self, index: int) -> tuple[str, ...]:
        """Returns the caption of an image, if it has one."""
        text = self._texts.get(_stem(self._files[index])) if self._texts else None
        if text is None:
            return ()
        with open(os.path.join(self._root, text), "rb") as file:
            return caption_in(file.read(MAX_CAPTION_BYTES + 1), self._files[index])

    def file_of(self, index: int) -> str:
        """Returns the path of an image."""
        return os.path.join(self._root, self._files[index])

    def name_of(self, index: int) -> str:
        """Returns the path of an image below the folder."""
        return self._files[index]


def _stem(file: str) -> str:
    return os.path.splitext(file)[0]


def _require_folder(root: str, inside: str, split: str) -> None:
    if not os.path.isdir(root):
        what = "is a file" if os.path.exists(root) else "does not exist"
        raise UserError(f"The image folder {root} {what}; path must name a directory of images.")
    if inside.startswith("/") or not os.path.isdir(os.path.join(root, inside)):
        folders = sorted(e.name for e in os.scandir(root) if e.is_dir())
        raise UserError(
            f"{root} has no folder for split={split!r}; split='all' takes every image "
            f"in it. Its folders: {shorten(folders) or 'none'}.{did_you_mean(split, folders)}"
        )
