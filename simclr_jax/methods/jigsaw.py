"""Jigsaw: tell in which of some orders the nine tiles of an image are.

Noroozi and Favaro 2016, https://arxiv.org/abs/1603.09246
"""

import itertools
from collections.abc import Sequence
from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from simclr_jax.augment.color import require_colours, to_gray
from simclr_jax.augment.policies import Augment
from simclr_jax.core.errors import UserError
from simclr_jax.core.ranges import CountOrZero, Range
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Batch, Params, PRNGKey, Scalar, ViewArray, Views
from simclr_jax.losses.classification import cross_entropy, top1
from simclr_jax.methods.base import (
    Method,
    StepOutput,
    Variables,
    apply_model,
    check_grad_cache_chunks,
    check_heads,
    init_model,
    one_view,
    projection_width,
)
from simclr_jax.models.ssl import SSLModel

SIDE = 3
NUM_TILES = SIDE**2
NUM_ORDERS = 362_880  # of nine tiles


def jigsaw(
    model: SSLModel,
    augment: Augment,
    facts: RunFacts,
    *,
    num_permutations: Annotated[int, Range(least=2, most=NUM_ORDERS)] = 1000,
    gap: CountOrZero = 11,
    grayscale: Annotated[float, Range(least=0, most=1)] = 0.3,
    grad_cache_chunks: int = 1,
) -> Method:
    """Returns the jigsaw puzzle for `model`, with a linear classifier of its own.

    A view is cut into 3 x 3 cells, and of each a smaller tile is taken at a random place, so that
    edges do not meet. Encoder and projector see each tile by itself; the classifier sees the
    projections of the nine in the order of a random permutation of a fixed set, and must name it.
    Tiles are not normalised by their own mean and deviation, as the paper's are.

    Args:
      model: network with a projector and no other head.
      augment: (key, batch) -> one view of each image.
      facts: facts of the run; not used.
      num_permutations: permutations in the set, see `distant_permutations`; more are harder.
      gap: pixels by which a tile is smaller than its cell, a third of a view; 11 for tiles of 64
        in a view of 225.
      grayscale: share of images that lose their colours, whose fringes give away where a tile
        was, in [0, 1].
      grad_cache_chunks: parts of the batch that go through the network one after the other; see
        `base.apply_model`.

    Raises:
      ValueError: if the model has other heads, or the chunks are out of range; `augment` raises a
        UserError if the views are too small.
    """
    del facts
    check_heads(model, "jigsaw", "projector")
    check_grad_cache_chunks(grad_cache_chunks)
    permutations = distant_permutations(num_permutations, range(NUM_TILES))
    classify = nn.Dense(num_permutations, kernel_init=nn.initializers.normal(0.01))

    def augment_and_cut(key: PRNGKey, batch: Batch) -> Views:
        image = one_view(augment(key, batch), 0)[:, 0]
        b = image.shape[0]
        gray_key, place_key = jax.random.split(jax.random.fold_in(key, 1))
        if grayscale:
            setting = f"config.method.grayscale={grayscale:g}"
            require_colours(image.shape[-1], setting, "--config.method.grayscale=0")
            gray = jax.vmap(lambda x: jnp.stack(to_gray(x), axis=-1))(jnp.moveaxis(image, -1, 1))
            is_gray = jax.random.bernoulli(gray_key, grayscale, (b, 1, 1, 1))
            image = jnp.where(is_gray, gray, image)
        offsets = jax.random.randint(place_key, (b, SIDE, SIDE, 2), 0, gap + 1)
        return cut_tiles(image, offsets, gap)

    def init(key: PRNGKey, views: Views) -> Variables:
        variables = init_model(model, key, views)
        features = jnp.zeros((1, NUM_TILES * projection_width(model)))
        head = classify.init(jax.random.fold_in(key, 1), features)["params"]
        return variables._replace(params={**variables.params, "classifier": head})

    def loss(
        params: Params, state: TrainState, views: Views, batch: Batch, key: PRNGKey
    ) -> tuple[Scalar, StepOutput]:
        out, batch_stats = apply_model(
            model, params, state.batch_stats, views, key=key, grad_cache_chunks=grad_cache_chunks
        )
        b = batch["id"].shape[0]
        labels = jax.random.randint(jax.random.fold_in(key, 1), (b,), 0, num_permutations)
        tiles = nn.relu(out["projection"]).reshape(b, NUM_TILES, -1)
        shuffled = jnp.take_along_axis(tiles, jnp.asarray(permutations)[labels][..., None], axis=1)
        logits = classify.apply({"params": params["classifier"]}, shuffled.reshape(b, -1))
        assert isinstance(logits, jax.Array)  # nothing is mutable here
        value = cross_entropy(logits, labels)
        metrics = {
            "loss": value,
            "loss_chance": jnp.log(float(num_permutations)),
            "pretext_accuracy": top1(logits, labels),
        }
        return value, StepOutput(batch_stats, metrics)

    return Method(init, augment_and_cut, loss, grad_cache_chunks=grad_cache_chunks)


def cut_tiles(
    images: Float[Array, "b h w c"], offsets: Int[Array, "b 3 3 2"], gap: int
) -> ViewArray:
    """Returns the tiles [b, 9, side, side, c] of square images, row by row.

    Args:
      images: square images; their sides, less what is no multiple of 3, are cut into three.
      offsets: row and column of each tile in its cell, from 0 to gap.
      gap: pixels by which the side of a tile is smaller than that of its cell.

    Raises:
      UserError: if no tile is left.
    """
    cell = images.shape[1] // SIDE
    side = cell - gap
    if side < 1:
        raise UserError(
            f"config.augment.size={images.shape[1]}: a third of it, {cell} px, is not more than "
            f"config.method.gap={gap}; use a size of at least {SIDE * (gap + 1)}, or a smaller gap."
        )

    def tiles(image: Array, offset: Array) -> Array:
        cells = itertools.product(range(SIDE), repeat=2)
        corners = [(i * cell + offset[i, j, 0], j * cell + offset[i, j, 1]) for i, j in cells]
        shape = (side, side, image.shape[-1])
        return jnp.stack([jax.lax.dynamic_slice(image, (y, x, 0), shape) for y, x in corners])

    return jax.vmap(tiles)(images, offsets)


def distant_permutations(count: int, first: Sequence[int]) -> UInt8[np.ndarray, "count 9"]:
    """Returns permutations of nine tiles, chosen greedily to differ in many places.

    Each is that which differs from all those before it in the most places; of equals, the first
    in lexicographic order. The paper maximises the mean number of places, not the least, and some
    of its permutations differ in two only.

    Args:
      count: at most 9!.
      first: the one to start with.
    """
    orders = np.array(list(itertools.permutations(range(NUM_TILES))), np.uint8)
    by_place = np.ascontiguousarray(orders.T)
    chosen = [np.array(first, np.uint8)]
    nearest = np.full(len(orders), NUM_TILES, np.uint8)  # places that differ from any chosen
    while len(chosen) < count:
        last = zip(by_place, chosen[-1], strict=True)
        different = sum((tile != there).astype(np.uint8) for tile, there in last)
        nearest = np.minimum(nearest, different)
        chosen.append(orders[nearest.argmax()])
    return np.stack(chosen)
