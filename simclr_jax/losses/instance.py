"""Instance discrimination: every image is a class, and a bank of past projections the classifier.

Wu et al. 2018, https://arxiv.org/abs/1805.01978
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from simclr_jax.core.types import Scalar
from simclr_jax.losses.similarity import log_sum_exp, unit_rows


def instance_softmax(
    z: Float[Array, "n d"],
    own: Float[Array, "n d"],
    bank: Float[Array, "k d"],
    *,
    temperature: float,
    known: Bool[Array, " n"],
    candidate_mask: Bool[Array, " k"] | None = None,
    tile: int | None = None,
) -> Scalar:
    """Cross entropy of each row's own image among all images of the bank.

    Args:
      z: projections of any scale.
      own: the bank's row of each projection's image.
      bank: rows of unit length, one for each image. No gradient reaches them.
      temperature: divides the similarity; > 0, 0.07 in the paper.
      known: rows that count; the bank knows no image for others.
      candidate_mask: rows of the bank that belong to an image; None: all.
      tile: rows of the bank at a time, as for `log_sum_exp`.

    Returns:
      Mean in nats over the rows that count, 0 if there are none; the log of the number of images
      when all similarities are equal.

    Source: Equation 2.
    """
    u = unit_rows(z)
    bank, own = jax.lax.stop_gradient((bank, own))
    sums = log_sum_exp(u, bank, temperature=temperature, candidate_mask=candidate_mask, tile=tile)
    return _mean(sums - jnp.sum(u * own, axis=-1) / temperature, known)


def instance_nce(
    log_ratios: Float[Array, "n one_and_k"], *, num_images: int, known: Bool[Array, " n"]
) -> Scalar:
    """Noise-contrastive estimate of `instance_softmax`: the own image against k random ones.

    With p_i = exp(u.v_i / T) / Z and c = k / num_images, the mean number of draws of an image,

    -log p_own / (p_own + c) - sum_j log c / (p_j + c)

    over the k images j, which are drawn with replacement and may be the own one.

    Args:
      log_ratios: log p of each row's own image, then of its k random ones.
      num_images: number of images that they were drawn from.
      known: rows that count; the bank knows no image for others.

    Returns:
      Mean over the rows that count, 0 if there are none. The k terms are summed, as in the
      released code, so the value is `nce_chance` when all images are equally likely.

    Source: Equations 4 to 7; https://github.com/zhirongw/lemniscate.pytorch, lib/NCECriterion.py,
    which adds 1e-7 to c, as here, and lacks the proximal term of Equations 9 and 10.
    """
    k = log_ratios.shape[1] - 1
    chance = jnp.asarray(k / num_images, log_ratios.dtype)
    excess = log_ratios - jnp.log(chance + 1e-7)
    of_own = jax.nn.softplus(-excess[:, 0])
    of_noise = jax.nn.softplus(excess[:, 1:]) + jnp.log1p(1e-7 / chance)
    return _mean(of_own + of_noise.sum(axis=1), known)


def nce_chance(num_noise: int) -> Scalar:
    """Returns `instance_nce` of a model to which all images are equally likely."""
    return jnp.log(num_noise + 1.0) + num_noise * jnp.log1p(1.0 / num_noise)


def bank_logits(
    z: Float[Array, "n d"],
    bank: Float[Array, "k d"],
    indices: Int[Array, "n m"],
    *,
    temperature: float,
) -> Float[Array, "n m"]:
    """Returns similarity / temperature of each row with its own m rows of the bank.

    Args:
      z: projections of any scale.
      bank: rows of unit length. No gradient reaches them.
      indices: numbers of the rows of the bank.
      temperature: > 0.
    """
    rows = jax.lax.stop_gradient(bank)[indices]
    logits = jnp.einsum("nd,nmd->nm", unit_rows(z), rows, precision=jax.lax.Precision.HIGHEST)
    return logits / temperature


def _mean(losses: Float[Array, " n"], known: Bool[Array, " n"]) -> Scalar:
    return jnp.where(known, losses, 0).sum() / jnp.maximum(known.sum(), 1)
