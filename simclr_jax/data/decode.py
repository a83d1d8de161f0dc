"""Encoded images to uint8 pixels: bytes or arrays in, no larger than asked for.

Pillow only: OpenCV returns a truncated JPEG without an error, half of it grey. The header is
judged before a pixel is decoded, so that a file of a few kilobytes cannot claim gigabytes.
"""

import dataclasses
import io
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image, TiffImagePlugin

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
_SAMPLES_TAG = 277  # of a TIFF: channels of a pixel
_CONVERTED = {1: "L", 3: "RGB"}  # channels that files of any kind are converted to


@dataclasses.dataclass(frozen=True)
class Rendering:
    """How what a file stores becomes grey levels from 0 to 255.

    Attributes:
      ground: grey level behind transparent pixels, from 0 to 255.
      value_range: which values become 0 and 255 in images with more than 8 bits a channel. "type":
        0 and 65535, for 16 bits; "file": the least and the largest of each file, or of each page
        that is a channel; "LOW:HIGH": these two, of all files, such as "0:4095" for 12 bits. What
        lies outside is clipped.
      channels: 3, RGB, or 1, grey, for which files of any kind are converted; another number: the
        channels that files store, alpha included, with nothing converted or blended.
    """

    ground: int = 255
    value_range: str = "type"
    channels: int = 3

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
      pixels: uint8 [h, w, c], in RGB if c is 3.
      size: (height, width) before it was scaled down, after it was turned upright.
    """

    pixels: np.ndarray
    size: tuple[int, int]


def decode(image: bytes | np.ndarray, *, canvas: int, rendering: Rendering = RENDERING) -> Decoded:
    """Returns the pixels of an image and its size.

    An image larger than the canvas is scaled down until its longer side fits, with an
    antialiasing filter; a smaller one is never scaled up. The aspect is kept, save that no side
    becomes shorter than 1. EXIF orientation is applied. Greyscale and palette become RGB, what is
    transparent shows the ground (TensorFlow's and torchvision's readers drop alpha, and show what a
    program left there), more than 8 bits are scaled to 8, and of an animation the first frame is
    taken. Where `rendering` asks for other channels than RGB or grey, they are the file's own; the
    pages of a TIFF follow each other.

    Args:
      image: an encoded file of one of `FORMATS`, or uint8 of shape [h, w], [h, w, 1] or [h, w, 3];
        [h, w, c] if c channels are asked for.
      canvas: side in pixels of the square that the image must fit into.
      rendering: how what a file stores becomes grey levels.

    Raises:
      UnreadableImageError: if the bytes are no complete image of a known format, or claim
        more than `MAX_PIXELS` pixels, or store other channels, or if an array has no pixels.
      UserError: if an array has another dtype or shape; then all its neighbours have, too.
    """
    if isinstance(image, bytes):
        return _decode_bytes(image, canvas, rendering)
    channels = rendering.channels
    pixels = _check_array(image, channels)
    height, width = pixels.shape[:2]
    fitted = fitted_size(height, width, canvas)
    if channels not in _CONVERTED:
        planes = (Image.fromarray(pixels[:, :, c]) for c in range(channels))
        return Decoded(_stacked(_resize(plane, fitted) for plane in planes), (height, width))
    if fitted != (height, width):
        pixels = np.asarray(_resize(Image.fromarray(pixels), fitted))
    if pixels.ndim == 3 and channels == 1:
        pixels = np.asarray(Image.fromarray(pixels).convert("L"))
    if pixels.ndim == 2:
        pixels = np.broadcast_to(pixels[:, :, None], (*pixels.shape, channels))
    return Decoded(pixels, (height, width))


def opened_pixels(
    image: Image.Image, rendering: Rendering = RENDERING
) -> UInt8[np.ndarray, "h w c"]:
    """Returns the pixels of an image that Pillow has opened, upright, as `decode` would.

    Raises:
      UnreadableImageError: if its file turns out broken, or `rendering` doesn't fit its values.
    """
    try:
        image = image.copy()  # reads the pixels; the caller's stays as it is
        orientation = _orientation(image)
        return _stacked(_turned(part, orientation) for part in _parts(image, rendering))
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
        parts = (_resize(part, (height, width)) for part in _parts(image, rendering))
        pixels = _stacked(_turned(part, orientation) for part in parts)
    except UnreadableImageError:
        raise
    except Exception as error:  # as above: truncated data alone raises five kinds
        raise UnreadableImageError(f"broken {kind} data: {error}") from error
    height, width = stored[::-1] if orientation in _SIDEWAYS else stored
    return Decoded(pixels, (height, width))


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation; 1 (upright) where a camera wrote nonsense."""
    try:
        return image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # broken metadata must not cost the image
        return 1


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    known = orientation in _ORIENTATIONS
    return image.transpose(_ORIENTATIONS[orientation]) if known else image


def _stacked(images: Iterable[Image.Image]) -> UInt8[np.ndarray, "h w c"]:
    """Returns the pixels of one image, or of several as channels."""
    arrays = [np.asarray(image) for image in images]
    if len(arrays) == 1:  # no copy
        return arrays[0] if arrays[0].ndim == 3 else arrays[0][:, :, None]
    return np.dstack(arrays)


def _resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    height, width = size
    if image.size == (width, height):
        return image
    return image.resize((width, height), _FILTER, reducing_gap=_REDUCING_GAP)


def _parts(image: Image.Image, rendering: Rendering) -> Sequence[Image.Image]:
    """Returns an opened image with the channels asked for: as one image, or one for each."""
    if rendering.channels not in _CONVERTED:
        return _stored_channels(image, rendering)
    image = _shallow(image, rendering)
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, (*[rendering.ground] * 3, 255))
        image = Image.alpha_composite(ground, image.convert("RGBA"))
    mode = _CONVERTED[rendering.channels]
    return [image if image.mode == mode else image.convert(mode)]


def _shallow(image: Image.Image, rendering: Rendering) -> Image.Image:
    """Returns an image with 8 bits a channel."""
    if is_deep(image):
        # Pillow's own conversion clips: every value above 255 would become white.
        return Image.fromarray(rendering.grey_levels(np.asarray(image)))
    return image


def _stored_channels(image: Image.Image, rendering: Rendering) -> list[Image.Image]:
    """Returns the channels of all pages of a file, or says how many it has instead."""
    wanted, size = rendering.channels, image.size
    found: list[Image.Image] = []
    last = wanted if isinstance(image, TiffImagePlugin.TiffImageFile) else 0
    for page in range(last + 1):  # one more than can be needed
        if page:
            try:
                image.seek(page)
            except EOFError:
                break
        if image.size != size:  # said by its header, before it is decoded
            raise UnreadableImageError(
                f"page 1 has {size[0]} x {size[1]} pixels, page {page + 1} "
                f"{image.size[0]} x {image.size[1]}: they cannot be channels of one image"
            )
        found += _bands(image, rendering)
        if len(found) > wanted:
            break
    if len(found) != wanted:
        more = " or more" if len(found) > wanted else ""
        raise UnreadableImageError(
            f"it stores {len(found)}{more} channels (mode {image.mode}), and config.data.channels "
            f"is {wanted}; only for 3 and 1 are images converted"
        )
    return found


def _bands(image: Image.Image, rendering: Rendering) -> Sequence[Image.Image]:
    if image.mode in ("1", "P", "PA"):
        rgb = "RGBA" if image.has_transparency_data else "RGB"
        return image.convert("L" if image.mode == "1" else rgb).split()
    bands = _shallow(image, rendering).split()
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        stored = image.tag_v2.get(_SAMPLES_TAG, 1)
        if stored != len(bands):  # Pillow would leave the others out
            raise UnreadableImageError(
                f"it stores {stored} channels a pixel, of which Pillow reads {len(bands)}; store "
                "each channel as a page of its own"
            )
    return bands


def _check_array(image: np.ndarray, channels: int) -> UInt8[np.ndarray, "..."]:
    """Returns uint8 [h, w] or [h, w, c], or says what the array is instead."""
    if image.dtype != np.uint8:
        raise UserError(
            f"Images must be uint8 from 0 to 255, got {_describe_values(image)}. Convert them "
            "first, for values in [0, 1] with np.round(255 * x).astype(np.uint8)."
        )
    if channels not in _CONVERTED:
        if image.ndim != 3 or image.shape[2] != channels:
            raise UserError(
                f"Images must have shape [h, w, {channels}] for config.data.channels={channels}, "
                f"got {list(image.shape)}."
            )
        return _require_pixels(image)
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if image.ndim != 2 and not (image.ndim == 3 and image.shape[2] == 3):
        raise UserError(
            f"Images must have shape [h, w], [h, w, 1] or [h, w, 3], got {list(image.shape)}."
        )
    return _require_pixels(image)


def _require_pixels(image: np.ndarray) -> np.ndarray:
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


def as_rgb(pixels: UInt8[np.ndarray, "*b c"]) -> UInt8[np.ndarray, "*b 3"]:
    """Returns pixels of any channels as people can see them: the first three, or grey if one."""
    channels = pixels.shape[-1]
    if channels == 3:
        return pixels
    if channels == 1:
        return np.repeat(pixels, 3, axis=-1)
    blank = np.zeros((*pixels.shape[:-1], max(0, 3 - channels)), np.uint8)
    return np.concatenate([pixels[..., :3], blank], axis=-1)
