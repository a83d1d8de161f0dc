"""CPC: tell from some rows of an image's patches which patches follow.

van den Oord et al. 2018, https://arxiv.org/abs/1807.03748 (v1)
Henaff et al. 2019, https://arxiv.org/abs/1905.09272 (v2: four directions, no BatchNorm)
"""

import functools
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simclr_jax.augment.policies import Augment
from simclr_jax.core.errors import UserError
from simclr_jax.core.ranges import Count, CountOrZero, Range
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Batch, Params, PRNGKey, Scalar, ViewArray, Views
from simclr_jax.losses.grid import grid_info_nce
from simclr_jax.methods.base import (
    ApplyModel,
    Method,
    StepOutput,
    Variables,
    apply_model,
    check_grad_cache_chunks,
    check_heads,
    init_model,
    one_view,
)
from simclr_jax.models.ssl import SSLModel

NUM_DIRECTIONS = 4


class Context(nn.Module):
    """What is known at each patch from its own row and those above.

    Attributes:
      width: width of the contexts.
      num_layers: each sees one row, and a column on either side, more.
      num_distances: rows that are predicted.
    """

    width: int
    num_layers: int
    num_distances: int

    @nn.compact
    def __call__(
        self, patches: Float[Array, "b rows columns d"]
    ) -> tuple[Float[Array, "b rows columns c"], Float[Array, "k c d"]]:
        """Returns the context of each patch, and the matrices that predict from it."""
        x = nn.Dense(self.width, name="in")(patches)
        for i in range(1, self.num_layers + 1):
            conv = nn.Conv(self.width, (2, 3), padding=((1, 0), (1, 1)), name=f"conv{i}")
            y = nn.relu(conv(nn.relu(x)))
            x = x + nn.Dense(self.width, name=f"out{i}")(y)
        shape = (self.num_distances, self.width, patches.shape[-1])
        start = nn.initializers.lecun_normal(batch_axis=0)
        return x, jnp.asarray(self.param("predict", start, shape))


def cpc(
    model: SSLModel,
    augment: Augment,
    facts: RunFacts,
    *,
    patch: Count = 80,
    stride: Count = 32,
    first_distance: Count = 2,
    num_distances: Count = 3,
    context_width: Count = 256,
    context_layers: Count = 5,
    drop_colours: Annotated[float, Range(least=0, most=1)] = 0.8,
    loss_tile: CountOrZero | None = None,
    grad_cache_chunks: int = 1,
) -> Method:
    """Returns contrastive predictive coding for `model`, with context networks of its own.

    A view is cut into overlapping patches, which the encoder sees one by one. In each of four
    directions, a network of masked convolutions makes a context of the rows so far, from which the
    patches some rows on are told among all patches of the batch.

    Args:
      model: an encoder without BatchNorm, which would tell patches about each other, and no heads.
      augment: (key, batch) -> one view of each image.
      facts: facts of the run; not used.
      patch: side of the patches in px.
      stride: px from one patch to the next.
      first_distance: rows to the nearest patch that is predicted; nearer ones overlap.
      num_distances: rows that are predicted from each context.
      context_width: width of the contexts.
      context_layers: convolutions of each context network.
      drop_colours: share of patches that show one of their three channels only, in [0, 1].
      loss_tile: candidates that the loss compares with at a time; None or 0: all at once, or
        tiles of a good size if they are many.
      grad_cache_chunks: parts of the batch that go through the encoder one after the other; see
        `base.apply_model`.

    Raises:
      ValueError: if the model has heads, or the chunks are out of range; `augment` raises a
        UserError if the grid of patches is too small, and `init` if the encoder has BatchNorm.
    """
    del facts
    check_heads(model, "cpc")
    check_grad_cache_chunks(grad_cache_chunks)
    context = Context(context_width, context_layers, num_distances)

    def augment_and_cut(key: PRNGKey, batch: Batch) -> Views:
        image = one_view(augment(key, batch), 0)[:, 0]
        check_grid(image.shape[1], patch, stride, first_distance + num_distances)
        return random_channel(
            jax.random.fold_in(key, 1), cut_patches(image, patch, stride), drop_colours
        )

    def init(key: PRNGKey, views: Views) -> Variables:
        variables = init_model(model, key, views)
        if variables.batch_stats:
            raise UserError(
                f"method cpc needs an encoder without BatchNorm, by which patches would know of "
                f"each other, and {type(model.encoder).__name__} has it as it is configured; for a "
                "resnet, set config.encoder.norm='layer'."
            )
        out = jax.eval_shape(lambda: apply_model(model, *variables[:2], views, key=None)[0])
        empty = jnp.zeros((1, 1, 1, out["representation"].shape[-1]))
        keys = jax.random.split(jax.random.fold_in(key, 1), NUM_DIRECTIONS)
        heads = {
            f"direction{i}": context.init(keys[i], empty)["params"] for i in range(NUM_DIRECTIONS)
        }
        return variables._replace(params={**variables.params, "context": heads})

    loss = functools.partial(
        _loss,
        apply=functools.partial(apply_model, model, grad_cache_chunks=grad_cache_chunks),
        context=context,
        first_distance=first_distance,
        tile=loss_tile or None,
    )

    return Method(init, augment_and_cut, loss, grad_cache_chunks=grad_cache_chunks)


def _loss(
    params: Params,
    state: TrainState,
    views: Views,
    batch: Batch,
    key: PRNGKey,
    *,
    apply: ApplyModel,
    context: Context,
    first_distance: int,
    tile: int | None,
) -> tuple[Scalar, StepOutput]:
    """Tells patches from the contexts of those before them, in each direction."""
    out, batch_stats = apply(params, state.batch_stats, views, key=key)
    b, z = batch["id"].shape[0], out["representation"]
    side = round((z.shape[0] // b) ** 0.5)
    grid = z.reshape(b, side, side, -1)
    losses = []
    for i in range(NUM_DIRECTIONS):
        turned = jnp.rot90(grid, i, axes=(1, 2))
        made: Any = context.apply({"params": params["context"][f"direction{i}"]}, turned)
        losses.append(grid_info_nce(turned, *made, first_distance=first_distance, tile=tile))
    value = jnp.stack(losses).mean()
    metrics = {"loss": value, "loss_chance": jnp.log(float(z.shape[0]))}
    return value, StepOutput(batch_stats, metrics)


def check_grid(size: int, patch: int, stride: int, num_rows: int) -> None:
    """Checks that views have enough patches.

    Raises:
      UserError: with a size that works.
    """
    if size < patch + (num_rows - 1) * stride:
        there = max(0, (size - patch) // stride + 1)
        raise UserError(
            f"config.augment.size={size}: patches of config.method.patch={patch} px every "
            f"config.method.stride={stride} px make {there} rows, and first_distance + "
            f"num_distances need {num_rows}; use a size of {patch + (num_rows - 1) * stride} or "
            "more, or smaller patches and strides."
        )


def cut_patches(images: Float[Array, "b h w c"], patch: int, stride: int) -> ViewArray:
    """Returns the overlapping patches [b, rows^2, patch, patch, c] of square images, row by row."""
    starts = jnp.arange(0, images.shape[1] - patch + 1, stride)
    pixels = (starts[:, None] + jnp.arange(patch)[None]).reshape(-1)  # [rows * patch]
    cut = images[:, pixels][:, :, pixels]
    b, rows, c = images.shape[0], len(starts), images.shape[-1]
    cut = cut.reshape(b, rows, patch, rows, patch, c).swapaxes(2, 3)
    return cut.reshape(b, rows * rows, patch, patch, c)


def random_channel(key: PRNGKey, patches: ViewArray, probability: float) -> ViewArray:
    """Returns the patches, of which some show one channel, drawn for each of them, three times."""
    shape = patches.shape[:2]
    drop_key, channel_key = jax.random.split(key)
    drops = jax.random.bernoulli(drop_key, probability, shape)
    channel = jax.random.randint(channel_key, shape, 0, patches.shape[-1])
    index = channel[:, :, None, None, None]
    kept = jnp.take_along_axis(patches, index, axis=-1)
    return jnp.where(drops[:, :, None, None, None], kept, patches)
