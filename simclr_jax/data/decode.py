"""Encoded images to uint8 pixels: bytes or arrays in, RGB out, no larger than asked for.

Pillow only: OpenCV returns a truncated JPEG without an error, half of it grey. The header is
judged before a pixel is decoded, so that a file of a few kilobytes cannot claim gigabytes.
"""

import dataclasses
import io
import re
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from simclr_jax.core.errors import UserError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 178_956_970  # where Pillow, too, refuses by default: 512 MiB as RGB
# Hamming is a filter for scaling down: sharper than a triangle of the same cost, and without
# negative lobes, so that edges get no halos.
_FILTER = Image.Resampling.HAMMING
_REDUCING_GAP = 2.0  # cheap decoding and box averaging stop at twice the size asked for
_ORIENTATION_TAG = 0x0112
_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)


@dataclasses.dataclass(frozen=True)
class Rendering:
    """How what a file stores becomes grey levels from 0 to 255.

    Attributes:
      ground: grey level behind transparent pixels, from 0 to 255.
      value_range: which values become 0 and 255 in images with more than 8 bits a channel. "type":
        0 and 65535, for 16 bits; "file": the least and the largest of each file; "LOW:HIGH": these
        two, of all files, such as "0:4095" for 12 bits. What lies outside is clipped.
    """

    ground: int = 255
    value_range: str = "type"

    def __post_init__(self) -> None:
        if self.value_range in ("type", "file"):
            return
        low, high = self._bounds() or (0.0, 0.0)
        if not low < high:
            raise ValueError(
                f"value_range={self.value_range!r} must be 'type', 'file' or LOW:HIGH with LOW "
                "less than HIGH, such as 0:4095."
            )

    def grey_levels(self, values: Shaped[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
        """Returns the grey levels of values with more than 8 bits; NaN is the least of them.

        Raises:
          UnreadableImageError: if `value_range` doesn't say which.
        """
        if self.value_range == "type":
            if values.dtype != np.uint16:
                raise UnreadableImageError(
                    f"{_describe_values(values)}; which values are black and white must be said: "
                    "--config.data.value_range=file, or LOW:HIGH"
                )
            wide = values.astype(np.uint32)
            return ((wide * 255 + 32767) // 65535).astype(np.uint8)
        values = values.astype(np.float64)
        finite = values[np.isfinite(values)]
        if not finite.size:
            raise UnreadableImageError("none of its values is a number")
        low, high = self._bounds() or (finite.min(), finite.max())
        if low == high:  # a flat file
            return np.zeros(values.shape, np.uint8)
        inside = np.clip(np.nan_to_num(values, nan=low), low, high)
        return ((inside - low) / (high - low) * 255 + 0.5).astype(np.uint8)

    def _bounds(self) -> tuple[float, float] | None:
        number = r"([-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)"
        found = re.fullmatch(f"{number}:{number}", self.value_range)
        return found and (float(found[1]), float(found[2]))


RENDERING = Rendering()


class UnreadableImageError(ValueError):
    """One image that cannot be read; the run goes on without it.

    Attributes:
      reason: what is wrong with it, for people.
      name: which image, "" where the raiser does not know.
    """

    def __init__(self, reason: str, name: str = ""):
        super().__init__(f"{name}: {reason}" if name else reason)
        self.reason = reason
        self.name = name


class Decoded(NamedTuple):
    """The pixels of an image, and how many it has where it is stored.

    Attributes:
      pixels: uint8 [h, w, 3], in RGB.
      size: (height, width) before it was scaled down, after it was turned upright.
    """

    pixels: np.ndarray
    size: tuple[int, int]


def decode(image: bytes | np.ndarray, *, canvas: int, rendering: Rendering = RENDERING) -> Decoded:
    """Returns the pixels of an image, in RGB, and its size.

    An image larger than the canvas is scaled down until its longer side fits, with an
    antialiasing filter; a smaller one is never scaled up. The aspect is kept, save that no side
    becomes shorter than 1. EXIF orientation is applied. Greyscale and palette become RGB, what is
    transparent shows the ground (TensorFlow's and torchvision's readers drop alpha, and show what a
    program left there), more than 8 bits are scaled to 8, and of an animation the first frame is
    taken.

    Args:
      image: an encoded file of one of `FORMATS`, or uint8 of shape [h, w], [h, w, 1] or [h, w, 3].
      canvas: side in pixels of the square that the image must fit into.
      rendering: how what a file stores becomes grey levels.

    Raises:
      UnreadableImageError: if the bytes are no complete image of a known format, or claim
        more than `MAX_PIXELS` pixels, or if an array has no pixels.
      UserError: if an array has another dtype or shape; then all its neighbours have, too.
    """
    if isinstance(image, bytes):
        return _decode_bytes(image, canvas, rendering)
    pixels = _check_array(image)
    height, width = pixels.shape[:2]
    fitted = fitted_size(height, width, canvas)
    if fitted != (height, width):
        pixels = np.asarray(_resize(Image.fromarray(pixels), fitted))
    if pixels.ndim == 2:
        pixels = np.broadcast_to(pixels[:, :, None], (*pixels.shape, 3))
    return Decoded(pixels, (height, width))


def opened_pixels(
    image: Image.Image, rendering: Rendering = RENDERING
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the pixels of an image that Pillow has opened, upright and in RGB, as `decode` would.

    Raises:
      UnreadableImageError: if its file turns out broken, or `rendering` doesn't fit its values.
    """
    try:
        image = image.copy()  # reads the pixels; the caller's stays as it is
        return _turned(_to_rgb(image, rendering), _orientation(image))
    except UnreadableImageError:
        raise
    except Exception as error:  # as in `_decode_bytes`
        raise UnreadableImageError(f"broken data: {error}") from error


def image_size(image: bytes | np.ndarray) -> tuple[int, int]:
    """Returns (height, width) from the header alone, before any EXIF rotation."""
    if isinstance(image, bytes):
        width, height = open_image(image).size
        return height, width
    return image.shape[0], image.shape[1]


def is_deep(image: Image.Image) -> bool:
    """Whether an image that Pillow has opened has more than 8 bits a channel, all of them kept."""
    return image.mode.startswith("I;16") or image.mode in ("I", "F")


def fitted_size(height: int, width: int, canvas: int) -> tuple[int, int]:
    """Returns the (height, width), in pixels, at which an image fits its canvas."""
    longer = max(height, width)
    if longer <= canvas:
        return height, width
    # Integers round alike on every machine; halves go up.
    fit = lambda side: max(1, (2 * side * canvas + longer) // (2 * longer))
    return fit(height), fit(width)


def open_image(data: bytes) -> Image.Image:
    """Reads the header, and refuses what must not be decoded.

    Raises:
      UnreadableImageError: as `decode` does.
    """
    if not data:
        raise UnreadableImageError("empty (0 bytes)")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(str(error)) from error
    except Image.UnidentifiedImageError as error:
        raise UnreadableImageError(
            f"no image that Pillow reads as one of {', '.join(FORMATS)}; "
            f"it starts with {data[:12]!r}"
        ) from error
    except Exception as error:  # hostile bytes: any exception can come out of a parser
        raise UnreadableImageError(f"broken header: {error}") from error
    width, height = image.size
    if not 0 < width * height <= MAX_PIXELS:
        raise UnreadableImageError(
            f"{width} x {height} pixels; an image must have between 1 and {MAX_PIXELS:,} pixels"
        )
    return image


def _decode_bytes(data: bytes, canvas: int, rendering: Rendering) -> Decoded:
    image = open_image(data)
    kind = image.format
    stored = image.height, image.width
    height, width = fitted_size(*stored, canvas)
    try:
        # A JPEG can be decoded at 1/2, 1/4 or 1/8 for a fraction of the time; Pillow takes the
        # smallest that is not below the size asked for.
        image.draft(None, (round(_REDUCING_GAP * width), round(_REDUCING_GAP * height)))
        image.load()
        orientation = _orientation(image)  # after load(): Pillow has turned a TIFF by itself
        pixels = _turned(_resize(_to_rgb(image, rendering), (height, width)), orientation)
    except UnreadableImageError:
        raise
    except Exception as error:  # as above: truncated data alone raises five kinds
        raise UnreadableImageError(f"broken {kind} data: {error}") from error
    return Decoded(pixels, stored[::-1] if orientation in _SIDEWAYS else stored)


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation; 1 (upright) where a camera wrote nonsense."""
    try:
        return image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # broken metadata must not cost the image
        return 1


def _turned(image: Image.Image, orientation: int) -> UInt8[np.ndarray, "h w 3"]:
    if orientation in _ORIENTATIONS:
        image = image.transpose(_ORIENTATIONS[orientation])
    return np.asarray(image)


def _resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    height, width = size
    if image.size == (width, height):
        return image
    return image.resize((width, height), _FILTER, reducing_gap=_REDUCING_GAP)


def _to_rgb(image: Image.Image, rendering: Rendering) -> Image.Image:
    if is_deep(image):
        # Pillow's own conversion clips: every value above 255 would become white.
        image = Image.fromarray(rendering.grey_levels(np.asarray(image)))
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, (*[rendering.ground] * 3, 255))
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")


def _check_array(image: np.ndarray) -> UInt8[np.ndarray, "..."]:
    """Returns uint8 [h, w] or [h, w, 3], or says what the array is instead."""
    if image.dtype != np.uint8:
        raise UserError(
            f"Images must be uint8 from 0 to 255, got {_describe_values(image)}. Convert them "
            "first, for values in [0, 1] with np.round(255 * x).astype(np.uint8)."
        )
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if image.ndim != 2 and not (image.ndim == 3 and image.shape[2] == 3):
        raise UserError(
            f"Images must have shape [h, w], [h, w, 1] or [h, w, 3], got {list(image.shape)}."
        )
    if image.size == 0:
        raise UnreadableImageError(f"an array of shape {list(image.shape)} has no pixels")
    return image


def _describe_values(values: np.ndarray) -> str:
    """Returns dtype, range and NaNs of an array, such as "float32 from 0 to 1, with 3 NaN"."""
    text = f"{values.dtype} of shape {list(values.shape)}"
    if not np.issubdtype(values.dtype, np.number) or values.size == 0:
        return text
    finite = values[np.isfinite(values)]
    if finite.size:
        text += f" from {finite.min():g} to {finite.max():g}"
    num_nan = int(np.isnan(values).sum())
    return f"{text}, with {num_nan} NaN" if num_nan else text
