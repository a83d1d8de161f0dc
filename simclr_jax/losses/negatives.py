"""NT-Xent with other negatives: decoupled from the positive, or reweighted by hardness.

Yeh et al. 2021, https://arxiv.org/abs/2110.06848 (DCL, DCLW)
Robinson et al. 2021, https://arxiv.org/abs/2010.04592 (hard negatives)
Chuang et al. 2020, https://arxiv.org/abs/2007.00224 (debiased)
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simclr_jax.core.types import Scalar
from simclr_jax.losses.similarity import (
    check_other_images,
    check_two_views,
    log_sum_exp,
    unit_rows,
)


def dcl(
    z: Float[Array, "b 2 d"],
    *,
    temperature: float,
    sigma: float | None = None,
    tile: int | None = None,
) -> Scalar:
    """Decoupled contrastive loss: NT-Xent without the positive in the denominator.

    < -w_i u_i.u_i+ / T + log sum_a exp(u_i.u_a / T) >

    over all 2b views, where a runs over the 2b - 2 views of other images. The weights are 1 (DCL)
    or w_i = 2 - b softmax_i(u_i.u_i+ / sigma) over the images (DCLW), which are 1 on average,
    larger for positives that are far apart, and get no gradient.

    Args:
      z: projections of both views of every image of the global batch, any scale.
      temperature: divides the cosine similarity; > 0, 0.1 in the paper.
      sigma: temperature of the weights of DCLW, 0.5 in the paper; None for DCL.
      tile: candidates at a time, as for `log_sum_exp`.

    Returns:
      Mean in nats, which may be negative; log(2b - 2) when all similarities are equal.

    Raises:
      ValueError: if there is one image only, z is not [b, 2, d], or the tile is below 1.

    Source: Equations 5 to 7. The weights are averaged over both views as in lightly's DCLLoss.
    """
    check_two_views(z, "dcl")
    check_other_images(z.shape[0], "dcl")
    u = unit_rows(z)
    positives = _positives(u)  # [n]
    sums = log_sum_exp(u, temperature=temperature, mask_group=2, tile=tile)
    weighted = positives
    if sigma is not None:
        shares = jax.nn.softmax(positives[::2] / sigma)  # [b]; both views have the same positive
        weights = 2 - z.shape[0] * jax.lax.stop_gradient(shares)
        weighted = jnp.repeat(weights, 2) * positives
    return (sums - weighted / temperature).mean()


def hard_negatives(
    z: Float[Array, "b 2 d"],
    *,
    temperature: float,
    beta: float,
    class_prior: float,
    tile: int | None = None,
) -> Scalar:
    """NT-Xent with harder negatives weighted more, corrected for those that are positives.

    With e_ia = exp(u_i.u_a / T) for the N = 2b - 2 views a of other images:

    R_i = N sum_a e_ia^(1 + beta) / sum_a e_ia^beta
    G_i = max((R_i - class_prior N e_ii+) / (1 - class_prior), N exp(-1 / T))
    loss = < -log(e_ii+ / (e_ii+ + G_i)) >

    over all 2b views. With beta 0 it is the debiased loss, and with class_prior 0 too NT-Xent.
    The weights e^beta have gradients. All is computed in the log domain, as e^(1 + beta) of the
    released code overflows at low temperatures.

    Args:
      z: projections of both views of every image of the global batch, any scale.
      temperature: divides the cosine similarity; > 0, 0.5 in the paper.
      beta: how much hardness counts, >= 0; 1 in the paper.
      class_prior: tau+, share of views of other images that are of the same class, in [0, 1);
        0.1 in the paper.
      tile: candidates at a time, as for `log_sum_exp`.

    Returns:
      Mean in nats; log(2b - 1) when all similarities are equal.

    Raises:
      ValueError: if there is one image only, z is not [b, 2, d], or the tile is below 1.

    Source: Equations 3 to 6; https://github.com/joshr17/HCL, loss.py.
    """
    check_two_views(z, "hard_negatives")
    check_other_images(z.shape[0], "hard_negatives")
    u = unit_rows(z)
    positives = _positives(u) / temperature  # [n]
    log_n = jnp.log(jnp.asarray(u.shape[0] - 2, u.dtype))
    sums = lambda power: log_sum_exp(u, temperature=temperature / power, mask_group=2, tile=tile)
    log_r = log_n + sums(1 + beta) - (sums(beta) if beta else log_n)
    # log(R - class_prior N e+), for which the clamp stands where that is not positive.
    excess = jnp.log(jnp.asarray(class_prior, u.dtype)) + log_n + positives - log_r
    left = excess < 0
    rest = jnp.log(-jnp.expm1(jnp.where(left, excess, -1.0)))
    least = log_n - 1 / temperature
    log_g = jnp.maximum(log_r + rest - jnp.log1p(-class_prior), least)
    return jax.nn.softplus(jnp.where(left, log_g, least) - positives).mean()


def _positives(u: Float[Array, "n d"]) -> Float[Array, " n"]:
    """Returns the cosine of each view with the other view of its image."""
    pairs = u.reshape(-1, 2, u.shape[-1])
    return jnp.repeat(jnp.sum(pairs[:, 0] * pairs[:, 1], axis=-1), 2)
