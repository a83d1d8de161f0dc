"""Where a view is cut from an image, and the bicubic resize of that cut.

A resize is two matrix products, one per axis: row i of an [out, canvas] matrix holds the
weights with which output pixel i mixes the pixels of the canvas. The crop is in the
weights too (none outside the box), and so is the mirror (rows in reverse order), so
images of any size share one canvas shape and nothing is gathered.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, UInt8

from simclr_jax.augment.separable import apply_separably
from simclr_jax.core.types import PRNGKey

ASPECT_RANGE = (3 / 4, 4 / 3)
# How often TensorFlow and torchvision draw before they give up.
TF_ATTEMPTS, AREA_ATTEMPTS = 100, 10
# The sampler of the official code also rejects a crop that shows less than this part of
# the object, and its object is the whole image: no crop below 10 %, whatever `min_area`.
MIN_OBJECT_COVERED = 0.1
CENTER_FRACTION = 0.875


def random_crop_box(
    key: PRNGKey,
    size: Int[Array, "2"],
    *,
    min_area: float = 0.08,
    max_area: float = 1.0,
    sampler: str = "tf",
) -> Int[Array, "4"]:
    """Samples the crop of one view.

    "tf" is TensorFlow's `sample_distorted_bounding_box`, which the official code uses. The
    aspect ratio (width / height) is uniform in [3/4, 4/3], and the height is a uniform
    integer between those that give the smallest and the largest area. Small crops are
    therefore more frequent than under a uniform area (mean 0.42 of a square image, not
    0.54), and a crop below a tenth of the image is drawn again. A crop that is not as
    high as the image never holds its last row: the bound of the offset is exclusive.
    The same is true of columns. After 100 rejected draws the crop is the whole image.

    "area" is torchvision's `RandomResizedCrop`, which most PyTorch recipes use. The area is
    uniform, and so is the logarithm of the aspect ratio in the same range. After 10 draws that
    do not fit into the image the crop is the largest central one of an allowed aspect ratio.

    Args:
      key: one key per image and view.
      size: height and width of the image in pixels, at least 1.
      min_area: smallest area, as a fraction of the image, in (0, 1].
      max_area: largest area, in [min_area, 1]; with "tf" above 0.1.
      sampler: one of `SAMPLERS`.

    Returns:
      (y, x, height, width) in pixels, int32.

    Source: Chen et al. 2020, https://arxiv.org/abs/2002.05709, Appendix A, and the official
    code (google-research/simclr, tf2/data_util.py). All attempts are drawn at once and
    the first good one is taken; the distribution is the same.
    """
    return SAMPLERS[sampler](key, size, min_area, max_area)


def _tf_box(
    key: PRNGKey, size: Int[Array, "2"], min_area: float, max_area: float
) -> Int[Array, "4"]:
    unit = jax.random.uniform(key, (2, TF_ATTEMPTS + 1))  # the last pair places the crop
    shapes, accepted = _tf_shapes(unit[:, :-1], size, min_area, max_area)
    shape = jnp.where(jnp.any(accepted), _first(shapes, accepted), size)
    offset = (unit[:, -1] * (size - shape)).astype(jnp.int32)
    return jnp.concatenate([offset, shape])


def _area_box(
    key: PRNGKey, size: Int[Array, "2"], min_area: float, max_area: float
) -> Int[Array, "4"]:
    unit = jax.random.uniform(key, (2, AREA_ATTEMPTS + 1))
    low, high = ASPECT_RANGE
    area = (size[0] * size[1]) * (min_area + unit[0, :-1] * (max_area - min_area))
    aspect = jnp.exp(math.log(low) + unit[1, :-1] * math.log(high / low))
    shapes = jnp.rint(jnp.sqrt(jnp.stack([area / aspect, area * aspect]))).astype(jnp.int32)
    accepted = jnp.all((shapes > 0) & (shapes <= size[:, None]), axis=0)
    shape = _first(shapes, accepted)
    offset = (unit[:, -1] * (size - shape + 1)).astype(jnp.int32)
    fitting = jnp.rint(jnp.stack([size[1] / low, size[0] * high])).astype(jnp.int32)
    central = jnp.minimum(size, fitting)
    instead = jnp.concatenate([(size - central) // 2, central])
    return jnp.where(jnp.any(accepted), jnp.concatenate([offset, shape]), instead)


SAMPLERS = {"tf": _tf_box, "area": _area_box}


def _first(shapes: Int[Array, "2 n"], accepted: Bool[Array, " n"]) -> Int[Array, "2"]:
    """Returns the first shape that is accepted, or any if none is."""
    first = jnp.arange(accepted.size) == jnp.argmax(accepted)
    return jnp.sum(shapes * first[None], axis=1)  # a masked sum: TPUs gather slowly


def _tf_shapes(
    unit: Float[Array, "2 n"], size: Int[Array, "2"], min_area: float, max_area: float
) -> tuple[Int[Array, "2 n"], Bool[Array, " n"]]:
    """Turns pairs of uniform numbers in [0, 1) into (height, width), and says which may be used."""
    image_height, image_width = size[0], size[1]
    area = (image_height * image_width).astype(jnp.float32)
    low, high = ASPECT_RANGE
    aspect = low + unit[0] * (high - low)

    def width_of(height):
        return jnp.rint(height * aspect).astype(jnp.int32)

    largest = jnp.rint(jnp.sqrt(max_area * area / aspect)).astype(jnp.int32)
    fitting = jnp.floor((image_width + (0.5 - 1e-7)) / aspect).astype(jnp.int32)
    fitting = fitting - (width_of(fitting) > image_width)
    largest = jnp.where(width_of(largest) > image_width, fitting, largest)
    largest = jnp.minimum(largest, image_height)
    smallest = jnp.rint(jnp.sqrt(min_area * area / aspect)).astype(jnp.int32)
    smallest = jnp.minimum(smallest, largest)
    height = smallest + (unit[1] * (largest - smallest + 1)).astype(jnp.int32)

    # Rounding may have left the range of areas by less than one row.
    height = height + (height * width_of(height) < min_area * area)
    height = height - (height * width_of(height) > max_area * area)
    width = width_of(height)
    covered = (height * width).astype(jnp.float32)
    accepted = (
        (covered >= min_area * area)
        & (covered <= max_area * area)
        & (covered / area >= MIN_OBJECT_COVERED)
        & (height <= image_height)
        & (width <= image_width)
        & (jnp.minimum(height, width) > 0)
    )
    return jnp.stack([height, width]), accepted


def center_crop_box(size: Int[Array, "2"]) -> Int[Array, "4"]:
    """Returns the central square whose side is 87.5 % of the image's shorter side.

    Args:
      size: height and width of the image in pixels, at least 1.

    Returns:
      (y, x, height, width) in pixels, int32. The side is rounded half to even; an odd
      margin leaves one pixel more above and to the left.
    """
    side = jnp.rint(CENTER_FRACTION * jnp.min(size)).astype(jnp.int32)
    square = jnp.stack([side, side])
    return jnp.concatenate([(size - square + 1) // 2, square])


def whole_box(size: Int[Array, "2"]) -> Int[Array, "4"]:
    """Returns the box (y, x, height, width) that holds the whole image."""
    return jnp.concatenate([jnp.zeros_like(size), size])


def crop_resize(
    canvas: UInt8[Array, "canvas_h canvas_w c"],
    box: Int[Array, "4"],
    *,
    shape: tuple[int, int],
    mirror: Bool[Array, ""] | bool = False,
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "c h w"]:
    """Cuts `box` out of the canvas and resizes it to `shape`, bicubic and without antialiasing.

    Args:
      canvas: the image at the top left of a canvas that may be larger.
      box: (y, x, height, width) in pixels, inside the image, at least 1 x 1.
      shape: height and width of the result in pixels.
      mirror: whether to swap left and right.
      dtype: of the result, and of what is kept between the two directions.

    Returns:
      Planar floats, 1.0 for the byte 255. Bicubic overshoots: values may leave [0, 1] by
      about 0.2, and the official code passes them on to the colour operations unclipped.
      It rounds positions to 1/1024 pixel, this does not: they differ by less than 1e-3.
    """
    rows = _resize_weights(box[0], box[2], canvas.shape[0], shape[0])
    columns = _resize_weights(box[1], box[3], canvas.shape[1], shape[1], mirror=mirror)
    planes = [canvas[..., c] for c in range(canvas.shape[-1])]
    return apply_separably(rows / 255, planes, columns, dtype)


def _resize_weights(
    offset: Int[Array, ""],
    extent: Int[Array, ""],
    canvas_px: int,
    out_px: int,
    *,
    mirror: Bool[Array, ""] | bool = False,
) -> Float[Array, "out canvas"]:
    """Returns the matrix that resizes pixels [offset, offset + extent) to `out_px` pixels.

    Pixel centres lie at half-integers. Taps outside the cut are dropped, and the other
    weights of the row then sum to one.
    """
    position = jnp.arange(out_px)
    position = jnp.where(mirror, out_px - 1 - position, position)
    center = (position + 0.5) * (extent / out_px) - 0.5
    pixel = jnp.arange(canvas_px) - offset
    weights = _keys_cubic(jnp.abs(center[:, None] - pixel[None, :]))
    weights = jnp.where(((pixel >= 0) & (pixel < extent))[None, :], weights, 0.0)
    return weights / jnp.sum(weights, axis=1, keepdims=True)


def _keys_cubic(t: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Cubic convolution kernel at distance t >= 0 in pixels, with a = -0.5 (Keys 1981)."""
    near = ((1.5 * t - 2.5) * t) * t + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    return jnp.where(t <= 1, near, jnp.where(t < 2, far, 0.0))
