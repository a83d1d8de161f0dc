"""SimCLR and SimCLRv2 pretraining: NT-Xent on two augmented views of each image.

Chen et al. 2020, https://arxiv.org/abs/2002.05709 (v1: 2-layer projector)
Chen et al. 2020, https://arxiv.org/abs/2006.10029 (v2: 3-layer projector, SK-ResNet, memory)
"""

import jax.numpy as jnp

from simclr_jax.augment.policies import Augment
from simclr_jax.core.ranges import CountOrZero, Positive
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.types import Metrics, Projections, Scalar
from simclr_jax.losses.contrastive import contrastive_metrics, nt_xent
from simclr_jax.methods.base import Method
from simclr_jax.methods.memory import Queue
from simclr_jax.methods.momentum_memory import Memory, with_memory
from simclr_jax.methods.projected import from_projections
from simclr_jax.models.ssl import SSLModel


def simclr(
    model: SSLModel,
    augment: Augment,
    facts: RunFacts,
    *,
    temperature: Positive = 0.1,
    memory: Memory | None = None,
    gradient_scale: Positive = 1.0,
    loss_tile: CountOrZero | None = None,
    grad_cache_chunks: int = 1,
) -> Method:
    """Returns SimCLR for `model`.

    Args:
      model: network with a projector and no other head.
      augment: (key, batch) -> two views of each image.
      facts: facts of the run.
      temperature: temperature of NT-Xent, > 0.
      memory: momentum memory of SimCLRv2; None to contrast the views of one batch only.
      gradient_scale: multiplies the gradient, > 0; the loss that is logged stays the mean over
        views, in nats. The official code sums the losses of an image's two views
        (tf2/objective.py), and its rates and weight decays were tuned with that: 2 goes with
        them in LARS recipes, where another rate would not do. The trust ratio cancels a factor
        of the gradient alone, not of the sum with the decay, and BatchNorm has none.
      loss_tile: candidates that the loss compares with at a time; memory grows with it. None
        or 0: all at once, or tiles of a good size for a batch above 4096 images.
      grad_cache_chunks: parts of the batch that go through the network one after the other, so
        that more fits; the loss sees all of it. See `base.apply_model`.

    Raises:
      ValueError: if the model has other heads, or the chunks are out of range; `init` raises one
        if the memory is not a whole number of batches.
    """
    tile = loss_tile or None
    num_negatives = 2 * facts.batch_size - 2 + (memory.size if memory else 0)

    def contrast(
        z: Projections, keys: Projections | None = None, queue: Queue | None = None
    ) -> tuple[Scalar, Metrics]:
        value = nt_xent(z, temperature=temperature, keys=keys, queue=queue, tile=tile)
        chance = jnp.log(num_negatives + 1.0)  # all similarities equal: nothing learned
        # The bound is in nats, of two views (van den Oord et al. 2018,
        # https://arxiv.org/abs/1807.03748, Eq. 5).
        return value, {
            "loss_chance": chance,
            "mutual_information_bound": chance - value,
            **contrastive_metrics(z, temperature=temperature, tile=tile),
        }

    if memory is not None:
        return with_memory(
            "simclr",
            model,
            augment,
            facts,
            contrast,
            memory,
            gradient_scale=gradient_scale,
            negatives=num_negatives,
            grad_cache_chunks=grad_cache_chunks,
        )
    return from_projections(
        "simclr",
        model,
        augment,
        lambda z, batch: contrast(z),
        gradient_scale=gradient_scale,
        negatives=num_negatives,
        grad_cache_chunks=grad_cache_chunks,
    )
