"""Max pooling after the stem, in the form that is fast where it runs."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

SIZE, STRIDES = 3, 2
# Rows and columns of minus infinity, ((above, below), (left, right)); "SAME" as TensorFlow.
Padding = str | tuple[tuple[int, int], tuple[int, int]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def max_pool(x: Float[Array, "n h w c"], padding: Padding) -> Float[Array, "n out_h out_w c"]:
    """Returns the maxima of windows of 3x3 pixels with stride 2.

    The gradient goes to the first largest pixel of a window. In a program for a CPU both passes
    go over the nine pixels of a window in turn: XLA's gradient is a loop over indices there and
    takes three times as long. They return the same bits; TPUs and GPUs get XLA's.

    Args:
      x: images.
      padding: see `Padding`.
    """
    cpu, default = (functools.partial(fn, padding) for fn in (_maxima_in_turn, _maxima))
    return jax.lax.platform_dependent(x, cpu=cpu, default=default)


def _forward(x, padding):
    return max_pool(x, padding), x


def _backward(padding, x, dy):
    cpu, default = (functools.partial(fn, padding) for fn in (_gradient_in_turn, _gradient))
    return (jax.lax.platform_dependent(x, dy, cpu=cpu, default=default),)


max_pool.defvjp(_forward, _backward)


def _maxima(padding: Any, x: Array) -> Array:  # for Flax a name, although it takes numbers
    return nn.max_pool(x, (SIZE, SIZE), (STRIDES, STRIDES), padding)


def _gradient(padding: Padding, x: Array, dy: Array) -> Array:
    return jax.vjp(functools.partial(_maxima, padding), x)[1](dy)[0]


def _maxima_in_turn(padding: Padding, x: Array) -> Array:
    return functools.reduce(jnp.maximum, _taps(padding, x))


def _gradient_in_turn(padding: Padding, x: Array, dy: Array) -> Array:
    maxima, before = _maxima_in_turn(padding, x), _pads(padding, x)
    found, parts = jnp.zeros(maxima.shape, bool), []
    for tap in _taps(padding, x):
        first = (tap == maxima) & ~found
        found = found | first
        parts.append(jnp.where(first, dy, 0))
    # Of the windows over a pixel, the one at the top left sees it last: in the order of XLA's sum.
    dx = jnp.zeros_like(x)
    for tap in reversed(range(len(parts))):
        edges = [(0, 0, 0)]
        for axis, offset in enumerate(divmod(tap, SIZE)):
            low = offset - before[axis][0]
            spread = (dy.shape[1 + axis] - 1) * STRIDES + 1  # with zeros between its pixels
            edges.append((low, x.shape[1 + axis] - low - spread, STRIDES - 1))
        dx = dx + jax.lax.pad(parts[tap], jnp.zeros((), dy.dtype), [*edges, (0, 0, 0)])
    return dx


def _taps(padding: Padding, x: Array) -> Iterator[Array]:
    """Yields what each of the nine places of a window sees, [n, out_h, out_w, c]."""
    x = jnp.pad(x, ((0, 0), *_pads(padding, x), (0, 0)), constant_values=-jnp.inf)
    height, width = ((size - SIZE) // STRIDES * STRIDES + 1 for size in x.shape[1:3])
    for i in range(SIZE):
        for j in range(SIZE):
            yield x[:, i : i + height : STRIDES, j : j + width : STRIDES]


def _pads(padding: Padding, x: Array) -> Sequence[tuple[int, int]]:
    if not isinstance(padding, str):
        return padding
    return jax.lax.padtype_to_pads(x.shape[1:3], (SIZE, SIZE), (STRIDES, STRIDES), padding)
