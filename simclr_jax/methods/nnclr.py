"""NNCLR: the positive of a view is its nearest neighbour among past images.

Dwibedi et al. 2021, https://arxiv.org/abs/2104.14548, Equations 2 and 3
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from simclr_jax.augment.policies import Augment
from simclr_jax.core.ranges import Count, CountOrZero, Positive
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Batch, Params, PRNGKey, Scalar, Views
from simclr_jax.losses.neighbours import nearest
from simclr_jax.losses.neighbours import nnclr as nnclr_loss
from simclr_jax.losses.similarity import l2_normalize, unit_std
from simclr_jax.methods.base import (
    ApplyModel,
    Method,
    StepOutput,
    Variables,
    apply_model,
    by_image,
    check_grad_cache_chunks,
    check_heads,
    check_other_images,
    init_model,
    projection_width,
)
from simclr_jax.methods.memory import RING_RULE, Ring, ring_rows
from simclr_jax.models.ssl import SSLModel


def nnclr(
    model: SSLModel,
    augment: Augment,
    facts: RunFacts,
    *,
    temperature: Positive = 0.1,
    queue_size: Count = 98304,
    loss_tile: CountOrZero | None = None,
    grad_cache_chunks: int = 1,
) -> Method:
    """Returns NNCLR for `model`; its state is {"queue": {"rows", "labels"}}.

    The queue holds the unit projections [slots, b, d] of the first view of past images, float32,
    and their labels [slots, b]. It starts with random directions, and is renewed after it was
    looked up.

    Args:
      model: network with a projector and a predictor that has the projector's output width.
      augment: (key, batch) -> two views of each image.
      facts: facts of the run.
      temperature: divides the cosine similarity, > 0.
      queue_size: projections in the queue, a multiple of the images of a batch.
      loss_tile: candidates that the loss compares with at a time; None or 0: all at once, or
        tiles of a good size for a large batch.
      grad_cache_chunks: parts of the batch that go through the network one after the other; see
        `base.apply_model`.

    Raises:
      UserError: if a batch has one image.
      ValueError: if the queue is not a whole number of batches, the model has other heads, or the
        chunks are out of range.
    """
    check_heads(model, "nnclr", "projector", "predictor")
    check_grad_cache_chunks(grad_cache_chunks)
    check_other_images(facts, "nnclr")
    ring = Ring(queue_size)
    ring.num_slots(facts.batch_size, "queue_size")

    def init(key: PRNGKey, views: Views) -> Variables:
        variables = init_model(model, key, views, two_views=True)
        key, width = jax.random.fold_in(key, 1), projection_width(model)
        rows = ring.init(key, facts.batch_size, width, "queue_size")
        queue = {"rows": rows, "labels": jnp.full(rows.shape[:2], -1)}
        return variables._replace(method_state={"queue": queue})

    loss = functools.partial(
        _loss,
        apply=functools.partial(
            apply_model, model, views_apart=True, grad_cache_chunks=grad_cache_chunks
        ),
        temperature=temperature,
        tile=loss_tile or None,
    )

    def after_update(state: TrainState, carry: Any) -> Any:
        return {"queue": ring.push(state.method_state["queue"], carry, state)}

    return Method(
        init,
        augment,
        loss,
        after_update,
        state_rules=(RING_RULE,),
        negatives=facts.batch_size - 1,
        grad_cache_chunks=grad_cache_chunks,
    )


def _loss(
    params: Params,
    state: TrainState,
    views: Views,
    batch: Batch,
    key: PRNGKey,
    *,
    apply: ApplyModel,
    temperature: float,
    tile: int | None,
) -> tuple[Scalar, StepOutput]:
    """Predicts the nearest neighbour in the queue of the other view."""
    out, batch_stats = apply(params, state.batch_stats, views, key=key)
    z = jax.lax.stop_gradient(by_image(out["projection"], views))
    queue = ring_rows(state.method_state["queue"])
    found = nearest(z, queue["rows"])  # [b, v]
    value = nnclr_loss(
        by_image(out["prediction"], views),
        queue["rows"][found],
        temperature=temperature,
        tile=tile,
    )
    labels, found_labels = batch["label"][:, None], queue["labels"][found]
    known = (labels >= 0) & (found_labels >= 0)
    same = known & (labels == found_labels)
    metrics = {
        "loss": value,
        "loss_chance": jnp.log(float(z.shape[0])),
        "projection_std": unit_std(z),
        "neighbour_accuracy": same.sum() / jnp.maximum(known.sum(), 1).astype(jnp.float32),
    }
    pushed = {"rows": l2_normalize(z[:, 0]), "labels": batch["label"]}
    return value, StepOutput(batch_stats, metrics, carry=pushed)
