"""Vision transformers: an image as a sequence of patches.

Dosovitskiy et al. 2020, https://arxiv.org/abs/2010.11929 (S: Touvron et al. 2020,
https://arxiv.org/abs/2012.12877). The options are those that self-supervised methods need: fixed
positions and a frozen patch projection (MoCo v3, https://arxiv.org/abs/2104.02057), images of
several sizes (DINO, https://arxiv.org/abs/2104.14294), a subset of the patches (MAE,
https://arxiv.org/abs/2111.06377), a normalised input (CLIP, https://arxiv.org/abs/2103.00020).
"""

from typing import Annotated, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from simclr_jax.core.ranges import Count, Range
from simclr_jax.models.convolution import at_least_float32
from simclr_jax.models.transformer import (
    Block,
    MeanQueryPool,
    ProbePool,
    dense_layer,
    layer_norm,
)


class Size(NamedTuple):
    """Width, depth and heads of a size such as "s"."""

    width: int
    depth: int
    num_heads: int


# "tiny" is for laptops and tests; it is a sixth of what DeiT calls tiny.
SIZES = {
    "tiny": Size(128, 4, 2),
    "s": Size(384, 12, 6),
    "b": Size(768, 12, 12),
    "l": Size(1024, 24, 16),
}
POOLS = ("token", "mean", "probe", "mean_query")
REMATS = ("none", "blocks")


class ViT(nn.Module):
    """A vision transformer that maps images to one vector each.

    Attributes:
      size: width, depth and heads, a key of `SIZES`.
      patch: side of the square patches in px; images must be multiples of it.
      num_heads: heads of the attention; None for as many as the size has. MoCo v3's "s" has 12.
      learned_positions: side in px of the images that learned positions are stored for, usually
        that of the views; other images get them by bicubic interpolation. None for fixed sines
        and cosines of row and column.
      pool: "token", a class token that attends to the patches; "mean", the mean of the patches,
        without such a token; "probe", attention to them with a learned query, as in SigLIP; or
        "mean_query", attention with their mean as the query, as in CLIP's ResNets. Each is taken
        after the last LayerNorm.
      pre_norm: normalise the tokens before the first block and project patches without a bias,
        as CLIP does.
      drop_path: probability that the last block leaves out one of its branches for an image;
        it grows linearly from 0 in the first block. Acts in training, where there is a random
        key "dropout".
      freeze_patches: keep the patch projection as it was initialised, which MoCo v3 found to
        prevent sudden drops of accuracy.
      remat: what the backward pass finds stored: "none", all that it uses; "blocks", only the
        input of each block, so that the forward pass runs twice. Values are the same.
      dtype: type of matrix products and activations, float32 or bfloat16. Parameters, LayerNorm,
        the softmax and the returned representation are float32 in both cases.
    """

    size: str = "s"
    patch: Count = 16
    num_heads: Count | None = None
    learned_positions: Count | None = None
    pool: str = "token"
    pre_norm: bool = False
    drop_path: Annotated[float, Range(least=0, below=1)] = 0.0
    freeze_patches: bool = False
    remat: str = "none"
    dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        for name, known in (("size", [*SIZES]), ("pool", POOLS), ("remat", REMATS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"ViT {name} must be one of {[*known]}, got {getattr(self, name)!r}."
                )
        if self.patch < 1:
            raise ValueError(f"ViT patch must be at least 1 px (16 is usual), got {self.patch}.")
        if self.num_heads is not None and (self.num_heads < 1 or self.width % self.num_heads):
            raise ValueError(
                f"ViT num_heads must divide the width of size={self.size!r}, {self.width}, "
                f"got {self.num_heads}."
            )
        if self.learned_positions is not None and (
            self.learned_positions < 1 or self.learned_positions % self.patch
        ):
            raise ValueError(
                f"ViT learned_positions is a size in px and must be a multiple of "
                f"patch={self.patch}, got {self.learned_positions}."
            )
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"ViT drop_path must lie in [0, 1), got {self.drop_path}.")
        super().__post_init__()

    @property
    def width(self) -> int:
        """Width of the tokens and of the representation."""
        return SIZES[self.size].width

    @property
    def frozen_params(self) -> str:
        """Regular expression for the paths of its parameters that no optimizer may change."""
        return "patches/.*" if self.freeze_patches else ""

    def setup(self):
        """Makes the pooling that has parameters; `tokens` makes all else."""
        num_heads = self.num_heads or SIZES[self.size].num_heads
        if self.pool == "probe":
            self.pooling = ProbePool(num_heads, self.dtype)
        elif self.pool == "mean_query":
            self.pooling = MeanQueryPool(num_heads, self.dtype)

    def __call__(self, images: Float[Array, "n h w c"], *, train: bool) -> Float[Array, "n d"]:
        """Returns the representation of each image.

        Args:
          images: pixels in [0, 1], without mean or variance normalisation.
          train: drop paths, if there is a random key "dropout".

        Raises:
          ValueError: if the images cannot be cut into patches.
        """
        tokens = self.tokens(images, train=train)
        if self.pool in ("token", "mean"):
            return tokens[:, 0] if self.pool == "token" else tokens.mean(axis=1)
        return self.pooling(tokens)

    @nn.compact
    def tokens(
        self,
        images: Float[Array, "n h w c"],
        *,
        train: bool,
        keep: Int[Array, "n k"] | None = None,
    ) -> Float[Array, "n t d"]:
        """Returns the tokens after the last LayerNorm: the class token, if any, then patches.

        Args:
          images: see `__call__`.
          train: likewise.
          keep: numbers of the patches of each image that the blocks see, counted row by row, in
            the order in which they come out; None for all.
        """
        d, depth, num_heads = SIZES[self.size]
        wide = at_least_float32(self.dtype)
        x, grid = patchify(images, self.patch)
        x = dense_layer(d, self.dtype, name="patches", use_bias=not self.pre_norm)(x)
        if self.freeze_patches:
            x = jax.lax.stop_gradient(x)
        x = x.astype(wide) + self._positions(grid).reshape(1, -1, d).astype(wide)
        if keep is not None:
            x = jnp.take_along_axis(x, keep[..., None], axis=1)
        if self.pool == "token":
            token = self.param("class_token", nn.initializers.normal(0.02), (d,))
            token = jnp.broadcast_to(jnp.asarray(token, wide), (x.shape[0], 1, d))
            x = jnp.concatenate([token, x], axis=1)
        if self.pre_norm:
            x = layer_norm(wide, "norm_pre")(x)
        x = x.astype(self.dtype)
        block = Block
        if train and self.remat == "blocks":  # without a backward pass there is nothing to keep
            block = nn.remat(Block, static_argnums=(2,))  # train
        for i in range(depth):
            x = block(
                num_heads=self.num_heads or num_heads,
                drop_path=self.drop_path * i / (depth - 1),
                dtype=self.dtype,
                name=f"block{i}",
            )(x, train)
        return layer_norm(wide, "norm")(x)

    def _positions(self, grid: tuple[int, int]) -> Float[Array, "rows columns d"]:
        if self.learned_positions is None:
            return sincos_positions(grid, self.width, at_least_float32(self.dtype))
        side = self.learned_positions // self.patch
        start = nn.initializers.truncated_normal(0.02)
        positions = jnp.asarray(self.param("positions", start, (side, side, self.width)))
        return resize_positions(positions, grid)


def patchify(
    images: Float[Array, "n h w c"], patch: int
) -> tuple[Float[Array, "n t pixels"], tuple[int, int]]:
    """Returns the pixels of each patch, ordered by row, column and channel, and the grid.

    Args:
      images: height and width are multiples of the patch.
      patch: side in px.

    Returns:
      The patches row by row, and how many rows and columns of them there are.

    Raises:
      ValueError: if the patches do not fit.
    """
    n, h, w, c = images.shape
    rows, columns = h // patch, w // patch
    if (rows * patch, columns * patch) != (h, w) or not rows * columns:
        fits = (max(round(side / patch), 1) * patch for side in (h, w))
        raise ValueError(
            f"Images of {h}x{w} px cannot be cut into patches of {patch}x{patch} px; use "
            f"{'x'.join(map(str, fits))} px, or another ViT patch."
        )
    x = images.reshape(n, rows, patch, columns, patch, c).swapaxes(2, 3)
    return x.reshape(n, rows * columns, patch * patch * c), (rows, columns)


def sincos_positions(
    grid: tuple[int, int], width: int, dtype: DTypeLike = jnp.float32
) -> Float[Array, "rows columns width"]:
    """Returns sines and cosines of the column, then of the row, at width / 4 frequencies each.

    The frequencies fall geometrically from 1 towards 1 / 10,000. The order is that of MAE;
    MoCo v3 puts the row first, which is the same to a network that starts at random.

    Args:
      grid: number of rows and columns.
      width: width of the tokens, a multiple of 4.
      dtype: type of the result.
    """
    frequencies = 10_000.0 ** -(jnp.arange(width // 4, dtype=dtype) / (width // 4))
    rows, columns = (jnp.arange(n, dtype=dtype)[:, None] * frequencies[None] for n in grid)
    waves = lambda x: jnp.concatenate([jnp.sin(x), jnp.cos(x)], axis=-1)
    shape = (*grid, width // 2)
    of_columns = jnp.broadcast_to(waves(columns)[None], shape)
    of_rows = jnp.broadcast_to(waves(rows)[:, None], shape)
    return jnp.concatenate([of_columns, of_rows], axis=-1)


def resize_positions(
    positions: Float[Array, "rows columns d"], grid: tuple[int, int]
) -> Float[Array, "new_rows new_columns d"]:
    """Returns learned positions for another grid, by bicubic interpolation with antialiasing."""
    if positions.shape[:2] == grid:
        return positions
    return jax.image.resize(positions, (*grid, positions.shape[-1]), "cubic")
