"""MoCo v1 and v2: one view's key among a queue of past keys, all by a momentum encoder.

He et al. 2019, https://arxiv.org/abs/1911.05722 (v1: a linear projector)
Chen et al. 2020, https://arxiv.org/abs/2003.04297 (v2: two layers, SimCLR's views)
"""

from typing import Any

import jax
import jax.numpy as jnp

from simclr_jax.augment.policies import Augment
from simclr_jax.core.ranges import Count, CountOrZero, Decay, Positive
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Batch, Params, PRNGKey, Scalar, Views
from simclr_jax.losses.momentum import info_nce
from simclr_jax.losses.similarity import l2_normalize, unit_std
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
from simclr_jax.methods.memory import RING_RULE, Ring, Target, ring_rows
from simclr_jax.models.ssl import SSLModel


def moco_v2(
    model: SSLModel,
    augment: Augment,
    facts: RunFacts,
    *,
    temperature: Positive = 0.2,
    queue_size: Count = 65536,
    ema: Decay = 0.999,
    loss_tile: CountOrZero | None = None,
    grad_cache_chunks: int = 1,
) -> Method:
    """Returns MoCo for `model`; its state is {"target": {"params", "batch_stats"}, "queue"}.

    The first view is the query, the target makes the key of the second, and the negatives are the
    keys of past batches alone; other images of this batch are none. The queue [slots, b, d] is
    float32 and starts with random directions, so that the loss rises at first. The released code
    moves the target before the keys and we after the step, which is the same; it shuffles images
    between devices because each of them normalises by itself, and here BatchNorm is global.

    Args:
      model: with a projector and no other head.
      augment: (key, batch) -> two views of each image.
      facts: facts of the run.
      temperature: divides the cosine similarity, > 0; 0.2 in v2, 0.07 in v1.
      queue_size: keys in the queue, a multiple of the images of a batch.
      ema: share of itself that the target keeps in each step, in [0, 1).
      loss_tile: keys of the queue that the loss compares with at a time; None or 0: all at once,
        or tiles of a good size if they are many.
      grad_cache_chunks: parts of the batch that go through the networks one after the other; see
        `base.apply_model`.

    Raises:
      ValueError: if the queue is not a whole number of batches, the model has other heads, or the
        chunks are out of range.
    """
    check_heads(model, "moco_v2", "projector")
    check_grad_cache_chunks(grad_cache_chunks)
    ring, target = Ring(queue_size), Target(ema)
    ring.num_slots(facts.batch_size, "queue_size")

    def init(key: PRNGKey, views: Views) -> Variables:
        variables = init_model(model, key, views)
        key, width = jax.random.fold_in(key, 1), projection_width(model)
        queue = ring.init(key, facts.batch_size, width, "queue_size")
        return variables._replace(method_state={"target": target.init(variables), "queue": queue})

    def loss(
        params: Params, state: TrainState, views: Views, batch: Batch, key: PRNGKey
    ) -> tuple[Scalar, StepOutput]:
        del batch
        out, batch_stats = apply_model(
            model,
            params,
            state.batch_stats,
            one_view(views, 0),
            key=key,
            grad_cache_chunks=grad_cache_chunks,
        )
        old = state.method_state["target"]
        target_out, target_stats = apply_model(
            model,
            old["params"],
            old["batch_stats"],
            one_view(views, 1),
            key=None,
            grad_cache_chunks=grad_cache_chunks,
        )
        keys = jax.lax.stop_gradient(target_out["projection"])
        value = info_nce(
            out["projection"],
            keys,
            temperature=temperature,
            queue=ring_rows(state.method_state["queue"]),
            in_batch=False,
            tile=loss_tile or None,
        )
        metrics = {
            "loss": value,
            "loss_chance": jnp.log(queue_size + 1.0),
            "projection_std": unit_std(out["projection"]),
        }
        return value, StepOutput(batch_stats, metrics, carry=(keys, target_stats))

    def after_update(state: TrainState, carry: Any) -> Any:
        keys, batch_stats = carry
        return {
            "target": target.update(state.method_state["target"], state, batch_stats),
            "queue": ring.push(state.method_state["queue"], l2_normalize(keys), state),
        }

    return Method(
        init,
        augment,
        loss,
        after_update,
        state_rules=(RING_RULE,),
        negatives=queue_size,
        grad_cache_chunks=grad_cache_chunks,
    )
