"""Where views are cut from an image: boxes (y, x, height, width) in pixels of the whole image.

The host draws them, as it alone holds the image as large as it is; `data.cut` cuts, and
`geometry.resize` enlarges on the device. In NumPy, so that threads that decode need no device.
"""

import math

import numpy as np
from jaxtyping import Bool, Float32, Int32

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
      bits: where random words come from; NumPy promises that they stay the same.
      size: height and width of the image in pixels, at least 1.
      num: crops to draw.
      min_area: smallest area, as a fraction of the image, in (0, 1].
      max_area: largest area, in [min_area, 1]; with "tf" above 0.1.
      sampler: one of `SAMPLERS`.

    Source: Chen et al. 2020, https://arxiv.org/abs/2002.05709, Appendix A, and the official
    code (google-research/simclr, tf2/data_util.py). All attempts are drawn at once and the first
    good one is taken; the distribution is the same.
    """
    is_tf, whole = sampler == "tf", np.array(size)
    unit = _uniform(bits, num, (TF_ATTEMPTS if is_tf else AREA_ATTEMPTS) + 1)
    shapes = _tf_shapes if is_tf else _area_shapes
    tried, accepted = shapes(unit[:, :, :-1], size, min_area, max_area)
    first = np.argmax(accepted, axis=1)[:, None, None]
    shape = np.take_along_axis(tried, first, axis=2)[:, :, 0]
    offset = (unit[:, :, -1] * (whole - shape + (0 if is_tf else 1))).astype(np.int32)
    boxes = np.concatenate([offset, shape], axis=1)
    instead = whole_box(size) if is_tf else _central_box(size)
    return np.where(accepted.any(axis=1, keepdims=True), boxes, instead).astype(np.int32)


def _uniform(bits: np.random.Philox, num: int, num_pairs: int) -> Float32[np.ndarray, "num 2 n"]:
    """Returns pairs of uniform numbers in [0, 1); the last pair of each row places a crop."""
    words = bits.random_raw(num * 2 * num_pairs).reshape(num, 2, num_pairs)
    return (words >> np.uint64(40)).astype(np.float32) / np.float32(2**24)


def _area_shapes(
    unit: Float32[np.ndarray, "num 2 n"], size: tuple[int, int], min_area: float, max_area: float
) -> tuple[Int32[np.ndarray, "num 2 n"], Bool[np.ndarray, "num n"]]:
    low, high = ASPECT_RANGE
    area = size[0] * size[1] * (min_area + unit[:, 0] * (max_area - min_area))
    aspect = np.exp(math.log(low) + unit[:, 1] * math.log(high / low))
    sides = np.sqrt(np.stack([area / aspect, area * aspect], axis=1))
    shapes = np.rint(sides).astype(np.int32)
    fits = (shapes > 0) & (shapes <= np.array(size)[:, None])
    return shapes, np.all(fits, axis=1, keepdims=True)[:, 0]


def _central_box(size: tuple[int, int]) -> Int32[np.ndarray, "4"]:
    """Returns the largest central crop of an allowed aspect ratio."""
    low, high = ASPECT_RANGE
    fitting = np.rint([size[1] / low, size[0] * high]).astype(np.int32)
    side = np.minimum(np.array(size, np.int32), fitting)
    return np.concatenate([(np.array(size, np.int32) - side) // 2, side])


def _tf_shapes(
    unit: Float32[np.ndarray, "num 2 n"], size: tuple[int, int], min_area: float, max_area: float
) -> tuple[Int32[np.ndarray, "num 2 n"], Bool[np.ndarray, "num n"]]:
    """Turns pairs of uniform numbers in [0, 1) into (height, width), and says which may be used."""
    image_height, image_width = size
    area = np.float32(image_height * image_width)
    low, high = ASPECT_RANGE
    aspect = np.float32(low) + unit[:, 0] * np.float32(high - low)
    round_ = lambda x: np.rint(x).astype(np.int32)
    width_of = lambda height: round_(height.astype(np.float32) * aspect)

    largest = round_(np.sqrt(np.float32(max_area) * area / aspect))
    fitting = np.floor(np.float32(image_width + (0.5 - 1e-7)) / aspect).astype(np.int32)
    fitting = fitting - (width_of(fitting) > image_width)
    largest = np.where(width_of(largest) > image_width, fitting, largest)
    largest = np.minimum(largest, image_height)
    smallest = round_(np.sqrt(np.float32(min_area) * area / aspect))
    smallest = np.minimum(smallest, largest)
    height = smallest + (unit[:, 1] * (largest - smallest + 1)).astype(np.int32)

    # Rounding may have left the range of areas by less than one row.
    height = height + (height * width_of(height) < min_area * area)
    height = height - (height * width_of(height) > max_area * area)
    width = width_of(height)
    covered = height * width
    accepted = (
        (covered >= min_area * area)
        & (covered <= max_area * area)
        & (covered >= MIN_OBJECT_COVERED * area)
        & (height <= image_height)
        & (width <= image_width)
        & (np.minimum(height, width) > 0)
    )
    return np.stack([height, width], axis=1), accepted


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
