"""Resizing and blurring as two products with matrices, one for each direction."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped


def apply_separably(
    rows: Float[Array, "out_h h"],
    planes: Sequence[Shaped[Array, "h w"]] | Shaped[Array, "c h w"],
    columns: Float[Array, "out_w w"],
    dtype: DTypeLike,
) -> Float[Array, "c out_h out_w"]:
    """Returns rows @ plane @ columns.T of each plane.

    Args:
      rows: weights of the input's rows in each row of the output.
      planes: channels, of any type. They stay apart, because on a TPU to put them together
        between two operations is one more pass over the pixels.
      columns: weights of the input's columns in each column of the output.
      dtype: type of the result, and of what is kept between the two products.
    """
    precise = jax.lax.Precision.HIGHEST  # a TPU would multiply in bfloat16 by default

    def apply(plane: Array) -> Array:
        half = jnp.matmul(rows, plane.astype(jnp.float32), precision=precise).astype(dtype)
        return jnp.matmul(half.astype(jnp.float32), columns.T, precision=precise).astype(dtype)

    return jnp.stack([apply(plane) for plane in planes])
