"""Losses on scores of prototypes or centroids: Sinkhorn's codes, swapped prediction, clusters.

Caron et al. 2020, https://arxiv.org/abs/2006.09882 (SwAV and DeepCluster v2)
Caron et al. 2021, https://arxiv.org/abs/2104.14294 (DINO)
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from simclr_jax.core.types import Scalar
from simclr_jax.losses.similarity import at_least_float32


def sinkhorn(
    scores: Float[Array, "*n k"], *, epsilon: float, iterations: int = 3
) -> Float[Array, "*n k"]:
    """Returns soft assignments of rows to prototypes that use all prototypes equally.

    Each iteration gives all prototypes the same sum over the rows, then all rows the same sum over
    the prototypes. It works on logarithms: nothing overflows, and a prototype that is far from
    every row gets its share as well.

    Args:
      scores: similarity of each row with each prototype; all leading dimensions are rows.
      epsilon: softness, > 0; 0.05 in the released code. The smaller, the harder the codes.
      iterations: how often both are done, 3 in the released code.

    Returns:
      Codes; each row sums to 1, and each prototype nearly to n / k. No gradient.

    Source: Equations 3 to 5.
    """
    scores = jax.lax.stop_gradient(at_least_float32(scores))
    rows = tuple(range(scores.ndim - 1))
    num_rows, num_prototypes = scores[..., 0].size, scores.shape[-1]
    log_codes = scores / epsilon
    log_codes -= jax.nn.logsumexp(log_codes)
    for _ in range(iterations):
        log_codes -= jax.nn.logsumexp(log_codes, axis=rows, keepdims=True) + jnp.log(
            float(num_prototypes)
        )
        log_codes -= jax.nn.logsumexp(log_codes, axis=-1, keepdims=True) + jnp.log(float(num_rows))
    return jnp.exp(log_codes + jnp.log(float(num_rows)))


def cross_view_entropy(
    targets: Float[Array, "b t k"], scores: Float[Array, "b v k"], *, temperature: float
) -> Scalar:
    """Cross entropy between the targets of the first t views and the scores of the other views.

    < - sum_k targets_i log softmax(scores_j / temperature) > over all images and all pairs of a
    view i with targets and another view j.

    Args:
      targets: probabilities of k prototypes for the first t of v views; no gradient reaches them.
      scores: similarities with the prototypes, or logits, of all views.
      temperature: divides the scores, > 0; 0.1 in both papers.

    Returns:
      Mean over images and pairs in nats; log(k) when all scores of a row are equal.

    Raises:
      ValueError: if there are fewer than two views, or fewer views than targets.

    Source: SwAV, Equations 1, 2 and 6; DINO, Equations 1 to 3.
    """
    b, num_targets, _ = targets.shape
    num_views = scores.shape[1]
    if not 1 <= num_targets <= num_views or num_views < 2:
        raise ValueError(
            f"{num_targets} views with targets and {num_views} with scores; each target needs a "
            "view beside its own."
        )
    log_p = jax.nn.log_softmax(at_least_float32(scores) / temperature)
    targets = jax.lax.stop_gradient(at_least_float32(targets))
    # The sums over the images stay on each device: [t, v] numbers travel.
    by_pair = -jnp.einsum("btk,bvk->tv", targets, log_p, precision=jax.lax.Precision.HIGHEST) / b
    other = ~jnp.eye(num_targets, num_views, dtype=bool)
    return jnp.where(other, by_pair, 0.0).sum() / other.sum()


def centered_targets(
    scores: Float[Array, "b t k"], center: Float[Array, " k"], *, temperature: Scalar | float
) -> Float[Array, "b t k"]:
    """Returns a teacher's probabilities of the prototypes, centred and sharpened.

    Args:
      scores: scores that the teacher gives t views.
      center: mean of its scores over past batches, which is taken away.
      temperature: divides what is left, > 0; the smaller, the sharper.

    Source: DINO, Equations 1 and 4.
    """
    return jax.nn.softmax((at_least_float32(scores) - center[None, None, :]) / temperature)


def assigned_entropy(
    z: Float[Array, "b v d"],
    centroids: Float[Array, "h k d"],
    clusters: Int[Array, "b h"],
    *,
    temperature: float,
) -> Scalar:
    """Cross entropy of the cluster of each image, given each of its views.

    Args:
      z: unit projections of all views.
      centroids: unit rows of k clusters in each of h clusterings; no gradient reaches them.
      clusters: number of each image's cluster in each clustering, -1 for none.
      temperature: divides the cosine similarity, > 0; 0.1 in the released code.

    Returns:
      Mean over clusterings, and over the images with a cluster and their views, in nats; log(k)
      when all similarities are equal, 0 without clusters.

    Source: SwAV, Appendix on DeepCluster v2.
    """
    highest = jax.lax.Precision.HIGHEST
    fixed = jax.lax.stop_gradient(centroids)
    logits = jnp.einsum("bvd,hkd->bvhk", z, fixed, precision=highest) / temperature
    wanted = jnp.maximum(clusters, 0)[:, None, :, None]
    entropy = -jnp.take_along_axis(jax.nn.log_softmax(logits), wanted, axis=-1)[..., 0]
    known = clusters >= 0
    of_image = jnp.where(known, entropy.mean(axis=1), 0.0)  # [b, h]
    return (of_image.sum(axis=0) / jnp.maximum(known.sum(axis=0), 1)).mean()
