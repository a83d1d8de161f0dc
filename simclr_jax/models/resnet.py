"""ResNet encoders of SimCLR and SimCLRv2: depth 18 to 200, any width, selective kernels.

He et al. 2015, https://arxiv.org/abs/1512.03385
He et al. 2018, https://arxiv.org/abs/1812.01187 (ResNet-D stem and shortcuts)
Chen et al. 2020, https://arxiv.org/abs/2006.10029 (SimCLRv2, wider and with selective kernels)
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from simclr_jax.models.folded import FoldedNorm, conv_norm_sum, conv_pool_norm_relu
from simclr_jax.models.layers import (
    CONV_OUTPUT,
    KERNEL_INITS,
    NORMS,
    Conv,
    SelectiveKernel,
    at_least_float32,
    average_pool_2x2,
    norm,
    stored_relu,
)
from simclr_jax.models.pooling import Padding, max_pool

STAGE_SIZES = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
BOTTLENECK_DEPTHS = frozenset({50, 101, 152, 200})
# An image must keep at least 2x2 pixels before each layer that halves it, or that layer
# would see nothing but padding beside one pixel: more than half of the total stride.
SMALLEST_IMAGE_PX = {"imagenet": 17, "cifar": 5}
GEOMETRIES = ("official", "torchvision")
# What a residual block keeps for the backward pass; the rest is computed again.
REMAT_POLICIES = {
    "none": jax.checkpoint_policies.everything_saveable,
    "convs": jax.checkpoint_policies.save_only_these_names(CONV_OUTPUT),
    "blocks": jax.checkpoint_policies.nothing_saveable,
}


class ResNet(nn.Module):
    """A residual network that maps images to one vector each.

    Attributes:
      depth: layers with weights, a key of `STAGE_SIZES`.
      width: multiplies the channels of every layer; 1, 2, 3 or 4 in the papers, at least 1/32.
      sk_ratio: width of a selective kernel's descriptor, 0.0625 in SimCLRv2; 0 turns selective
        kernels and the ResNet-D stem and shortcuts off. Depths 18 and 34 take the ResNet-D
        changes only, as in the official code.
      stem: "imagenet" (divides the image by 4) or "cifar" (keeps its size; for up to about
        32 px, where it also replaces the stem of ResNet-D).
      dtype: type of convolutions and activations, float32 or bfloat16. Parameters, BatchNorm
        statistics and the returned representation are float32 in both cases.
      geometry: "official", or "torchvision" for networks whose weights torchvision's ResNets
        can take over exactly: the max-pool pads both sides, and a shortcut is the identity
        wherever the shapes agree (stage 1 of depths 18 and 34). Only for width 1 with the
        ImageNet stem and without selective kernels, as torchvision has no others.
      remat: what the backward pass finds stored: "none", all that it uses; "convs", in each
        residual block only the outputs of convolutions; "blocks", only the input of each block,
        so that the forward pass runs twice. Values are the same, memory is less.
      kernel_init: how convolutions start, one of `KERNEL_INITS`: "lecun", as in the official
        code, or "he_fan_out", as in torchvision.
      zero_init_residual: whether the last scale of each residual branch starts at zero, so that
        a block starts as its shortcut; not so in torchvision, by default.
      input_mean: mean of the pixels of each channel, subtracted first: what weights from elsewhere
        were trained with. The first convolution could not take it in, as it pads with zeros.
      input_std: deviation of the pixels of each channel, which are divided by it.
      norm: "batch", or "layer" for methods to which BatchNorm leaks: with it, the output for an
        image depends on the others. Not with selective kernels or torchvision's geometry.
    """

    depth: int
    width: int | float = 1
    sk_ratio: int | float = 0.0
    stem: str = "imagenet"
    dtype: DTypeLike = jnp.float32
    geometry: str = "official"
    remat: str = "none"
    kernel_init: str = "lecun"
    zero_init_residual: bool = True
    input_mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    input_std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    norm: str = "batch"

    def __post_init__(self):
        if self.depth not in STAGE_SIZES:
            raise ValueError(f"ResNet depth must be one of {[*STAGE_SIZES]}, got {self.depth}.")
        if not self.width >= 1 / 32:
            raise ValueError(
                f"ResNet width multiplies 32 channels or more and must leave at least one, so "
                f"it must be 1/32 or larger (1 is the standard), got {self.width}."
            )
        if not 0 <= self.sk_ratio <= 1:
            raise ValueError(
                f"ResNet sk_ratio must lie in [0, 1] (0 is off, 0.0625 is SimCLRv2's), "
                f"got {self.sk_ratio}."
            )
        if self.stem not in SMALLEST_IMAGE_PX:
            raise ValueError(
                f"ResNet stem must be one of {[*SMALLEST_IMAGE_PX]}, got {self.stem!r}."
            )
        if self.geometry not in GEOMETRIES:
            raise ValueError(
                f"ResNet geometry must be one of {[*GEOMETRIES]}, got {self.geometry!r}."
            )
        if self.geometry == "torchvision" and (
            self.width != 1 or self.sk_ratio > 0 or self.stem != "imagenet"
        ):
            raise ValueError(
                f"ResNet geometry='torchvision' is for width=1, sk_ratio=0 and stem='imagenet', "
                f"the networks that torchvision has; got width={self.width}, "
                f"sk_ratio={self.sk_ratio}, stem={self.stem!r}. Others need geometry='official'."
            )
        if self.remat not in REMAT_POLICIES:
            raise ValueError(
                f"ResNet remat must be one of {[*REMAT_POLICIES]}, got {self.remat!r}."
            )
        if self.kernel_init not in KERNEL_INITS:
            raise ValueError(
                f"ResNet kernel_init must be one of {[*KERNEL_INITS]}, got {self.kernel_init!r}."
            )
        if self.norm not in NORMS:
            raise ValueError(f"ResNet norm must be one of {[*NORMS]}, got {self.norm!r}.")
        if self.norm == "layer" and (self.sk_ratio > 0 or self.geometry == "torchvision"):
            raise ValueError(
                f"ResNet norm='layer' is for sk_ratio=0 and geometry='official'; got "
                f"sk_ratio={self.sk_ratio}, geometry={self.geometry!r}."
            )
        if not all(std > 0 for std in self.input_std):
            raise ValueError(f"ResNet input_std must be positive, got {self.input_std}.")
        super().__post_init__()

    @property
    def normalizes(self) -> bool:
        """Whether `input_mean` and `input_std` change the images."""
        return any(self.input_mean) or any(std != 1 for std in self.input_std)

    def __call__(self, images: Float[Array, "n h w c"], *, train: bool) -> Float[Array, "n d"]:
        """Returns the representation of each image.

        Args:
          images: pixels in [0, 1], without mean or variance normalisation.
          train: normalise with the statistics of this batch and move the running ones.

        Raises:
          ValueError: if the images are too small for the stem and the four stages.
        """
        maps = self.maps(images, train=train)
        return maps.mean(axis=(1, 2), dtype=at_least_float32(self.dtype))

    @nn.compact
    def maps(
        self, images: Float[Array, "n h w c"], *, train: bool
    ) -> Float[Array, "n map_h map_w d"]:
        """Returns what the last stage puts out, whose mean over pixels is the representation.

        Args:
          images: see `__call__`.
          train: likewise.
        """
        _check_image_size(images.shape[1:3], self.stem)
        if self.normalizes:
            mean, std = jnp.asarray((self.input_mean, self.input_std), images.dtype)
            images = (images - mean[None, None, None]) / std[None, None, None]
        x = self._stem(images.astype(self.dtype), train=train)
        for i, num_blocks in enumerate(STAGE_SIZES[self.depth]):
            x = Stage(
                features=int(64 * 2**i * self.width),
                num_blocks=num_blocks,
                strides=1 if i == 0 else 2,
                bottleneck=self.depth in BOTTLENECK_DEPTHS,
                sk_ratio=self.sk_ratio,
                dtype=self.dtype,
                project_always=self.geometry == "official",
                remat=self.remat,
                kernel_init=self.kernel_init,
                zero_init_residual=self.zero_init_residual,
                norm=self.norm,
                name=f"stage{i + 1}",
            )(x, train=train)
        return x

    def _stem(self, x: Array, *, train: bool) -> Array:
        def layer(width, kernel, strides, suffix=""):
            features = int(width * self.width)
            conv = Conv(
                *(features, kernel, strides, self.dtype, self.kernel_init),
                name=f"stem_conv{suffix}",
            )
            return conv, f"stem_norm{suffix}"

        def conv_norm_relu(x, conv, norm_name):
            settings = {"train": train, "dtype": self.dtype, "kind": self.norm}
            return nn.relu(norm(**settings, name=norm_name)(conv(x)))

        if self.stem == "cifar":
            return conv_norm_relu(x, *layer(64, 3, 1))
        if self.sk_ratio == 0:
            conv, norm_name = layer(64, 7, 2)
        else:
            x = conv_norm_relu(x, *layer(32, 3, 2, "1"))
            x = conv_norm_relu(x, *layer(32, 3, 1, "2"))
            conv, norm_name = layer(64, 3, 1, "3")
        # Official: of an even image the bottom and the right side only.
        padding: Padding = "SAME" if self.geometry == "official" else ((1, 1), (1, 1))
        if self.norm == "layer":
            return max_pool(conv_norm_relu(x, conv, norm_name), padding)
        return conv_pool_norm_relu(x, conv, FoldedNorm(name=norm_name), padding, train=train)


class Stage(nn.Module):
    """Residual blocks of one width; the first one changes size and channels.

    Attributes:
      features, bottleneck, sk_ratio, dtype: see `ResidualBlock`.
      num_blocks: number of blocks.
      strides: strides of the first block.
      project_always: whether the first shortcut is a convolution even where the shapes agree
        (stage 1 of depths 18 and 34), as in the official code.
      remat, kernel_init, zero_init_residual, norm: see `ResNet`.
    """

    features: int
    num_blocks: int
    strides: int
    bottleneck: bool
    sk_ratio: int | float
    dtype: DTypeLike
    project_always: bool
    remat: str
    kernel_init: str
    zero_init_residual: bool
    norm: str = "batch"

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w c"], *, train: bool
    ) -> Float[Array, "n out_h out_w out_c"]:
        """Returns the output of the last block."""
        out_features = self.features * (4 if self.bottleneck else 1)
        project = self.project_always or self.strides > 1 or x.shape[-1] != out_features
        block = ResidualBlock
        if train and self.remat != "none":  # without a backward pass there is nothing to keep
            policy = REMAT_POLICIES[self.remat]
            block = nn.remat(ResidualBlock, policy=policy, static_argnums=(2,))  # train
        # Not a loop: with `jax.lax.scan` over equal blocks, a ResNet-50 step for TPU v3 needs three
        # times the memory and 1.7 times the traffic, and a ResNet-152 compiles in no less time.
        for i in range(self.num_blocks):
            x = block(
                features=self.features,
                strides=self.strides if i == 0 else 1,
                project=project and i == 0,
                bottleneck=self.bottleneck,
                sk_ratio=self.sk_ratio,
                dtype=self.dtype,
                kernel_init=self.kernel_init,
                zero_init_residual=self.zero_init_residual,
                norm=self.norm,
                name=f"block{i}",
            )(x, train)
        return x


class ResidualBlock(nn.Module):
    """A branch of two 3x3 convolutions, or of 1x1, 3x3, 1x1, added to a shortcut.

    Attributes:
      features: channels of the 3x3 convolutions; a bottleneck puts out four times as many.
      strides: stride of the first 3x3 convolution and of the shortcut.
      project: whether the shortcut is a 1x1 convolution or the input itself.
      bottleneck: whether the branch is a bottleneck of three convolutions.
      sk_ratio, kernel_init, zero_init_residual, norm: see `ResNet`.
      dtype: type of convolutions and activations.
    """

    features: int
    strides: int
    project: bool
    bottleneck: bool
    sk_ratio: int | float
    dtype: DTypeLike
    kernel_init: str
    zero_init_residual: bool
    norm: str = "batch"

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w c"], train: bool
    ) -> Float[Array, "n out_h out_w out_c"]:
        """Returns relu(shortcut + branch); with `zero_init_residual` the branch starts as zero."""
        f, s = self.features, self.strides
        settings = {"train": train, "dtype": self.dtype, "kind": self.norm}
        folds = self.bottleneck and self.norm == "batch"
        conv = functools.partial(Conv, dtype=self.dtype, kernel_init=self.kernel_init)
        sizes = ((1, 1), (3, s)) if self.bottleneck else ((3, s), (3, 1))
        y = x
        for i, (kernel, strides) in enumerate(sizes, start=1):
            if self.bottleneck and kernel == 3 and self.sk_ratio > 0:
                y = SelectiveKernel(
                    *(f, self.sk_ratio, strides, self.dtype, self.kernel_init), name="sk"
                )(y, train=train)
                continue
            last = not self.bottleneck and i == len(sizes)
            y = conv(f, kernel, strides=strides, name=f"conv{i}")(y)
            zero_scale = last and self.zero_init_residual
            y = norm(**settings, zero_scale=zero_scale, name=f"norm{i}")(y)
            y = y if last else nn.relu(y)
        shortcut = self._shortcut_input(x) if self.project else x
        if self.bottleneck and not folds:
            y = conv(4 * f, 1, name="conv3")(y)
            y = norm(**settings, zero_scale=self.zero_init_residual, name="norm3")(y)
        if not folds:
            if self.project:
                shortcut = conv(y.shape[-1], 1, name="shortcut_conv")(shortcut)
                shortcut = norm(**settings, name="shortcut_norm")(shortcut)
            return nn.relu(shortcut + y)
        last_norm = FoldedNorm(zero_scale=self.zero_init_residual, name="norm3")
        branches = [(y, conv(4 * f, 1, name="conv3"), last_norm)]
        if self.project:
            norm_ = FoldedNorm(name="shortcut_norm")
            branches.append((shortcut, conv(4 * f, 1, name="shortcut_conv"), norm_))
            return stored_relu(conv_norm_sum(*branches, train=train))
        return stored_relu(shortcut + conv_norm_sum(*branches, train=train))

    def _shortcut_input(self, x: Array) -> Array:
        """Returns x at the size of the output."""
        if self.sk_ratio > 0:  # ResNet-D: average before, rather than skip three pixels in four
            return average_pool_2x2(x, strides=self.strides)
        if self.strides == 1:
            return x
        # The barrier keeps XLA from skipping through the whole of x in each of its four uses.
        return jax.lax.optimization_barrier(x[:, :: self.strides, :: self.strides])


def _check_image_size(size: tuple[int, ...], stem: str) -> None:
    smallest = SMALLEST_IMAGE_PX[stem]
    if min(size) >= smallest:
        return
    cure = f"use at least {smallest} px on each side"
    if stem == "imagenet":
        cure += f", or stem='cifar', which takes {SMALLEST_IMAGE_PX['cifar']} px and more"
    raise ValueError(
        f"Images of {size[0]}x{size[1]} px are too small for ResNet with stem={stem!r}: the last "
        f"stage would halve a single pixel. Instead, {cure}."
    )
