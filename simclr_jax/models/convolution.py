"""A square convolution in the form that is fast where it runs, with gradients of its own."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

NHWC = ("NHWC", "HWIO", "NHWC")
# On a CPU XLA has a fast kernel only where an image is larger than the convolution's kernel.
FEW_PIXELS = 4


def at_least_float32(dtype: DTypeLike) -> Any:
    """Returns the type for statistics and sums: float32, or `dtype` where it is wider."""
    return jnp.promote_types(dtype, jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(
    x: Float[Array, "n h w c"], kernel: Float[Array, "k k c features"], strides: int
) -> Float[Array, "n out_h out_w features"]:
    """Returns the convolution of x, zero-padded by k // 2 on every side, with an odd kernel.

    In a program for a CPU, a kernel of one pixel and an image of few pixels are matrix products:
    XLA's convolution of 2 x 2 pixels is a plain loop there, 100 times slower. TPUs and GPUs always
    get a convolution.
    """
    return _by_platform(_convolution, _product_for(x, kernel), strides, x, kernel)


def _forward(x, kernel, strides):
    return convolve(x, kernel, strides), (x, kernel)


def _backward(strides, residuals, dy):
    product = _product_for(*residuals)
    pull_back = product and functools.partial(_pull_back, product)
    return _by_platform(_gradients, pull_back, strides, *residuals, dy)


convolve.defvjp(_forward, _backward)


def _by_platform(
    convolution: Callable[..., Any], product: Callable[..., Any] | None, strides: int, *args: Array
) -> Any:
    """Calls the product, if there is one, in programs for a CPU, and else the convolution."""
    if product is None:
        return convolution(strides, *args)
    cpu, default = (functools.partial(fn, strides) for fn in (product, convolution))
    return jax.lax.platform_dependent(*args, cpu=cpu, default=default)


def _product_for(x: Array, kernel: Array) -> Callable[..., Array] | None:
    if len(kernel) == 1:
        return _product_of_pixels
    return _product_of_images if x.shape[1] * x.shape[2] <= FEW_PIXELS else None


def _convolution(strides: int, x: Array, kernel: Array) -> Array:
    p = len(kernel) // 2
    return jax.lax.conv_general_dilated(
        x, kernel, (strides, strides), ((p, p), (p, p)), dimension_numbers=NHWC
    )


def _gradients(strides: int, x: Array, kernel: Array, dy: Array) -> tuple[Array, Array]:
    """Returns the gradients for x and kernel, as convolutions.

    They are those that JAX would derive, with transpositions beside them in place of permuted
    dimensions. XLA does the same for a CPU, but outside of loops only: inside, the gradient for a
    kernel takes 80 times as long without it. A TPU program does not change.
    """
    k, p = len(kernel), len(kernel) // 2
    # Sizes of x, and of dy with strides - 1 zeros between its pixels.
    spreads = [(size - 1) * strides + 1 for size in dy.shape[1:3]]
    sizes = [*zip(x.shape[1:3], spreads, strict=True)]
    dx = jax.lax.conv_general_dilated(
        dy,
        kernel[::-1, ::-1].swapaxes(2, 3),
        (1, 1),
        [(k - 1 - p, size - spread + p) for size, spread in sizes],
        lhs_dilation=(strides, strides),
        dimension_numbers=NHWC,
    )
    # Channels take the place of rows, and rows that of channels.
    dkernel = jax.lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        dy.transpose(1, 2, 0, 3),
        (1, 1),
        [(p, k - 1 - p + spread - size) for size, spread in sizes],
        rhs_dilation=(strides, strides),
        dimension_numbers=NHWC,
    )
    return dx, dkernel.transpose(1, 2, 0, 3)


def _product_of_pixels(strides: int, x: Array, kernel: Array) -> Array:
    y = _dot("nhwc,cf->nhwf", x[:, ::strides, ::strides], kernel[0, 0])
    return y.astype(x.dtype)


def _product_of_images(strides: int, x: Array, kernel: Array) -> Array:
    """Multiplies whole images with a matrix that holds what each pixel of y has of each of x."""
    height, width = (_taps(size, len(kernel), strides, x.dtype) for size in x.shape[1:3])
    matrix = jnp.einsum("abr,xys,rscf->axcbyf", height, width, kernel)
    return _dot("naxc,axcbyf->nbyf", x, matrix).astype(x.dtype)


def _taps(size: int, k: int, strides: int, dtype: Any) -> Array:
    """Returns [i, o, t], one where the kernel's t-th tap takes pixel i to pixel o."""
    i, o, t = np.ogrid[:size, : -(-size // strides), :k]
    return jnp.asarray(i - strides * o == t - k // 2, dtype)


def _dot(equation: str, a: Array, b: Array) -> Array:
    return jnp.einsum(equation, a, b, preferred_element_type=at_least_float32(a.dtype))


def _pull_back(
    product: Callable[..., Array], strides: int, x: Array, kernel: Array, dy: Array
) -> tuple[Array, Array]:
    return jax.vjp(functools.partial(product, strides), x, kernel)[1](dy)
