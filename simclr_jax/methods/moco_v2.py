"""MoCo v1 and v2: find a view's key among past keys, all made by a momentum encoder.

He et al. 2019, https://arxiv.org/abs/1911.05722 (v1: a linear projector)
Chen et al. 2020, https://arxiv.org/abs/2003.04297 (v2: two layers, SimCLR's views)
"""

import jax.numpy as jnp

from simclr_jax.augment.policies import Augment
from simclr_jax.core.ranges import Count, CountOrZero, Decay, Positive
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import PRNGKey, Scalar
from simclr_jax.losses.momentum import info_nce
from simclr_jax.methods.base import Method
from simclr_jax.methods.memory import Queue
from simclr_jax.methods.queued import Rows, from_queue
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

    The negatives are the keys of past batches alone; other images of this batch are none. The
    queue starts with random directions, so that the loss rises at first. See `from_queue`.

    Args:
      model: network with a projector and no other head.
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

    def contrast(
        query: Rows, keys: Rows, queue: Queue, state: TrainState, key: PRNGKey
    ) -> tuple[Scalar, Scalar]:
        del state, key
        value = info_nce(
            query,
            keys,
            temperature=temperature,
            queue=queue,
            in_batch=False,
            tile=loss_tile or None,
        )
        return value, jnp.log(queue_size + 1.0)

    return from_queue(
        "moco_v2",
        model,
        augment,
        facts,
        contrast,
        queue_size=queue_size,
        ema=ema,
        negatives=queue_size,
        grad_cache_chunks=grad_cache_chunks,
    )
