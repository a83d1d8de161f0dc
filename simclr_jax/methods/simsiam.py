"""SimSiam: a network predicts its own projection of the other view, without a target.

Chen and He 2020, https://arxiv.org/abs/2011.10566, Equations 1 to 4
"""

from collections.abc import Mapping
from typing import Any

from simclr_jax.augment.policies import Augment
from simclr_jax.core.ranges import Positive
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.types import Batch, Metrics, Scalar, Views
from simclr_jax.losses.siamese import byol as byol_loss
from simclr_jax.losses.similarity import unit_std
from simclr_jax.methods.base import Method, by_image, check_heads
from simclr_jax.methods.projected import from_outputs
from simclr_jax.models.ssl import SSLModel


def simsiam(
    model: SSLModel,
    augment: Augment,
    facts: RunFacts,
    *,
    gradient_scale: Positive = 1.0,
    grad_cache_chunks: int = 1,
) -> Method:
    """Returns SimSiam for `model`; it has no state.

    Args:
      model: network with a projector and a predictor that has the projector's output width.
      augment: (key, batch) -> two views of each image.
      facts: facts of the run.
      gradient_scale: multiplies the gradient and not the loss that is logged, > 0. The released
        loss is a negative cosine, half of ours minus 1, which corresponds to 0.5.
      grad_cache_chunks: parts of the batch that go through the network one after the other; see
        `base.apply_model`.

    Raises:
      ValueError: if the model has other heads, or the chunks are out of range.
    """
    del facts
    check_heads(model, "simsiam", "projector", "predictor")

    def loss(out: Mapping[str, Any], views: Views, batch: Batch) -> tuple[Scalar, Metrics]:
        del batch
        z = by_image(out["projection"], views)
        value = byol_loss(by_image(out["prediction"], views), z)  # which stops gradients at z
        return value, {"projection_std": unit_std(z)}

    return from_outputs(
        model,
        augment,
        loss,
        two_views=True,
        gradient_scale=gradient_scale,
        views_apart=True,
        grad_cache_chunks=grad_cache_chunks,
    )
