"""MAE: reconstruct an image from a quarter of its patches.

He et al. 2021, https://arxiv.org/abs/2111.06377
"""

from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from simclr_jax.augment.policies import Augment
from simclr_jax.core.placement import replicate
from simclr_jax.core.ranges import Count, Range
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Batch, Params, PRNGKey, Scalar, Views
from simclr_jax.losses.reconstruction import (
    masked_mean_square,
    masked_variance,
    normalized_patches,
)
from simclr_jax.losses.similarity import at_least_float32
from simclr_jax.methods.base import (
    Method,
    StepOutput,
    Variables,
    check_heads,
    init_model,
    one_view,
)
from simclr_jax.models.ssl import SSLModel
from simclr_jax.models.transformer import EPSILON, XAVIER, Block
from simclr_jax.models.vit import ViT, patchify, sincos_positions


class Decoder(nn.Module):
    """Blocks that fill in the masked patches; used in training only.

    Attributes:
      width: width of its tokens, a multiple of 4 and of `num_heads`.
      depth: blocks.
      num_heads: heads of their attention.
      num_pixels: numbers that a patch has.
      num_visible: patches that the encoder saw.
      dtype: type of matrix products and activations.
    """

    width: int
    depth: int
    num_heads: int
    num_pixels: int
    num_visible: int
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "n k d"], order: Int[Array, "n t"], grid: tuple[int, int]
    ) -> Float[Array, "n t pixels"]:
        """Returns the pixels of all patches.

        Args:
          tokens: what the encoder puts out: the visible patches, after a class token if it has one.
          order: numbers of all patches of an image, first of the visible ones in their order.
          grid: rows and columns of patches.
        """
        (n, t), wide = order.shape, jnp.promote_types(self.dtype, jnp.float32)
        num_before = 0 if self.num_visible == tokens.shape[1] else 1
        x = nn.Dense(self.width, dtype=self.dtype, kernel_init=XAVIER, name="embed")(tokens)
        before, visible = x[:, :num_before], x[:, num_before:]
        token = self.param("mask_token", nn.initializers.normal(0.02), (self.width,))
        missing = (n, t - self.num_visible, self.width)
        hidden = jnp.broadcast_to(jnp.asarray(token, x.dtype), missing)
        places = jnp.argsort(order, axis=1)[..., None]
        x = jnp.take_along_axis(jnp.concatenate([visible, hidden], axis=1), places, axis=1)
        x = x + sincos_positions(grid, self.width, wide).reshape(1, t, -1)
        x = jnp.concatenate([before, x], axis=1).astype(self.dtype)
        for i in range(self.depth):
            x = Block(self.num_heads, dtype=self.dtype, name=f"block{i}")(x, True)
        x = nn.LayerNorm(epsilon=EPSILON, dtype=wide, name="norm")(x)
        return nn.Dense(self.num_pixels, kernel_init=XAVIER, name="pixels")(x[:, num_before:])


def mae(
    model: SSLModel,
    augment: Augment,
    facts: RunFacts,
    *,
    mask_ratio: Annotated[float, Range(above=0, below=1)] = 0.75,
    normalize_pixels: bool = True,
    decoder_width: Count = 512,
    decoder_depth: Count = 8,
    decoder_heads: Count = 16,
) -> Method:
    """Returns the masked autoencoder for `model`, with a decoder of its own.

    The encoder sees some patches, drawn at random for each image. The decoder sees what it made
    of them, and one learned token in place of each other patch, whose pixels it must predict.

    Args:
      model: a ViT, without heads.
      augment: (key, batch) -> one view of each image; crop and flip alone in the paper.
      facts: facts of the run; not used.
      mask_ratio: share of the patches that are hidden, rounded up, in (0, 1).
      normalize_pixels: predict the pixels of a patch minus their mean, divided by their deviation.
      decoder_width: width of the decoder's tokens, a multiple of 4 and of its heads.
      decoder_depth: blocks of the decoder.
      decoder_heads: heads of the decoder's attention.

    Raises:
      ValueError: if the encoder is no ViT or pooled by attention, the model has heads, or widths
        don't fit; `init` and `loss` raise one if no patch would be seen.
    """
    del facts
    check_heads(model, "mae")
    encoder = _vision_transformer(model)
    if decoder_width % 4 or decoder_width % decoder_heads:
        raise ValueError(
            f"decoder_width={decoder_width} must be a multiple of 4 and of decoder_heads="
            f"{decoder_heads}; the paper has 512 and 16."
        )

    def decoder_of(num_patches: int, num_pixels: int) -> Decoder:
        return Decoder(
            width=decoder_width,
            depth=decoder_depth,
            num_heads=decoder_heads,
            num_pixels=num_pixels,
            num_visible=num_visible_patches(num_patches, mask_ratio),
            dtype=encoder.dtype,
        )

    def init(key: PRNGKey, views: Views) -> Variables:
        variables = init_model(model, key, views)
        patches, grid = patchify(one_view(views, 0)[:1, 0], encoder.patch)
        decoder = decoder_of(*patches.shape[1:])
        num_tokens = decoder.num_visible + (encoder.pool == "token")
        tokens = jnp.zeros((1, num_tokens, encoder.width))
        order = jnp.arange(patches.shape[1])[None]
        head = decoder.init(jax.random.fold_in(key, 1), tokens, order, grid)["params"]
        return variables._replace(params={**variables.params, "decoder": head})

    def loss(
        params: Params, state: TrainState, views: Views, batch: Batch, key: PRNGKey
    ) -> tuple[Scalar, StepOutput]:
        del batch
        params = jax.tree.map(replicate, params)
        images = one_view(views, 0)[:, 0]
        patches, grid = patchify(at_least_float32(images), encoder.patch)
        decoder = decoder_of(*patches.shape[1:])
        noise = jax.random.uniform(jax.random.fold_in(key, 1), patches.shape[:2])
        order, masked = random_mask(noise, decoder.num_visible)
        see = nn.apply(_visible_tokens, model)
        rngs = {"dropout": key}
        tokens = see({"params": params}, images, order[:, : decoder.num_visible], rngs=rngs)
        prediction = decoder.apply({"params": params["decoder"]}, tokens, order, grid)
        assert isinstance(prediction, jax.Array)  # nothing is mutable here
        target = normalized_patches(patches) if normalize_pixels else patches
        value = masked_mean_square(prediction, target, masked)
        metrics = {"loss": value, "loss_chance": masked_variance(target, masked)}
        return value, StepOutput(state.batch_stats, metrics)

    return Method(init, augment, loss)


def _vision_transformer(model: SSLModel) -> ViT:
    if not isinstance(model.encoder, ViT):
        raise ValueError(
            f"method mae hides patches of a vision transformer, and {type(model.encoder).__name__} "
            "is none; use config.encoder.name='vit'."
        )
    if model.encoder.pool not in ("token", "mean"):
        raise ValueError(
            f"method mae trains no pooling by attention, encoder.pool={model.encoder.pool!r}; use "
            "config.encoder.pool='token' or 'mean'."
        )
    return model.encoder


def num_visible_patches(num_patches: int, mask_ratio: float) -> int:
    """Returns how many patches are not hidden, rounded down.

    Raises:
      ValueError: if that is none.
    """
    count = int(num_patches * (1 - mask_ratio))
    if count < 1:
        raise ValueError(
            f"method mae: of {num_patches} patches a mask_ratio of {mask_ratio} leaves none to see;"
            " use a lower ratio, a smaller config.encoder.patch or a larger config.augment.size."
        )
    return count


def random_mask(
    noise: Float[Array, "n t"], num_visible: int
) -> tuple[Int[Array, "n t"], Float[Array, "n t"]]:
    """Returns the patches of each image in a random order, and which of them are hidden.

    Args:
      noise: random numbers; the lowest are of the visible patches.
      num_visible: how many patches are seen.

    Returns:
      Numbers of the patches, first of the visible ones; and 1 for each patch that is not.
    """
    order = jnp.argsort(noise, axis=1)
    places = jnp.argsort(order, axis=1)
    return order, (places >= num_visible).astype(noise.dtype)


def _visible_tokens(model: Any, images: Array, keep: Array) -> Array:
    return model.encoder.tokens(images, train=True, keep=keep)
