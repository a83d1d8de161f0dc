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
# What a core's cache holds; transposing more than that is slow.
CACHE_BYTES = 3 * 2**20


def at_least_float32(dtype: DTypeLike) -> Any:
    """Returns the type for statistics and sums: float32, or `dtype` where it is wider."""
    return jnp.promote_types(dtype, jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(
    x: Float[Array, "n h w c"], kernel: Float[Array, "k k c features"], strides: int
) -> Float[Array, "n out_h out_w features"]:
    """Returns the convolution of x, zero-padded by k // 2 on every side, with an odd kernel.

    In a program for a CPU, a kernel of one pixel and an image of few pixels are matrix products:
    XLA's convolution of 2 x 2 pixels is a plain loop there, 100 times slower. The gradient for a
    kernel is a sum of products over parts of a large batch: XLA's convolution transposes both of
    its operands first, on one core, and takes up to ten times as long. TPUs and GPUs always get a
    convolution.
    """
    return _by_platform(_convolution, _product_for(x, kernel), strides, x, kernel)


def convolve_up(
    x: Float[Array, "n h w c"], kernel: Float[Array, "4 4 c features"]
) -> Float[Array, "n up_h up_w features"]:
    """Returns the transposed convolution with stride 2, which doubles height and width.

    In a program for a CPU it is one matrix product: XLA's convolution there multiplies with the
    zeros between the pixels, too, and takes up to nine times as long with its gradients.
    """
    return jax.lax.platform_dependent(x, kernel, cpu=_product_up, default=_convolution_up)


def _convolution_up(x: Array, kernel: Array) -> Array:
    return jax.lax.conv_transpose(x, kernel, (2, 2), "SAME", dimension_numbers=NHWC)


def _product_up(x: Array, kernel: Array) -> Array:
    """Multiplies each square of 2 x 2 pixels with what it adds to the four in its middle."""
    n, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    corners = [x[:, i : i + h + 1, j : j + w + 1] for i in range(2) for j in range(2)]
    # Taps 0 and 2 reach the upper of two rows, 1 and 3 the lower one; columns are alike.
    taps = kernel.reshape(2, 2, 2, 2, c, -1).transpose(0, 2, 4, 1, 3, 5).reshape(4 * c, -1)
    y = _dot("nhwc,cf->nhwf", jnp.concatenate(corners, axis=-1), taps)
    y = y.reshape(n, h + 1, w + 1, 2, 2, -1).astype(x.dtype)
    y = jnp.stack([y[:, :-1, :, 0], y[:, 1:, :, 1]], axis=2)
    y = jnp.stack([y[:, :, :, :-1, 0], y[:, :, :, 1:, 1]], axis=4)
    return y.reshape(n, 2 * h, 2 * w, -1)


def _forward(x, kernel, strides):
    return convolve(x, kernel, strides), (x, kernel)


def _backward(strides, residuals, dy):
    product = _product_for(*residuals)
    on_cpu = functools.partial(_pull_back, product) if product else _gradients_by_parts
    return _by_platform(_gradients, on_cpu, strides, *residuals, dy)


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
    # Channels take the place of rows, and rows that of channels.
    dkernel = jax.lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        dy.transpose(1, 2, 0, 3),
        (1, 1),
        [(p, k - 1 - p + spread - size) for size, spread in _sizes(strides, x, dy)],
        rhs_dilation=(strides, strides),
        dimension_numbers=NHWC,
    )
    return _input_gradient(strides, x, kernel, dy), dkernel.transpose(1, 2, 0, 3)


def _input_gradient(strides: int, x: Array, kernel: Array, dy: Array) -> Array:
    k, p = len(kernel), len(kernel) // 2
    return jax.lax.conv_general_dilated(
        dy,
        kernel[::-1, ::-1].swapaxes(2, 3),
        (1, 1),
        [(k - 1 - p, size - spread + p) for size, spread in _sizes(strides, x, dy)],
        lhs_dilation=(strides, strides),
        dimension_numbers=NHWC,
    )


def _sizes(strides: int, x: Array, dy: Array) -> list[tuple[int, int]]:
    """Returns heights, and widths, of x and of dy with strides - 1 zeros between its pixels."""
    spreads = [(size - 1) * strides + 1 for size in dy.shape[1:3]]
    return [*zip(x.shape[1:3], spreads, strict=True)]


def _gradients_by_parts(strides: int, x: Array, kernel: Array, dy: Array) -> tuple[Array, Array]:
    """Returns what `_gradients` does, the kernel's as a sum over parts of a large batch."""
    if x.size * x.dtype.itemsize <= _num_devices(x) * CACHE_BYTES:
        return _gradients(strides, x, kernel, dy)
    k, (_, spread_h), (_, spread_w) = len(kernel), *_sizes(strides, x, dy)

    def of_part(x: Array, dy: Array) -> Array:
        p = k // 2
        x = jnp.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))
        # What a row of the kernel sees: its columns beside each other, [n, h, out_w, k * c].
        rows = jnp.concatenate([x[:, :, j : j + spread_w : strides] for j in range(k)], axis=-1)
        product = lambda i: _dot("nhwc,nhwf->cf", rows[:, i : i + spread_h : strides], dy)
        return jnp.stack([product(i) for i in range(k)])

    bytes_of_rows = k * x.shape[-1] * dy.shape[1] * dy.shape[2] * x.dtype.itemsize  # of an image
    dkernel = _sum_of_parts(of_part, max(1, CACHE_BYTES // bytes_of_rows), x, dy)
    return _input_gradient(strides, x, kernel, dy), dkernel.reshape(kernel.shape).astype(x.dtype)


def _num_devices(x: Array) -> int:
    """Returns over how many devices the images of x are split."""
    mesh = jax.typeof(x).sharding.mesh
    return 1 if mesh.empty or len(x) % mesh.size else mesh.size


def _sum_of_parts(fn: Callable[..., Array], size: int, x: Array, dy: Array) -> Array:
    """Returns fn(x, dy), a sum over images, computed for at most `size` of each device at a time.

    Images stay on their devices, whose sums are added up at the end.
    """
    num_devices = _num_devices(x)
    num_images = len(x) // num_devices
    num_parts = -(-num_images // size)
    size = -(-num_images // num_parts)  # so that little is filled up, with zeros

    def split(x: Array) -> Array:  # [n, ...] -> [parts, devices, size, ...]
        x = x.reshape(num_devices, num_images, *x.shape[1:])
        fill = num_parts * size - num_images
        x = jnp.pad(x, ((0, 0), (0, fill), *((0, 0) for _ in x.shape[2:])))
        return x.reshape(num_devices, num_parts, size, *x.shape[2:]).swapaxes(0, 1)

    parts = (split(x), split(dy))
    by_device = jax.vmap(fn)
    sums = jax.eval_shape(by_device, *(x[0] for x in parts))
    add = lambda total, part: (total + by_device(*part), None)
    return jax.lax.scan(add, jnp.zeros(sums.shape, sums.dtype), parts)[0].sum(axis=0)


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
