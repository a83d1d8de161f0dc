"""Losses of a classifier: cross entropy with labels, and with a teacher's probabilities."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from simclr_jax.core.types import Scalar


def cross_entropy(logits: Float[Array, "n k"], labels: Int[Array, " n"]) -> Scalar:
    """Returns the mean cross entropy in nats over the rows with a label; 0 if there are none.

    Args:
      logits: one row for each image, any scale.
      labels: labels of the rows, in [0, k); -1 where unknown.
    """
    known = labels >= 0
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(known, labels, 0))
    return jnp.sum(jnp.where(known, losses, 0.0)) / jnp.maximum(known.sum(), 1)


def distillation(
    student: Float[Array, "n k"], teacher: Float[Array, "n k"], *, temperature: float
) -> Scalar:
    """Cross entropy of the student with the teacher's softened probabilities.

    -T^2 mean_x sum_y p_teacher(y | x; T) log p_student(y | x; T), where p(y | x; T) is the softmax
    of logits / T. No gradient flows to the teacher.

    Args:
      student: logits, one row for each image.
      teacher: logits of the same images.
      temperature: T > 0; SimCLRv2 uses 0.1 for a student of the same size, 1 for a smaller one.

    Source: Chen et al. 2020, https://arxiv.org/abs/2006.10029, Eq. 2, where the factor T^2 is
      absent: it comes from the official notebook, and keeps the scale of gradients the same at
      any temperature (Hinton et al. 2015, https://arxiv.org/abs/1503.02531, Section 2).
    """
    targets = jax.nn.softmax(jax.lax.stop_gradient(teacher) / temperature)
    losses = optax.softmax_cross_entropy(student / temperature, targets)
    return losses.mean() * temperature**2


def top1(logits: Float[Array, "n k"], labels: Int[Array, " n"]) -> Scalar:
    """Returns the share of labelled rows whose largest logit is the label's; 0 without any."""
    known = labels >= 0
    correct = known & (jnp.argmax(logits, axis=-1) == labels)
    return correct.sum() / jnp.maximum(known.sum(), 1).astype(jnp.float32)
