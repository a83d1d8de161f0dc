"""Triplets: every view nearer to its own than to the nearest other, by a margin.

Schroff et al. 2015, https://arxiv.org/abs/1503.03832 (semi-hard)
Hermans et al. 2017, https://arxiv.org/abs/1703.07737 (batch-hard)
"""

import jax.numpy as jnp

from simclr_jax.augment.policies import Augment
from simclr_jax.core.ranges import Positive
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.types import Batch, Metrics, Projections, Scalar
from simclr_jax.losses.metric import MINING, triplet_loss
from simclr_jax.losses.similarity import unit_rows
from simclr_jax.methods.base import Method, check_other_images
from simclr_jax.methods.margin import check_positives, classes_of_rows
from simclr_jax.methods.projected import from_projections
from simclr_jax.models.ssl import SSLModel


def triplet(
    model: SSLModel,
    augment: Augment,
    facts: RunFacts,
    *,
    margin: Positive = 0.5,
    mining: str = "batch_hard",
    positives: str = "views",
    grad_cache_chunks: int = 1,
) -> Method:
    """Returns the triplet loss on unit projections for `model`.

    Args:
      model: network with a projector and no other head.
      augment: (key, batch) -> two views of each image.
      facts: facts of the run.
      margin: distance by which a negative should be farther than a positive, > 0; distances are
        in [0, 2].
      mining: which triplets count: "all", "semi_hard", "batch_hard" or "batch_hard_soft", which
        has no margin; see `losses.metric.triplet_loss`.
      positives: "views", the other view of an image; or "labels", all views of its class, which
        leaves images without a label out.
      grad_cache_chunks: parts of the batch that go through the network one after the other; see
        `base.apply_model`.

    Raises:
      UserError: if a batch has one image, or labels are wanted and there are no two classes.
      ValueError: if the mining or the positives are unknown, the model has other heads, or the
        chunks are out of range.
    """
    check_other_images(facts, "triplet")
    check_positives(positives, facts, "triplet")
    if mining not in MINING:
        raise ValueError(f"mining={mining!r} is unknown; it must be one of {MINING}.")
    chance = jnp.log(2.0) if mining == "batch_hard_soft" else jnp.asarray(margin)

    def loss(z: Projections, batch: Batch) -> tuple[Scalar, Metrics]:
        rows, classes = unit_rows(z), classes_of_rows(z, batch, positives)
        value = triplet_loss(rows, classes, margin=margin, mining=mining)
        return value, {"loss_chance": chance}  # where all projections are equal

    return from_projections("triplet", model, augment, loss, grad_cache_chunks=grad_cache_chunks)
