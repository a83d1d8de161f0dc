"""Barlow Twins: each dimension agrees between views, and with no other dimension.

Zbontar et al. 2021, https://arxiv.org/abs/2103.03230
"""

from simclr_jax.augment.policies import Augment
from simclr_jax.core.ranges import NonNegative
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.types import Batch, Metrics, Projections, Scalar
from simclr_jax.losses.redundancy import barlow_twins as barlow_twins_loss
from simclr_jax.methods.base import Method, check_other_images
from simclr_jax.methods.projected import from_projections
from simclr_jax.models.ssl import SSLModel


def barlow_twins(
    model: SSLModel,
    augment: Augment,
    facts: RunFacts,
    *,
    off_diagonal_weight: NonNegative = 0.0051,
    grad_cache_chunks: int = 1,
) -> Method:
    """Returns Barlow Twins for `model`.

    Args:
      model: network with a wide projector, 8192 in the paper, and no other head.
      augment: (key, batch) -> two views of each image.
      facts: facts of the run.
      off_diagonal_weight: lambda, of the correlations between different dimensions, >= 0.
      grad_cache_chunks: parts of the batch that go through the network one after the other; see
        `base.apply_model`.

    Raises:
      UserError: if a batch has one image.
      ValueError: if the model has other heads, or the chunks are out of range.
    """
    check_other_images(facts, "barlow_twins")

    def loss(z: Projections, batch: Batch) -> tuple[Scalar, Metrics]:
        del batch
        return barlow_twins_loss(z, off_diagonal_weight=off_diagonal_weight)

    return from_projections(
        "barlow_twins", model, augment, loss, views_apart=True, grad_cache_chunks=grad_cache_chunks
    )
