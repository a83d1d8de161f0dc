"""MoCHi: MoCo v2 with more negatives, which are mixed from the hardest keys of the queue.

Kalantidis et al. 2020, https://arxiv.org/abs/2010.01028
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simclr_jax.augment.policies import Augment
from simclr_jax.core.ranges import Count, CountOrZero, Decay, Fraction, NonNegative, Positive
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import PRNGKey, Scalar
from simclr_jax.losses.mixing import hardest, mix_pairs, mix_with_query
from simclr_jax.losses.momentum import info_nce
from simclr_jax.methods.base import Method
from simclr_jax.methods.memory import Queue
from simclr_jax.methods.queued import Rows, from_queue
from simclr_jax.models.ssl import SSLModel


def mochi(
    model: SSLModel,
    augment: Augment,
    facts: RunFacts,
    *,
    temperature: Positive = 0.2,
    queue_size: Count = 65536,
    ema: Decay = 0.999,
    hard_share: Fraction = 1 / 64,
    num_mixed: CountOrZero = 1024,
    num_mixed_with_query: CountOrZero = 128,
    warmup_epochs: NonNegative = 10.0,
    loss_tile: CountOrZero | None = None,
    grad_cache_chunks: int = 1,
) -> Method:
    """Returns MoCHi for `model`; its state is MoCo's, see `from_queue`.

    Each query gets negatives of its own, to which no gradient flows: on the lines between two of
    its hardest keys of the queue, and between it and one of them, nearer to the key.

    Args:
      model: network with a projector and no other head.
      augment: (key, batch) -> two views of each image.
      facts: facts of the run.
      temperature: divides the cosine similarity, > 0.
      queue_size: keys in the queue, a multiple of the images of a batch.
      ema: share of itself that the target keeps in each step, in [0, 1).
      hard_share: share of the queue that counts as hard for a query, in (0, 1]; the paper takes
        1024 keys, a 64th of the largest queue.
      num_mixed: negatives between two hard keys, for each query; s in the paper.
      num_mixed_with_query: negatives between the query and a hard key; s' in the paper.
      warmup_epochs: epochs of plain MoCo v2 at first.
      loss_tile: keys of the queue that the loss compares with at a time; None or 0: all at once,
        or tiles of a good size if they are many. Hard keys are searched among all keys at once.
      grad_cache_chunks: parts of the batch that go through the networks one after the other; see
        `base.apply_model`.

    Raises:
      ValueError: if nothing is mixed, the queue is not a whole number of batches, the model has
        other heads, or the chunks are out of range.
    """
    total = num_mixed + num_mixed_with_query
    if not total:
        raise ValueError(
            "num_mixed=0 and num_mixed_with_query=0 mix nothing; name='moco_v2' does without."
        )
    num_hard = max(1, round(hard_share * queue_size))
    settings = {"temperature": temperature, "in_batch": False, "tile": loss_tile or None}
    start = facts.steps_in("warmup_epochs", warmup_epochs)

    def contrast(
        query: Rows, keys: Rows, queue: Queue, state: TrainState, key: PRNGKey
    ) -> tuple[Scalar, Scalar]:
        loss = functools.partial(info_nce, query, keys, queue=queue, **settings)

        def with_mixed() -> Scalar:
            anchors = jax.lax.stop_gradient(query)
            mixed = _mixed(key, anchors, queue, num_hard, num_mixed, num_mixed_with_query)
            return loss(own_negatives=mixed)

        mixing = state.step >= start
        value = jax.lax.cond(mixing, with_mixed, loss) if start else with_mixed()
        return value, jnp.log(queue_size + 1.0 + jnp.where(mixing, total, 0))

    return from_queue(
        "mochi",
        model,
        augment,
        facts,
        contrast,
        queue_size=queue_size,
        ema=ema,
        negatives=queue_size + (0 if start else total),
        grad_cache_chunks=grad_cache_chunks,
    )


def _mixed(
    key: PRNGKey, query: Rows, queue: Queue, num_hard: int, num_mixed: int, num_with_query: int
) -> Float[Array, "n m d"]:
    """Draws which hard keys are mixed, and in which shares; see `losses.mixing`."""
    n = query.shape[0]
    hard = hardest(query, queue, num_hard)
    pair_key, one_key, share_key, query_share_key = jax.random.split(key, 4)
    pairs = jax.random.randint(pair_key, (n, 2 * num_mixed), 0, num_hard)
    ones = jax.random.randint(one_key, (n, num_with_query), 0, num_hard)
    pairs, ones = (jnp.take_along_axis(hard, drawn, axis=1) for drawn in (pairs, ones))
    share = jax.random.uniform(share_key, (n, num_mixed))
    query_share = jax.random.uniform(query_share_key, (n, num_with_query), maxval=0.5)
    between_keys = mix_pairs(queue, pairs.reshape(n, num_mixed, 2), share)
    return jnp.concatenate([between_keys, mix_with_query(query, queue, ones, query_share)], axis=1)
