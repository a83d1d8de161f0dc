"""Whether an exported encoder computes what the JAX encoder does, on real photographs."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image

from simclr_jax.core.errors import UserError

# Top, left and side of four square crops, as fractions of the height, the width and the shorter
# side: the centre of the whole image, and parts of it at other scales.
_CROPS = ((0.0, 0.17, 1.0), (0.0, 0.0, 0.6), (0.5, 0.6, 0.5), (0.3, 0.4, 0.3))


class Difference(NamedTuple):
    """How far apart two sets of representations are.

    Attributes:
      absolute: largest difference between two elements.
      relative: the same, divided by the largest absolute value of the wanted ones.
    """

    absolute: float
    relative: float


def photographs(size_px: int, channels: int = 3) -> Float[np.ndarray, "n h w c"]:
    """Returns 8 square crops of the two photographs that come with scikit-learn.

    Real images, so that the difference is the one that people will meet.

    Args:
      size_px: side of the images.
      channels: how many each image has: red, green and blue, as often as it takes.

    Returns:
      float32 in [0, 1]; the same on every machine.
    """
    from sklearn.datasets import load_sample_images  # here: it takes a second to import

    images = []
    for photograph in load_sample_images().images:
        height, width = photograph.shape[:2]
        for top, left, side in _CROPS:
            y, x, side_px = int(top * height), int(left * width), int(side * min(height, width))
            crop = Image.fromarray(photograph[y : y + side_px, x : x + side_px])
            images.append(crop.resize((size_px, size_px), Image.Resampling.BICUBIC))
    rgb = np.stack([np.asarray(image, np.float32) / 255 for image in images])
    return rgb[..., np.arange(channels) % 3]


def difference(got: Float[np.ndarray, "n d"], want: Float[np.ndarray, "n d"]) -> Difference:
    """Returns how far representations are from those of the JAX encoder.

    Raises:
      UserError: if the latter are not finite, or all zero: then nothing can be compared.
    """
    largest = float(np.abs(want).max())
    if not 0 < largest < np.inf:
        raise UserError(
            f"The largest feature of the encoder on {len(want)} photographs is {largest}: there is "
            "nothing to export. Check the run with `evaluate` or in its metrics.jsonl."
        )
    absolute = float(np.abs(got.astype(np.float64) - want).max())
    return Difference(absolute, absolute / largest)
