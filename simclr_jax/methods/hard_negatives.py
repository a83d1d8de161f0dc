"""SimCLR with negatives that count more the harder they are; and the debiased loss.

Robinson et al. 2021, https://arxiv.org/abs/2010.04592 (hard negatives)
Chuang et al. 2020, https://arxiv.org/abs/2007.00224 (debiased)
"""

import jax.numpy as jnp

from simclr_jax.augment.policies import Augment
from simclr_jax.core.ranges import CountOrZero, Decay, NonNegative, Positive
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.types import Batch, Metrics, Projections, Scalar
from simclr_jax.losses.contrastive import contrastive_metrics
from simclr_jax.losses.negatives import hard_negatives as hard_negatives_loss
from simclr_jax.methods.base import Method, check_other_images
from simclr_jax.methods.projected import from_projections
from simclr_jax.models.ssl import SSLModel


def hard_negatives(
    model: SSLModel,
    augment: Augment,
    facts: RunFacts,
    *,
    temperature: Positive = 0.5,
    beta: NonNegative = 1.0,
    class_prior: Decay = 0.1,
    loss_tile: CountOrZero | None = None,
    grad_cache_chunks: int = 1,
) -> Method:
    """Returns the contrast with hard negatives for `model`.

    With beta 0 it is the debiased loss, and with class_prior 0 too SimCLR.

    Args:
      model: network with a projector and no other head.
      augment: (key, batch) -> two views of each image.
      facts: facts of the run.
      temperature: divides the cosine similarity, > 0.
      beta: how much hardness counts, >= 0; the paper tries 0.5 to 2.
      class_prior: share of other images that are of the same class, in [0, 1): about one over the
        number of classes.
      loss_tile: candidates that the loss compares with at a time; None or 0: all at once, or
        tiles of a good size for a large batch.
      grad_cache_chunks: parts of the batch that go through the network one after the other; see
        `base.apply_model`.

    Raises:
      UserError: if a batch has one image.
      ValueError: if the model has other heads, or the chunks are out of range.
    """
    check_other_images(facts, "hard_negatives")
    tile = loss_tile or None

    def loss(z: Projections, batch: Batch) -> tuple[Scalar, Metrics]:
        del batch
        value = hard_negatives_loss(
            z, temperature=temperature, beta=beta, class_prior=class_prior, tile=tile
        )
        return value, {
            "loss_chance": jnp.log(2 * z.shape[0] - 1.0),
            **contrastive_metrics(z, temperature=temperature, tile=tile),
        }

    return from_projections(
        "hard_negatives", model, augment, loss, grad_cache_chunks=grad_cache_chunks
    )
