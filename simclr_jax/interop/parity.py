"""Whether an exported encoder computes what the JAX encoder does, on photographs or sounds."""

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
      channels: how many each image has: red, green and blue, repeated as often as needed.

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


def sounds(num_samples: int, rate: int) -> Float[np.ndarray, "n samples"]:
    """Returns 8 sounds as files of 16 bits hold them: notes that fade, in rooms with some noise.

    Decibels differ most where there is next to no sound, so the notes go from loud to soft, from
    low to high and from long to short, and the noise from that of a street down to the last bit.

    Args:
      num_samples: length of each.
      rate: samples per second.

    Returns:
      float32 in [-1, 1]; the same on every machine.
    """
    rng, t = np.random.default_rng(0), np.arange(num_samples) / rate
    clips = []
    for i in range(8):
        hz = 110 * 2 ** (i / 2)
        overtones = [k for k in range(1, 6) if k * hz < rate / 2]
        waves = [np.sin(2 * np.pi * k * hz * t) / k for k in overtones]
        note = 0.4 * 2 ** (-i / 2) * sum(waves) * np.exp(-i * t)
        noise = rng.standard_normal(num_samples) * 10 ** (-1 - i / 2)
        clips.append(np.clip(note + noise, -1, 1))
    return (np.round(np.stack(clips) * (2**15 - 1)) / 2**15).astype(np.float32)


def difference(
    got: Float[np.ndarray, "n d"], want: Float[np.ndarray, "n d"], examples: str
) -> Difference:
    """Returns how far representations are from those of the JAX encoder.

    Args:
      got: what is compared.
      want: those of the JAX encoder.
      examples: what they are of, such as "photographs".

    Raises:
      UserError: if the latter are not finite, or all zero: then nothing can be compared.
    """
    largest = float(np.abs(want).max())
    if not 0 < largest < np.inf:
        raise UserError(
            f"The largest feature of the encoder on {len(want)} {examples} is {largest}: there is "
            "nothing to export. Check the run with `evaluate` or in its metrics.jsonl."
        )
    absolute = float(np.abs(got.astype(np.float64) - want).max())
    return Difference(absolute, absolute / largest)
