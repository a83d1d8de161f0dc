"""VICReg: views agree, each dimension varies, and no two dimensions covary.

Bardes et al. 2022, https://arxiv.org/abs/2105.04906
"""

from simclr_jax.augment.policies import Augment
from simclr_jax.core.ranges import NonNegative
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.types import Batch, Metrics, Projections, Scalar
from simclr_jax.losses.redundancy import vicreg as vicreg_loss
from simclr_jax.methods.base import Method, check_other_images
from simclr_jax.methods.projected import from_projections
from simclr_jax.models.ssl import SSLModel


def vicreg(
    model: SSLModel,
    augment: Augment,
    facts: RunFacts,
    *,
    invariance_weight: NonNegative = 25.0,
    variance_weight: NonNegative = 25.0,
    covariance_weight: NonNegative = 1.0,
    grad_cache_chunks: int = 1,
) -> Method:
    """Returns VICReg for `model`.

    Args:
      model: network with a wide projector, 8192 in the paper, and no other head.
      augment: (key, batch) -> two views of each image.
      facts: facts of the run.
      invariance_weight: weight of the distance between views, >= 0.
      variance_weight: weight of the amount by which a dimension's deviation is below 1, >= 0.
      covariance_weight: weight of squared covariances of different dimensions, >= 0.
      grad_cache_chunks: parts of the batch that go through the network one after the other; see
        `base.apply_model`.

    Raises:
      UserError: if a batch has one image.
      ValueError: if the model has other heads, or the chunks are out of range.
    """
    check_other_images(facts, "vicreg")

    def loss(z: Projections, batch: Batch) -> tuple[Scalar, Metrics]:
        del batch
        return vicreg_loss(
            z,
            invariance_weight=invariance_weight,
            variance_weight=variance_weight,
            covariance_weight=covariance_weight,
        )

    return from_projections(
        "vicreg", model, augment, loss, views_apart=True, grad_cache_chunks=grad_cache_chunks
    )
