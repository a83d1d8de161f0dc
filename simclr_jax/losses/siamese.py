"""Regression of one view's target from the other view's prediction, without negatives.

Grill et al. 2020, https://arxiv.org/abs/2006.07733 (BYOL)
Chen and He 2020, https://arxiv.org/abs/2011.10566 (SimSiam)
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simclr_jax.core.types import Scalar
from simclr_jax.losses.similarity import at_least_float32, check_two_views, l2_normalize


def byol(prediction: Float[Array, "b v d"], target: Float[Array, "b v d"]) -> Scalar:
    """Squared distance of unit predictions from the unit target of the other view.

    < |u(p_v) - u(t_w)|^2 > = < 2 - 2 cos(p_v, t_w) > over all images and views v, w the other.
    The targets are projections by a momentum encoder (BYOL), or by the encoder (SimSiam).

    Args:
      prediction: the predictor's output for both views of every image, any scale.
      target: the target's output for the same views, any scale; no gradient reaches it.

    Returns:
      Mean over both views, in [0, 4]; about 2 for unrelated directions, and towards 0 also where
      all projections collapse, so that their spread has to be watched. BYOL's released code sums
      the views: twice this value. SimSiam's is the negative cosine: this value / 2 - 1, which
      half the rate goes with.

    Raises:
      ValueError: if there are not two views.

    Source: Grill et al., Equations 1 and 2; Chen and He, Equations 1 to 4.
    """
    check_two_views(prediction, "byol")
    p = l2_normalize(at_least_float32(prediction))
    t = l2_normalize(jax.lax.stop_gradient(at_least_float32(target)))
    return (2 - 2 * jnp.sum(p * t[:, ::-1], axis=-1)).mean()
