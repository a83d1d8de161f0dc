"""DCL and DCLW: SimCLR without the positive in the denominator.

Yeh et al. 2021, https://arxiv.org/abs/2110.06848
"""

import jax.numpy as jnp

from simclr_jax.augment.policies import Augment
from simclr_jax.core.ranges import CountOrZero, Positive
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.types import Batch, Metrics, Projections, Scalar
from simclr_jax.losses.contrastive import contrastive_metrics
from simclr_jax.losses.negatives import dcl as dcl_loss
from simclr_jax.methods.base import Method, check_other_images
from simclr_jax.methods.projected import from_projections
from simclr_jax.models.ssl import SSLModel


def dcl(
    model: SSLModel,
    augment: Augment,
    facts: RunFacts,
    *,
    temperature: Positive = 0.1,
    sigma: Positive | None = None,
    gradient_scale: Positive = 1.0,
    loss_tile: CountOrZero | None = None,
    grad_cache_chunks: int = 1,
) -> Method:
    """Returns DCL for `model`, or DCLW if `sigma` is set.

    Args:
      model: network with a projector and no other head.
      augment: (key, batch) -> two views of each image.
      facts: facts of the run.
      temperature: divides the cosine similarity, > 0.
      sigma: temperature of DCLW's weights, by which positives that are far apart count more; 0.5
        in the paper. None for DCL.
      gradient_scale: multiplies the gradient and not the loss that is logged, > 0; 2 where the rate
        and decay are SimCLR's, see `simclr`.
      loss_tile: candidates that the loss compares with at a time; None or 0: all at once, or
        tiles of a good size for a large batch.
      grad_cache_chunks: parts of the batch that go through the network one after the other; see
        `base.apply_model`.

    Raises:
      UserError: if a batch has one image.
      ValueError: if the model has other heads, or the chunks are out of range.
    """
    check_other_images(facts, "dcl")
    tile = loss_tile or None

    def loss(z: Projections, batch: Batch) -> tuple[Scalar, Metrics]:
        del batch
        return dcl_loss(z, temperature=temperature, sigma=sigma, tile=tile), {
            "loss_chance": jnp.log(2 * z.shape[0] - 2.0),
            **contrastive_metrics(z, temperature=temperature, tile=tile),
        }

    return from_projections(
        "dcl",
        model,
        augment,
        loss,
        gradient_scale=gradient_scale,
        grad_cache_chunks=grad_cache_chunks,
    )
