"""SwAV: predict, from one view, the prototypes that another view was assigned to.

Caron et al. 2020, https://arxiv.org/abs/2006.09882, Equations 1 to 6
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simclr_jax.augment.policies import Augment
from simclr_jax.core.errors import UserError
from simclr_jax.core.placement import replicate
from simclr_jax.core.ranges import Count, CountOrZero, NonNegative, Positive
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Batch, Params, PRNGKey, Scalar, Views
from simclr_jax.losses.clusters import cross_view_entropy, sinkhorn
from simclr_jax.losses.similarity import at_least_float32, l2_normalize, unit_std
from simclr_jax.methods.base import (
    ApplyModel,
    Method,
    StepOutput,
    Variables,
    apply_model,
    by_image,
    check_global_views,
    check_grad_cache_chunks,
    check_heads,
    check_other_images,
    frozen_prototypes,
    init_model,
    projection_width,
    prototypes_of,
)
from simclr_jax.methods.memory import RING_RULE, Ring
from simclr_jax.models.heads import Prototypes, unit_prototypes
from simclr_jax.models.ssl import SSLModel


def swav(
    model: SSLModel,
    augment: Augment,
    facts: RunFacts,
    *,
    temperature: Positive = 0.1,
    epsilon: Positive = 0.05,
    iterations: Count = 3,
    queue_size: CountOrZero = 0,
    queue_start_epoch: NonNegative = 15.0,
    freeze_epochs: NonNegative = 1.0,
    grad_cache_chunks: int = 1,
) -> Method:
    """Returns SwAV for `model`; its state is {"queue"}, or nothing without a queue.

    Codes are Sinkhorn's, over the global batch and, with a queue, over the two global views of
    past images, too, whose scores are those with the prototypes of today. The queue holds their
    unit projections, float32 [slots, b, 2, d]. It is renewed after it was used.

    Args:
      model: network with a projector and prototypes.
      augment: (key, batch) -> views, the first array of which has the two global ones, whose codes
        all other views predict.
      facts: facts of the run.
      temperature: divides the scores of the predictions, > 0.
      epsilon: softness of the codes, > 0; see `sinkhorn`.
      iterations: iterations of Sinkhorn's algorithm.
      queue_size: images in the queue, a multiple of those of a batch, for batches that are small
        against the number of prototypes; 0 for none.
      queue_start_epoch: when the queue begins to fill; once it is full it is used.
      freeze_epochs: how long the prototypes stay as they were initialised.
      grad_cache_chunks: parts of the batch that go through the network one after the other; see
        `base.apply_model`.

    Raises:
      UserError: if a batch has one image, or there are more prototypes than batch and queue hold.
      ValueError: if the queue is not a whole number of batches, the model has other heads, or the
        chunks are out of range.
    """
    check_heads(model, "swav", "projector", "prototypes")
    check_grad_cache_chunks(grad_cache_chunks)
    check_other_images(facts, "swav")
    slots = Ring(queue_size).num_slots(facts.batch_size, "queue_size") if queue_size else 0
    full_from = facts.steps_in("queue_start_epoch", queue_start_epoch) + slots if slots else None
    _check_rows(prototypes_of(model).num_prototypes, facts, queue_size, full_from)

    def init(key: PRNGKey, views: Views) -> Variables:
        check_global_views(views, "swav")
        variables = init_model(model, key, views, several_sizes=True)
        rows = jnp.zeros((slots, facts.batch_size, 2, projection_width(model)), jnp.float32)
        return variables._replace(method_state={"queue": rows}) if slots else variables

    codes = functools.partial(
        _codes,
        head=prototypes_of(model),
        full_from=full_from,
        assign=functools.partial(sinkhorn, epsilon=epsilon, iterations=iterations),
    )
    loss = functools.partial(
        _loss,
        apply=functools.partial(apply_model, model, grad_cache_chunks=grad_cache_chunks),
        codes=codes,
        temperature=temperature,
    )

    def after_update(state: TrainState, carry: Any) -> Any:
        if not slots:
            return state.method_state
        return {"queue": Ring(queue_size).push(state.method_state["queue"], carry, state)}

    return Method(
        init,
        augment,
        loss,
        after_update,
        constrain=unit_prototypes,
        frozen_params=frozen_prototypes(facts, freeze_epochs),
        state_rules=(RING_RULE,),
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
    codes: Callable[[Params, TrainState, Array], Array],
    temperature: float,
) -> tuple[Scalar, StepOutput]:
    """Predicts from each view the codes of the global ones."""
    del batch
    out, batch_stats = apply(params, state.batch_stats, views, key=key)
    scores = by_image(out["scores"], views)
    fixed = jax.lax.stop_gradient
    targets = codes(fixed(params), state, fixed(scores[:, :2]))
    value = cross_view_entropy(targets, scores, temperature=temperature)
    z = fixed(by_image(out["projection"], views)[:, :2])
    metrics = {
        "loss": value,
        "loss_chance": jnp.log(float(scores.shape[-1])),
        "projection_std": unit_std(z),
    }
    return value, StepOutput(batch_stats, metrics, carry=l2_normalize(at_least_float32(z)))


def _codes(
    params: Params,
    state: TrainState,
    scores: Float[Array, "b 2 k"],
    *,
    head: Prototypes,
    full_from: int | None,
    assign: Callable[[Array], Array],
) -> Float[Array, "b 2 k"]:
    """Returns the codes of a batch: among past ones from a step on, and alone before or if None."""

    def first(scores: Float[Array, "s b 2 k"]) -> Float[Array, "b 2 k"]:
        """Returns the codes of the first of s batches; each view is assigned by itself."""
        return jax.vmap(assign, in_axes=2, out_axes=2)(scores)[0]

    if full_from is None:
        return first(scores[None])
    variables = {"params": jax.tree.map(replicate, params["prototypes"])}

    def with_queue() -> jax.Array:
        past: Any = head.apply(variables, state.method_state["queue"])
        return first(jnp.concatenate([scores[None], past]))

    return jax.lax.cond(state.step >= full_from, with_queue, lambda: first(scores[None]))


def _check_rows(prototypes: int, facts: RunFacts, queue_size: int, full_from: int | None) -> None:
    batch_size = facts.batch_size
    if prototypes > batch_size + queue_size:
        raise UserError(
            f"config.heads.prototypes.num_prototypes={prototypes} is more than the {batch_size} "
            f"images of a batch and the {queue_size} of the queue: codes would share out single "
            f"images. Use at most {batch_size + queue_size}, or a queue: "
            f"config.method.queue_size={-(-prototypes // batch_size) * batch_size}."
        )
    if full_from is not None and prototypes > batch_size and full_from >= facts.num_steps:
        raise UserError(
            f"config.method.queue_start_epoch: the queue, without which there are more prototypes "
            f"than images, would be full after {full_from} steps of a run of {facts.num_steps}. "
            "Start it earlier, --config.method.queue_start_epoch=0, or train longer."
        )
