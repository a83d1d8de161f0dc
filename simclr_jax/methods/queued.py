"""What methods that contrast a view with a queue of past keys share: all but the contrast.

He et al. 2019, https://arxiv.org/abs/1911.05722, Algorithm 1
"""

import functools
from collections.abc import Callable
from typing import TypeAlias

import jax
from jaxtyping import Array, Float

from simclr_jax.augment.policies import Augment
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Batch, Params, PRNGKey, Scalar, Views
from simclr_jax.losses.similarity import unit_std
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
from simclr_jax.methods.memory import RING_RULE, Queue, Ring, Target, TargetAndQueue, ring_rows
from simclr_jax.models.ssl import SSLModel

Rows: TypeAlias = Float[Array, "n d"]
Contrast: TypeAlias = Callable[[Rows, Rows, Queue, TrainState, PRNGKey], tuple[Scalar, Scalar]]


def from_queue(
    name: str,
    model: SSLModel,
    augment: Augment,
    facts: RunFacts,
    contrast: Contrast,
    *,
    queue_size: int,
    ema: float,
    negatives: int,
    grad_cache_chunks: int,
) -> Method:
    """Returns a method on MoCo's state, {"target": {"params", "batch_stats"}, "queue"}.

    The first view is the query, and the target makes the key of the second. The queue [slots, b, d]
    is float32, starts with random directions, and gets the keys of each batch after its loss. The
    released code moves the target before it makes the keys, and we after the step, which is the
    same; it shuffles images between devices because each of them normalises by itself, and here
    BatchNorm is global.

    Args:
      name: name of the method, for messages.
      model: network with a projector and no other head.
      augment: (key, batch) -> two views of each image.
      facts: facts of the run.
      contrast: (queries [b, d], keys [b, d], unit rows of the queue [k, d], state, key) -> (loss,
        loss when nothing is learned).
      queue_size: keys in the queue, a multiple of the images of a batch.
      ema: share of itself that the target keeps in each step, in [0, 1).
      negatives: negatives of each query in the first step.
      grad_cache_chunks: parts of the batch that go through the networks one after the other; see
        `base.apply_model`.

    Raises:
      ValueError: if the queue is not a whole number of batches, the model has other heads, or the
        chunks are out of range.
    """
    check_heads(model, name, "projector")
    check_grad_cache_chunks(grad_cache_chunks)
    apply = functools.partial(apply_model, model, grad_cache_chunks=grad_cache_chunks)
    ring = Ring(queue_size)
    ring.num_slots(facts.batch_size, "queue_size")
    kept = TargetAndQueue(Target(ema), ring, facts.batch_size, "queue_size")

    def init(key: PRNGKey, views: Views) -> Variables:
        variables = init_model(model, key, views, two_views=True)
        return variables._replace(method_state=kept.init(key, variables, projection_width(model)))

    def loss(
        params: Params, state: TrainState, views: Views, batch: Batch, key: PRNGKey
    ) -> tuple[Scalar, StepOutput]:
        del batch
        out, batch_stats = apply(params, state.batch_stats, one_view(views, 0), key=key)
        old, second = state.method_state["target"], one_view(views, 1)
        target_out, target_stats = apply(old["params"], old["batch_stats"], second, key=None)
        query, keys = out["projection"], jax.lax.stop_gradient(target_out["projection"])
        queue = ring_rows(state.method_state["queue"])
        value, chance = contrast(query, keys, queue, state, jax.random.fold_in(key, 1))
        metrics = {"loss": value, "loss_chance": chance, "projection_std": unit_std(query)}
        return value, StepOutput(batch_stats, metrics, carry=(keys, target_stats))

    return Method(
        init,
        augment,
        loss,
        kept.update,
        state_rules=(RING_RULE,),
        negatives=negatives,
        grad_cache_chunks=grad_cache_chunks,
    )
