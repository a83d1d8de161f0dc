"""Methods of two towers: an image, or a sound, and its caption are mapped to one space."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simclr_jax.augment.policies import Augment
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.state import TrainState
from simclr_jax.core.tree import stop_gradient_at
from simclr_jax.core.types import Batch, Metrics, Params, PRNGKey, Scalar, Views
from simclr_jax.losses.two_towers import DUPLICATES, pair_metrics, symmetric_info_nce
from simclr_jax.methods.base import (
    Frozen,
    Method,
    StepOutput,
    Variables,
    apply_model,
    check_grad_cache_chunks,
    check_heads,
    check_other_images,
    init_model,
    one_view,
)
from simclr_jax.models.ssl import SSLModel

Rows: TypeAlias = Float[Array, "b d"]
PairLoss: TypeAlias = Callable[[Params, Rows, Rows, Batch], tuple[Scalar, Metrics]]
ENCODER = "encoder/.*"


def from_contrast(
    name: str,
    seen: str,
    model: SSLModel,
    augment: Augment,
    facts: RunFacts,
    *,
    temperature: float,
    max_scale: float,
    duplicates: str,
    lock_images: bool,
    loss_tile: int | None,
    grad_cache_chunks: int,
) -> Method:
    """Returns the method in which examples find their captions in the batch, and captions theirs.

    Args:
      name: name of the method, for messages.
      seen: what the encoder takes, "image" or "audio", in the names of both halves of the loss.
      model: network with a projector, a text tower and its projector, and no other head.
      augment: (key, batch) -> one view of each example.
      facts: facts of the run.
      temperature: as of `clip.clip`, and so is what follows.
      max_scale: see there.
      duplicates: see there.
      lock_images: see there.
      loss_tile: see there.
      grad_cache_chunks: see there.

    Raises:
      UserError: as `clip.clip` does.
      ValueError: likewise.
    """
    if duplicates not in DUPLICATES:
        raise ValueError(f"duplicates={duplicates!r} must be one of {[*DUPLICATES]}.")

    def loss(params: Params, images: Rows, texts: Rows, batch: Batch) -> tuple[Scalar, Metrics]:
        both = symmetric_info_nce(
            images,
            texts,
            log_scale=params["log_scale"],
            ids=batch["text_id"],
            duplicates=duplicates,
            tile=loss_tile or None,
        )
        return both.loss, {
            "loss_chance": jnp.log(float(images.shape[0])),
            f"loss_{seen}_to_text": both.first_to_second,
            f"loss_text_to_{seen}": both.second_to_first,
        }

    method = from_pairs(
        name,
        model,
        augment,
        facts,
        loss,
        scalars={"log_scale": -math.log(temperature)},
        max_scale=max_scale,
        lock_images=lock_images,
        grad_cache_chunks=grad_cache_chunks,
    )
    return dataclasses.replace(method, negatives=facts.batch_size - 1)


def from_pairs(
    name: str,
    model: SSLModel,
    augment: Augment,
    facts: RunFacts,
    loss: PairLoss,
    *,
    scalars: Mapping[str, float],
    max_scale: float,
    lock_images: bool,
    grad_cache_chunks: int,
) -> Method:
    """Returns the method that minimises a loss of images, or sounds, and captions; it has no state.

    The towers are at params/encoder with params/projector, and at params/text with
    params/text_projector. Scalars that are learned with the loss are in float32 at params/NAME, and
    "log_scale" among them is clipped to [0, log(max_scale)] after each update: a bound within the
    loss would have no gradient beyond it.

    Args:
      name: name of the method, for messages.
      model: network with a projector, a text tower and its projector, and no other head.
      augment: (key, batch) -> one view of each image.
      facts: facts of the run.
      loss: (params, rows of images, rows of captions, batch) -> (value, what is logged beside it).
      scalars: what else is learned, by name, and where it starts; "log_scale" is among them.
      max_scale: largest factor of cosines.
      lock_images: whether the encoder stays as it is, its BatchNorm too.
      grad_cache_chunks: parts of the batch that go through each tower one after the other; see
        `base.apply_model`.

    Raises:
      UserError: if a batch has one image.
      ValueError: if the model has other heads, or the chunks are out of range.
    """
    check_other_images(facts, name)
    check_heads(model, name, "projector", "text", "text_projector")
    check_grad_cache_chunks(grad_cache_chunks)

    def init(key: PRNGKey, views: Views) -> Variables:
        _check_one_view(views, name)
        variables = init_model(model, key, views)
        start = {key: jnp.asarray(value, jnp.float32) for key, value in scalars.items()}
        return variables._replace(params={**variables.params, **start})

    def pair_loss(
        params: Params, state: TrainState, views: Views, batch: Batch, key: PRNGKey
    ) -> tuple[Scalar, StepOutput]:
        towers = {name: tree for name, tree in params.items() if name not in scalars}
        if lock_images:
            towers = stop_gradient_at(ENCODER, towers)
        embed = functools.partial(
            apply_model, model, towers, state.batch_stats, grad_cache_chunks=grad_cache_chunks
        )
        image_key, text_key = jax.random.split(key)
        out, batch_stats = embed(one_view(views, 0), key=image_key, train=not lock_images)
        images = out["projection"]
        captions = {"text": batch["text"][:, None], "length": batch["text_length"][:, None]}
        texts, _ = embed(captions, key=text_key, output="embed_text")
        value, metrics = loss(params, images, texts, batch)
        metrics = {
            "loss": value,
            "scale": jnp.exp(params["log_scale"]),
            **pair_metrics(images, texts, batch["text_id"]),
            **metrics,
        }
        return value, StepOutput(batch_stats, metrics)

    def constrain(params: Params) -> Params:
        return {**params, "log_scale": jnp.clip(params["log_scale"], 0.0, jnp.log(max_scale))}

    return Method(
        init,
        augment,
        pair_loss,
        constrain=constrain,
        frozen_params=(Frozen(ENCODER),) if lock_images else (),
        grad_cache_chunks=grad_cache_chunks,
        train_batch_norm=not lock_images,
    )


def _check_one_view(views: Views, name: str) -> None:
    num_views = sum(x.shape[1] for x in jax.tree.leaves(views))
    if num_views != 1:
        raise ValueError(
            f"method {name} takes one view of each image, and config.augment makes {num_views}; "
            "use config.augment.name='finetune', crops and mirror, or 'single', with colours, too."
        )
