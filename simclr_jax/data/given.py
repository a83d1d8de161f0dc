"""Images, or files of sounds, that a caller hands over, as a data set."""

import os
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from PIL import Image

from simclr_jax.core.errors import UserError
from simclr_jax.data.decode import RENDERING, Rendering, UnreadableImageError, opened_pixels
from simclr_jax.data.records import Record, encoded

# A path, uint8 pixels [h, w], [h, w, 1] or [h, w, 3], or what Pillow has opened.
GivenImage: TypeAlias = str | os.PathLike[str] | np.ndarray | Image.Image
_WANTED = "Images must be a list of paths, arrays or PIL images, or one uint8 array [n, h, w, 3]"
_ADVICE = "put a single image into a list, [image]."


class Given:
    """Paths, arrays and Pillow's images in the order in which they are given, without labels."""

    name = "the images given"
    class_names: tuple[str, ...] = ()
    fingerprint = "given"

    def __init__(
        self,
        images: Sequence[GivenImage] | np.ndarray,
        rendering: Rendering = RENDERING,
        *,
        has_sounds: bool = False,
    ):
        """Takes what is given.

        Args:
          images: see `GivenImage`; or paths of sounds.
          rendering: how what Pillow has opened becomes grey levels.
          has_sounds: whether these are sounds.

        Raises:
          UserError: if it is no list, or an empty one.
        """
        if isinstance(images, np.ndarray) and images.ndim != 4:
            raise UserError(f"{_WANTED}, got one array of shape {list(images.shape)}: {_ADVICE}")
        if isinstance(images, str | os.PathLike | Image.Image):
            raise UserError(f"{_WANTED}, got one of {type(images)}: {_ADVICE}")
        if not len(images):
            raise UserError("There are no images: the list is empty.")
        self._images = images
        self._rendering = rendering
        self.has_sounds = has_sounds

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int, /) -> Record:
        image, name = self._images[index], f"image {index}"
        if self.has_sounds and not isinstance(image, str | os.PathLike):
            raise UserError(f"It must be a path of a sound, got {type(image)}.")
        if isinstance(image, np.ndarray):
            return Record(image, -1, name)
        if isinstance(image, Image.Image):
            return Record(opened_pixels(image, self._rendering), -1, name)
        if not isinstance(image, str | os.PathLike):
            raise UserError(f"It must be a path, an array or a PIL image, got {type(image)}.")
        name = f"{name} ({os.fspath(image)})"
        try:
            with open(os.path.expanduser(image), "rb") as file:
                data = file.read()
        except OSError as error:
            raise UnreadableImageError(f"cannot be read: {error.strerror}", name) from error
        return encoded(data, -1, name, is_sound=self.has_sounds)
