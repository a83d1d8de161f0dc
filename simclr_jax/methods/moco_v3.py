"""MoCo v3: predictions of each view find their momentum key among those of the other view.

Chen et al. 2021, https://arxiv.org/abs/2104.02057, Equation 1 and Algorithm 1
"""

import jax.numpy as jnp

from simclr_jax.augment.policies import Augment
from simclr_jax.core.ranges import CountOrZero, Positive
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.types import Metrics, Projections, Scalar
from simclr_jax.losses.momentum import moco_v3 as moco_v3_loss
from simclr_jax.methods.base import Method, check_other_images
from simclr_jax.methods.byol import predict_target
from simclr_jax.methods.memory import Target, cosine_ema
from simclr_jax.models.ssl import SSLModel


def moco_v3(
    model: SSLModel,
    augment: Augment,
    facts: RunFacts,
    *,
    temperature: Positive = 1.0,
    ema: float = 0.99,
    gradient_scale: Positive = 1.0,
    loss_tile: CountOrZero | None = None,
    grad_cache_chunks: int = 1,
) -> Method:
    """Returns MoCo v3 for `model`; its state is {"target": {"params", "batch_stats"}}.

    The target moves after each step, while the released code moves it before it makes the keys of
    the next step, which is the same. The EMA rate is that of the next step, as there.

    Args:
      model: network with a projector and a predictor that has the projector's output width.
      augment: (key, batch) -> two views of each image.
      facts: facts of the run; the EMA rises over all its steps.
      temperature: divides the cosine similarity, > 0; 1 for ResNets, 0.2 for ViTs.
      ema: share of itself that the target keeps at first, in [0, 1]; it rises to 1 on half a
        cosine. 0.99, and 0.996 for 1000 epochs.
      gradient_scale: multiplies the gradient and not the loss that is logged, > 0. The released
        loss is 4 temperature times ours.
      loss_tile: candidates that the loss compares with at a time; None or 0: all at once, or
        tiles of a good size for a large batch.
      grad_cache_chunks: parts of the batch that go through the networks one after the other; see
        `base.apply_model`.

    Raises:
      UserError: if a batch has one image.
      ValueError: if `ema` or the chunks are out of range, or the model has other heads.
    """
    check_other_images(facts, "moco_v3")
    tile = loss_tile or None
    rate = cosine_ema(ema, facts.num_steps)

    def loss(prediction: Projections, target: Projections) -> tuple[Scalar, Metrics]:
        value = moco_v3_loss(prediction, target, temperature=temperature, tile=tile)
        return value, {"loss_chance": jnp.log(float(prediction.shape[0]))}

    return predict_target(
        "moco_v3",
        model,
        augment,
        loss,
        target=Target(lambda step: rate(step + 1), parts=("encoder", "projector")),
        gradient_scale=gradient_scale,
        grad_cache_chunks=grad_cache_chunks,
        negatives=facts.batch_size - 1,
    )
