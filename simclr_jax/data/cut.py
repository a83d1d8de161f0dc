"""One view's part of an image: what the device needs of it, and no more pixels than the view.

Bicubic without antialiasing reads four rows and four columns for each of the view's, so a box
larger than the view is reduced here, to the official pixels, and a smaller one goes to the device
as it is, and is enlarged there.
"""

import numpy as np
from jaxtyping import Float32, Int, Shaped, UInt8


def cut(
    pixels: UInt8[np.ndarray, "h w c"], box: Int[np.ndarray, "4"], side: int
) -> UInt8[np.ndarray, "cut_h cut_w c"]:
    """Returns the pixels of a box; an axis longer than `side` is resized to it.

    Resizing rounds to whole grey levels, and clips the overshoot of sharp edges, once for both
    axes. What is not resized is the image's own pixels.

    Args:
      pixels: the whole image.
      box: (y, x, height, width) inside the image, at least 1 x 1.
      side: side of the view in pixels.
    """
    y, x, height, width = map(int, box)
    part: Shaped[np.ndarray, "h w c"] = pixels[y : y + height, x : x + width]
    if height <= side and width <= side:
        return part
    if height > side:
        part = _resize_rows(part, side)
    if width > side:
        # Columns become rows: copied in this order, NumPy's inner loop is not three channels long.
        part = _resize_rows(np.ascontiguousarray(part.transpose(1, 2, 0)), side).transpose(2, 0, 1)
    return np.ascontiguousarray(np.clip(part + np.float32(0.5), 0, 255).astype(np.uint8))


def _resize_rows(
    pixels: Shaped[np.ndarray, "h a b"], num_rows: int
) -> Float32[np.ndarray, "num_rows a b"]:
    """Resizes by cubic convolution with a = -0.5 (Keys 1981), without antialiasing.

    Pixel centres lie at half-integers. Taps outside are dropped, and the other weights of the
    row then sum to one.
    """
    height = pixels.shape[0]
    center = (np.arange(num_rows) + 0.5) * (height / num_rows) - 0.5
    taps = np.floor(center).astype(np.int64) + np.arange(-1, 3)[:, None]  # [4, num_rows]
    t = np.abs(center - taps)
    weights = np.where(t <= 1, ((1.5 * t - 2.5) * t) * t + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2)
    weights *= (taps >= 0) & (taps < height)
    weights = (weights / weights.sum(axis=0)).astype(np.float32)
    rows = pixels.reshape(height, -1).astype(np.float32, copy=False)
    out = np.zeros((num_rows, rows.shape[1]), np.float32)
    of_tap = np.empty_like(out)
    for tap, weight in zip(taps.clip(0, height - 1), weights, strict=True):
        np.take(rows, tap, axis=0, out=of_tap, mode="clip")  # "raise" would use a copy
        of_tap *= weight[:, None]
        out += of_tap
    return out.reshape(num_rows, *pixels.shape[1:])
