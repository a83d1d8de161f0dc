"""Convolution, BatchNorm and selective-kernel layers as SimCLR's ResNets use them."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from simclr_jax.models.convolution import at_least_float32, convolve

MOMENTUM, EPSILON = 0.9, 1e-5  # of BatchNorm
# Kernels of convolutions at first: as in the official code, and as in torchvision's ResNets.
KERNEL_INITS = {
    "lecun": nn.initializers.lecun_normal(),
    "he_fan_out": nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
}
CONV_OUTPUT = "conv_output"  # what `ResNet.remat` = "convs" keeps for the backward pass


class Conv(nn.Module):
    """A square convolution without bias, zero-padded by `kernel // 2` on every side.

    With a stride, "SAME" would pad even inputs only at the bottom right; the official code
    pads both sides.

    Attributes:
      features: channels of the output.
      kernel: height and width of the kernel, odd.
      strides: strides in both directions.
      dtype: type of the products and of the output; the parameter "kernel" is float32.
      kernel_init: one of `KERNEL_INITS`.
    """

    features: int
    kernel: int
    strides: int = 1
    dtype: DTypeLike = jnp.float32
    kernel_init: str = "lecun"

    @nn.compact
    def weights(self, channels: int) -> Float[Array, "k k channels features"]:
        """Returns the parameter "kernel" for an input with so many channels."""
        shape = (self.kernel, self.kernel, channels, self.features)
        return jnp.asarray(self.param("kernel", KERNEL_INITS[self.kernel_init], shape))

    def __call__(
        self, x: Float[Array, "n h w c"], sign: Float[Array, " features"] | None = None
    ) -> Float[Array, "n out_h out_w features"]:
        """Returns the convolution, named `CONV_OUTPUT` for rematerialisation policies.

        Args:
          x: input of the layer.
          sign: multiplies the channels of the output.
        """
        kernel = self.weights(x.shape[-1])
        kernel = kernel if sign is None else kernel * sign[None, None, None]
        y = convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.strides)
        return checkpoint_name(y, CONV_OUTPUT)


NORMS = ("batch", "layer")


def norm(
    *,
    train: bool,
    dtype: DTypeLike,
    name: str,
    kind: str = "batch",
    zero_scale: bool = False,
    use_scale: bool = True,
    use_bias: bool = True,
) -> nn.BatchNorm | nn.LayerNorm:
    """Returns BatchNorm over all rows and pixels; statistics are float32, the output `dtype`.

    It names no mesh axis: under `jit` on a batch that is sharded over devices, the mean is
    over the global batch, which is SimCLR's global BatchNorm. The biased variance serves
    both the normalisation and the running average. With kind "layer" it is LayerNorm over the
    channels of each pixel, which looks at no other.
    """
    scale_init = nn.initializers.zeros if zero_scale else nn.initializers.ones
    settings: dict[str, Any] = {"epsilon": EPSILON, "dtype": dtype, "name": name}
    settings |= {"use_scale": use_scale, "use_bias": use_bias, "scale_init": scale_init}
    if kind == "layer":
        return nn.LayerNorm(**settings)
    return nn.BatchNorm(use_running_average=not train, momentum=MOMENTUM, **settings)


@jax.custom_vjp
def stored_relu(x: Array) -> Array:
    """Returns relu(x), and makes memory hold it, instead of x, for all later uses."""
    return jax.lax.optimization_barrier(nn.relu(x))


def _stored_relu_forward(x):
    y = stored_relu(x)
    return y, y


def _stored_relu_backward(y, dy):
    return (jnp.where(y > 0, dy, 0),)


stored_relu.defvjp(_stored_relu_forward, _stored_relu_backward)


class SelectiveKernel(nn.Module):
    """Two parallel 3x3 convolutions, mixed per channel by weights from the whole image.

    Takes the place of the 3x3 convolution and its BatchNorm in a bottleneck block. As in
    SimCLRv2, both kernels are 3x3 and dense; Li et al. dilate or group them.

    Attributes:
      features: channels of each of the two streams, and of the output.
      ratio: width of the squeezed descriptor relative to `features`; never below 32 channels.
      strides: stride of the convolutions.
      dtype: type of convolutions and activations.
      kernel_init: one of `KERNEL_INITS`.

    Source: Li et al. 2019, https://arxiv.org/abs/1903.06586, Section 3.1.
    """

    features: int
    ratio: int | float
    strides: int = 1
    dtype: DTypeLike = jnp.float32
    kernel_init: str = "lecun"

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w c"], *, train: bool
    ) -> Float[Array, "n out_h out_w features"]:
        """Returns the mixed streams."""
        f, dtype = self.features, self.dtype
        conv = functools.partial(Conv, dtype=dtype, kernel_init=self.kernel_init)
        x = conv(2 * f, 3, strides=self.strides, name="conv")(x)
        x = nn.relu(norm(train=train, dtype=dtype, name="norm")(x))
        streams = x.reshape(*x.shape[:-1], 2, f)  # [n, h, w, 2, f]
        squeezed = streams.sum(axis=-2).mean(axis=(1, 2), keepdims=True)  # [n, 1, 1, f]
        squeezed = conv(max(int(f * self.ratio), 32), 1, name="squeeze_conv")(squeezed)
        squeezed = nn.relu(norm(train=train, dtype=dtype, name="squeeze_norm")(squeezed))
        logits = conv(2 * f, 1, name="select_conv")(squeezed)
        logits = logits.reshape(*logits.shape[:-1], 2, f).astype(at_least_float32(dtype))
        weights = nn.softmax(logits, axis=-2)  # [n, 1, 1, 2, f]: the two streams compete
        return (streams * weights.astype(dtype)).sum(axis=-2)


def average_pool_2x2(
    x: Float[Array, "n h w c"], *, strides: int
) -> Float[Array, "n out_h out_w c"]:
    """Averages 2x2 windows, as ResNet-D does before the convolution of a shortcut.

    With stride 2 a row and a column of zeros are added at the bottom right, which count in the
    average where the size is odd. With stride 1 the windows at that edge average the real
    pixels only, which is what repeating them does. Both follow the official code.
    """
    h, w = x.shape[1:3]
    mode = "edge" if strides == 1 else "constant"
    x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)), mode=mode)
    corners = [x[:, i : i + h : strides, j : j + w : strides] for i in (0, 1) for j in (0, 1)]
    return (corners[0] + corners[1] + corners[2] + corners[3]) / 4
