"""Colorization: tell the colours of a grey image.

Zhang et al. 2016, https://arxiv.org/abs/1603.08511
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simclr_jax.augment.color import require_colours
from simclr_jax.augment.policies import Augment
from simclr_jax.core.ranges import Count, Decay
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Batch, Collection, Params, PRNGKey, Scalar, Views
from simclr_jax.losses.colorization import (
    annealed_mean,
    bin_weights,
    colour_bins,
    colour_loss,
    is_coloured,
    rgb_to_lab,
    soft_bins,
)
from simclr_jax.losses.similarity import at_least_float32
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
from simclr_jax.models.convolution import convolve_up
from simclr_jax.models.ssl import SSLModel

STRIDE = 4  # of the targets


class UpConv(nn.Module):
    """Transposed convolution that doubles the size of maps, with the parameters of flax's.

    Attributes:
      features: channels of the result.
    """

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n up_h up_w features"]:
        """Returns the larger maps."""
        shape = (4, 4, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        return convolve_up(x, jnp.asarray(kernel)) + jnp.reshape(jnp.asarray(bias), (1, 1, 1, -1))


class Decoder(nn.Module):
    """Logits of colours from the maps of an encoder: convolutions, each of which doubles the size.

    Attributes:
      width: channels of the convolutions.
      num_bins: number of colours.
    """

    width: int
    num_bins: int

    @nn.compact
    def __call__(
        self, maps: Float[Array, "n h w d"], wanted: int
    ) -> Float[Array, "n out_h out_w bins"]:
        """Returns logits at the size of the maps, doubled until it is at least `wanted`."""
        x, i = maps, 0
        while x.shape[1] < wanted:
            i += 1
            x = nn.relu(UpConv(self.width, name=f"up{i}")(x))
        return nn.Dense(self.num_bins, name="classifier")(x)


def colorization(
    model: SSLModel,
    augment: Augment,
    facts: RunFacts,
    *,
    decoder_width: Count = 128,
    prior_momentum: Decay = 0.99,
    grad_cache_chunks: int = 1,
) -> Method:
    """Returns colorization for `model`, with a decoder of its own; its state is {"prior"}.

    The encoder sees lightness in all three channels. Its kernels of three channels begin with their
    mean over these, and so keep weighing them alike: what is judged and exported is blind to the
    colours of RGB images, too, of which the paper takes the lightness. The decoder classifies the
    colour of each pixel of a quarter of the size, among bins of a and b; rare colours count more.
    The paper counts beforehand how frequent each bin is; here it is a running mean over batches,
    which starts with all bins equal. Images without colour, which say nothing, are left out.

    Args:
      model: a ResNet, or another encoder that puts out maps, without heads.
      augment: (key, batch) -> one view of each image, in its own colours.
      facts: facts of the run; not used.
      decoder_width: channels of the decoder.
      prior_momentum: share of itself that the running mean keeps in each step, in [0, 1).
      grad_cache_chunks: parts of the batch that go through the encoder one after the other; see
        `base.apply_model`.

    Raises:
      ValueError: if the encoder puts out no maps, the model has heads, or the chunks are out of
        range.
    """
    del facts
    check_heads(model, "colorization")
    check_grad_cache_chunks(grad_cache_chunks)
    if not hasattr(model.encoder, "maps"):
        raise ValueError(
            f"method colorization needs an encoder with maps of features, and "
            f"{type(model.encoder).__name__} has none; use config.encoder.name='resnet'."
        )
    num_bins = len(colour_bins())
    decoder = Decoder(decoder_width, num_bins)

    def maps_of(
        params: Params, batch_stats: Collection, views: Views, key: PRNGKey | None
    ) -> tuple[Float[Array, "b h w d"], Collection]:
        images = one_view(views, 0)
        require_colours(
            images.shape[-1], "config.method.name='colorization'", "--config.data.channels=3"
        )
        lightness = rgb_to_lab(images)[..., :1] / 100
        maps, stats = apply_model(
            model,
            params,
            batch_stats,
            jnp.repeat(lightness, 3, axis=-1),
            key=key,
            output="maps",
            grad_cache_chunks=grad_cache_chunks,
        )
        return at_least_float32(maps), stats

    def init(key: PRNGKey, views: Views) -> Variables:
        variables = init_model(model, key, views)
        maps = jax.eval_shape(lambda: maps_of(*variables[:2], views, None)[0])
        empty = jnp.zeros((1, *maps.shape[1:]))
        head = decoder.init(jax.random.fold_in(key, 1), empty, target_side(views))["params"]
        encoder = jax.tree.map(_alike_for_colours, variables.params["encoder"])
        params = {**variables.params, "encoder": encoder, "decoder": head}
        prior = jnp.full(num_bins, 1 / num_bins)
        return Variables(params, variables.batch_stats, {"prior": prior})

    loss = functools.partial(_loss, maps_of=maps_of, decoder=decoder)

    def after_update(state: TrainState, shares: Any) -> Any:
        prior = state.method_state["prior"]
        return {"prior": prior_momentum * prior + (1 - prior_momentum) * shares}

    return Method(init, augment, loss, after_update, grad_cache_chunks=grad_cache_chunks)


def _loss(
    params: Params,
    state: TrainState,
    views: Views,
    batch: Batch,
    key: PRNGKey,
    *,
    maps_of: ApplyModel,
    decoder: Decoder,
) -> tuple[Scalar, StepOutput]:
    """Compares the decoder's colours with the view's."""
    del batch
    maps, batch_stats = maps_of(params, state.batch_stats, views, key)
    logits = decoder.apply({"params": params["decoder"]}, maps, target_side(views))
    assert isinstance(logits, jax.Array)  # nothing is mutable here
    ab = small_colours(one_view(views, 0)[:, 0], logits.shape[1])
    coloured = is_coloured(ab)
    known = jnp.broadcast_to(coloured[:, None, None], ab.shape[:3])
    targets, prior = soft_bins(ab), state.method_state["prior"]
    rows = lambda x: x.reshape(-1, x.shape[-1])
    value = colour_loss(rows(logits), rows(targets), bin_weights(prior), known.reshape(-1))
    error = jnp.linalg.norm(annealed_mean(jax.lax.stop_gradient(logits)) - ab, axis=-1)
    metrics = {
        "loss": value,
        "loss_chance": jnp.log(float(decoder.num_bins)),
        "colour_error": error.mean(),
        "coloured": coloured.mean(dtype=jnp.float32),
    }
    return value, StepOutput(batch_stats, metrics, carry=rows(targets).mean(axis=0))


def _alike_for_colours(kernel: jax.Array) -> jax.Array:
    """Returns a kernel of three channels with their mean in each, and any other one as it is."""
    if kernel.ndim != 4 or kernel.shape[2] != 3:
        return kernel
    return jnp.broadcast_to(kernel.mean(axis=2, keepdims=True), kernel.shape)


def target_side(views: Views) -> int:
    """Returns the least height and width of the logits for views of one size."""
    return -(-one_view(views, 0).shape[2] // STRIDE)


def small_colours(images: Float[Array, "b h w 3"], side: int) -> Float[Array, "b side side 2"]:
    """Returns the a and b of images at another size."""
    ab = rgb_to_lab(images)[..., 1:]
    return jax.image.resize(ab, (ab.shape[0], side, side, 2), "linear")
