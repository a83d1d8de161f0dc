"""Supervised contrastive loss: images of one class are each other's positives.

Beside `nt_xent` on all images it is also the first term of the semi-supervised hybrid
l1 supcon(z, labels) + l2 nt_xent(z), where unlabelled images have the label -1. The second term
alone is SimCLR, and the first alone, with all images labelled, SupCon.

Khosla et al. 2020, https://arxiv.org/abs/2004.11362
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from simclr_jax.core.types import Labels, Scalar
from simclr_jax.losses.similarity import log_sum_exp, numbered, unit_rows


def supcon(
    z: Float[Array, "b v d"], labels: Labels, *, temperature: float, tile: int | None = None
) -> Scalar:
    """Supervised contrastive loss with the mean over positives outside of the log (L_out).

    < -1/|P(i)| sum_{p in P(i)} log [ exp(u_i.u_p / T) / sum_{a != i} exp(u_i.u_a / T) ] >

    over all views i of images with a label, where P(i) are the other views with the label of i,
    and a runs over all other views of images with a label. A label of -1 takes an image out of
    the loss, also as a candidate: it may be of the same class, and as a negative it would
    contradict the labels. So the value means the same at any share of labels. With a class of
    its own for each image it is NT-Xent.

    Positives are summed by class before they are compared, sum_p u_i.u_p = u_i.(sum_p u_p), so
    that only the denominator compares views with views, and can do so in tiles.

    Args:
      z: projections of v views of each image of the global batch, any scale.
      labels: the same number for images of the same class, -1 where unknown.
      temperature: divides the cosine similarity; > 0, 0.1 in the paper.
      tile: candidates at a time, as for `log_sum_exp`.

    Returns:
      Mean in nats over the views that have a positive, log(views with a label - 1) when all
      similarities are equal; 0, and no gradient, if there is no positive.
      The released code multiplies by temperature / 0.07, and counts 0 for a view without
      a positive, which with two views of each image there is not.

    Raises:
      ValueError: if the tile is below 1.

    Source: Equation 2; https://github.com/HobbitLong/SupContrast, losses.py.
    """
    num_views = z.shape[1]
    u = unit_rows(z)  # [n, d]
    classes = jnp.repeat(numbered(labels), num_views)
    known = jnp.repeat(labels >= 0, num_views)
    members = jnp.where(known[:, None], u, 0.0)
    class_sums = jax.ops.segment_sum(members, classes, num_segments=labels.shape[0])
    num_positives = jnp.repeat(_num_positives(labels, num_views), num_views).astype(u.dtype)
    positives = jnp.sum(u * (class_sums[classes] - u), axis=-1) / jnp.maximum(num_positives, 1)
    sums = log_sum_exp(u, temperature=temperature, mask_group=1, candidate_mask=known, tile=tile)
    anchors = num_positives > 0
    losses = jnp.where(anchors, sums - positives / temperature, 0.0)
    return losses.sum() / jnp.maximum(anchors.sum(), 1)


def mean_num_positives(labels: Labels, num_views: int) -> Scalar:
    """Returns how many positives a view of a labelled image has in this batch; 0 without labels.

    At num_views - 1 every class of the batch has one image, and `supcon` is no more than NT-Xent.
    """
    known = labels >= 0
    total = jnp.where(known, _num_positives(labels, num_views), 0).sum()
    return total / jnp.maximum(known.sum(), 1).astype(jnp.float32)


def _num_positives(labels: Labels, num_views: int) -> Int[Array, " b"]:
    """Returns how many positives each view of an image has; 0 without a label."""
    classes = numbered(labels)
    images = jax.ops.segment_sum(jnp.ones_like(labels), classes, num_segments=labels.shape[0])
    return jnp.where(labels >= 0, num_views * images[classes] - 1, 0)
