"""The bicubic resize of a cut to a view, on the device.

A resize is two matrix products, one per axis: row i of an [out, canvas] matrix holds the
weights with which output pixel i mixes the pixels of the canvas. The extent of the cut is in
the weights too (none outside), and so is the mirror (rows in reverse order), so cuts of any
size share one canvas shape and nothing is gathered.
"""

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, UInt8

from simclr_jax.augment.separable import apply_separably


def resize(
    canvas: UInt8[Array, "canvas_h canvas_w c"],
    size: Int[Array, "2"],
    *,
    shape: tuple[int, int],
    mirror: Bool[Array, ""] | bool = False,
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "c h w"]:
    """Resizes a cut to `shape`, bicubic and without antialiasing.

    Args:
      canvas: the cut at the top left of a canvas that may be larger.
      size: height and width of the cut in pixels, at least 1 x 1.
      shape: height and width of the result in pixels.
      mirror: whether to swap left and right.
      dtype: type of the result, and of what is kept between the two directions.

    Returns:
      Planar floats, 1.0 for the byte 255. Bicubic overshoots: values may leave [0, 1] by
      about 0.2, and the official code passes them on to the colour operations unclipped.
      It rounds positions to 1/1024 pixel, this does not: they differ by less than 1e-3.
    """
    rows = _resize_weights(size[0], canvas.shape[0], shape[0])
    columns = _resize_weights(size[1], canvas.shape[1], shape[1], mirror=mirror)
    planes = [canvas[..., c] for c in range(canvas.shape[-1])]
    return apply_separably(rows / 255, planes, columns, dtype)


def _resize_weights(
    extent: Int[Array, ""],
    canvas_px: int,
    out_px: int,
    *,
    mirror: Bool[Array, ""] | bool = False,
) -> Float[Array, "out canvas"]:
    """Returns the matrix that resizes pixels [0, extent) to `out_px` pixels.

    Pixel centres lie at half-integers. Taps outside the cut are dropped, and the other
    weights of the row then sum to one.
    """
    position = jnp.arange(out_px)
    position = jnp.where(mirror, out_px - 1 - position, position)
    center = (position + 0.5) * (extent / out_px) - 0.5
    pixel = jnp.arange(canvas_px)
    weights = _keys_cubic(jnp.abs(center[:, None] - pixel[None, :]))
    weights = jnp.where((pixel < extent)[None, :], weights, 0.0)
    return weights / jnp.sum(weights, axis=1, keepdims=True)


def _keys_cubic(t: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Cubic convolution kernel at distance t >= 0 in pixels, with a = -0.5 (Keys 1981)."""
    near = ((1.5 * t - 2.5) * t) * t + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    return jnp.where(t <= 1, near, jnp.where(t < 2, far, 0.0))
