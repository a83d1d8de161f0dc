"""Where views are cut from an image: boxes (y, x, height, width) in pixels of the whole image.

The host draws them, as it alone holds the image at its full size; `data.cut` cuts, and
`geometry.resize` enlarges on the device. This module uses NumPy, so that threads that decode need
no device.
"""

import math

import numpy as np
from jaxtyping import Int32

ASPECT_RANGE = (3 / 4, 4 / 3)
SAMPLERS = ("tf", "area")
# How often TensorFlow and torchvision draw before they give up.
TF_ATTEMPTS, AREA_ATTEMPTS = 100, 10
# The sampler of the official code also rejects a crop that shows less than this part of
# the object, and its object is the whole image: no crop below 10 %, whatever `min_area`.
MIN_OBJECT_COVERED = 0.1
CENTER_FRACTION = 0.875


def random_crop_boxes(
    bits: np.random.Philox,
    size: tuple[int, int],
    num: int,
    *,
    min_area: float = 0.08,
    max_area: float = 1.0,
    sampler: str = "tf",
) -> Int32[np.ndarray, "num 4"]:
    """Samples crops of one image.

    "tf" is TensorFlow's `sample_distorted_bounding_box`, which the official code uses. The aspect
    ratio (width / height) is uniform in [3/4, 4/3], and the height is a uniform integer between
    those that give the smallest and the largest area. Small crops are therefore more frequent
    than under a uniform area (mean 0.42 of a square image, not 0.54), and a crop below a tenth of
    the image is drawn again. A crop that is not as high as the image never holds its last row:
    the bound of the offset is exclusive. The same is true of columns. After 100 rejected draws
    the crop is the whole image.

    "area" is torchvision's `RandomResizedCrop`, which most PyTorch recipes use. The area is
    uniform, and so is the logarithm of the aspect ratio in the same range. After 10 draws that do
    not fit into the image the crop is the largest central one of an allowed aspect ratio.

    Args:
      bits: source of random words; NumPy promises that they stay the same.
      size: height and width of the image in pixels, at least 1.
      num: crops to draw.
      min_area: smallest area, as a fraction of the image, in (0, 1].
      max_area: largest area, in [min_area, 1]; with "tf" above 0.1.
      sampler: one of `SAMPLERS`.

    Source: Chen et al. 2020, https://arxiv.org/abs/2002.05709, Appendix A, and the official
    code (google-research/simclr, tf2/data_util.py).
    """
    is_tf = sampler == "tf"
    draw, attempts = (_tf_shape, TF_ATTEMPTS) if is_tf else (_area_shape, AREA_ATTEMPTS)
    instead = whole_box(size) if is_tf else _central_box(size)
    boxes = np.empty((num, 4), np.int32)
    for box in boxes:
        # All attempts have their words, so that the next crop's do not depend on this one's.
        first, second = _uniform(bits, attempts + 1)
        shapes = (
            draw(u, v, size, min_area, max_area)
            for u, v in zip(first[:-1], second[:-1], strict=True)
        )
        shape = next(filter(None, shapes), None)
        if shape is None:
            box[:] = instead
            continue
        free = [whole - side + (0 if is_tf else 1) for whole, side in zip(size, shape, strict=True)]
        box[:] = int(first[-1] * free[0]), int(second[-1] * free[1]), *shape
    return boxes


def _uniform(bits: np.random.Philox, num: int) -> list[list[float]]:
    """Returns two lists of uniform numbers in [0, 1), of 24 bits each."""
    words = bits.random_raw(2 * num) >> np.uint64(40)
    return (words / 2**24).reshape(2, num).tolist()


# One attempt is a dozen numbers: in Python it takes a tenth of the time of NumPy's arrays.


def _area_shape(
    u: float, v: float, size: tuple[int, int], min_area: float, max_area: float
) -> tuple[int, int] | None:
    """Returns the (height, width) that two uniform numbers give, if it fits into the image."""
    low, high = ASPECT_RANGE
    area = size[0] * size[1] * (min_area + u * (max_area - min_area))
    aspect = math.exp(math.log(low) + v * math.log(high / low))
    height, width = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
    return (height, width) if 0 < height <= size[0] and 0 < width <= size[1] else None


def _central_box(size: tuple[int, int]) -> Int32[np.ndarray, "4"]:
    """Returns the largest central crop of an allowed aspect ratio."""
    low, high = ASPECT_RANGE
    height, width = min(size[0], round(size[1] / low)), min(size[1], round(size[0] * high))
    return np.array([(size[0] - height) // 2, (size[1] - width) // 2, height, width], np.int32)


def _tf_shape(
    u: float, v: float, size: tuple[int, int], min_area: float, max_area: float
) -> tuple[int, int] | None:
    """Returns the (height, width) that two uniform numbers give, if the crop may be used."""
    whole = size[0] * size[1]
    low, high = ASPECT_RANGE
    aspect = low + u * (high - low)
    largest = round(math.sqrt(max_area * whole / aspect))
    if round(largest * aspect) > size[1]:
        largest = math.floor((size[1] + 0.5 - 1e-7) / aspect)
        largest -= round(largest * aspect) > size[1]
    largest = min(largest, size[0])
    smallest = min(round(math.sqrt(min_area * whole / aspect)), largest)
    height = smallest + int(v * (largest - smallest + 1))

    # Rounding may have left the range of areas by less than one row.
    height += height * round(height * aspect) < min_area * whole
    height -= height * round(height * aspect) > max_area * whole
    width = round(height * aspect)
    covered = height * width
    allowed = max(min_area, MIN_OBJECT_COVERED) * whole <= covered <= max_area * whole
    fits = 0 < height <= size[0] and 0 < width <= size[1]
    return (height, width) if allowed and fits else None


def center_crop_box(size: tuple[int, int]) -> Int32[np.ndarray, "4"]:
    """Returns the central square whose side is 87.5 % of the image's shorter side.

    Args:
      size: height and width of the image in pixels, at least 1.

    Returns:
      (y, x, height, width). The side is rounded half to even; an odd margin leaves one pixel
      more above and to the left.
    """
    height, width = size
    side = round(CENTER_FRACTION * min(size))
    return np.array([(height - side + 1) // 2, (width - side + 1) // 2, side, side], np.int32)


def whole_box(size: tuple[int, int]) -> Int32[np.ndarray, "4"]:
    """Returns the box that holds the whole image."""
    return np.array([0, 0, *size], np.int32)
