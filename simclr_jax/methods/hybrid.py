"""Semi-supervised contrast: SupCon on the images with a label, and NT-Xent on all of them.

Khosla et al. 2020, https://arxiv.org/abs/2004.11362 (SupCon)
Chen et al. 2020, https://arxiv.org/abs/2002.05709 (NT-Xent)
"""

import jax.numpy as jnp

from simclr_jax.augment.policies import Augment
from simclr_jax.core.ranges import CountOrZero, NonNegative, Positive
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.types import Batch, Metrics, Projections, Scalar
from simclr_jax.losses.contrastive import contrastive_metrics, nt_xent
from simclr_jax.losses.supcon import supcon as supcon_loss
from simclr_jax.methods.base import Method, check_other_images
from simclr_jax.methods.projected import from_projections
from simclr_jax.methods.supcon import check_classes, label_metrics
from simclr_jax.models.ssl import SSLModel


def hybrid(
    model: SSLModel,
    augment: Augment,
    facts: RunFacts,
    *,
    temperature: Positive = 0.1,
    labelled_weight: NonNegative = 1.0,
    all_weight: NonNegative = 1.0,
    gradient_scale: Positive = 1.0,
    loss_tile: CountOrZero | None = None,
    grad_cache_chunks: int = 1,
) -> Method:
    """Returns the weighted sum of SupCon and NT-Xent for `model`.

    An image without a label is neither an anchor nor a candidate of the first term: it may be of
    the same class, and as a negative it would contradict the labels. So that term means the same
    at any share of labels; it is 0 in a batch without any.

    Args:
      model: network with a projector and no other head.
      augment: (key, batch) -> two views of each image.
      facts: facts of the run; some of its images need labels.
      temperature: divides the cosine similarity in both terms, > 0.
      labelled_weight: weight of SupCon, >= 0; with 0 this is SimCLR.
      all_weight: weight of NT-Xent, >= 0; with 0 this is SupCon.
      gradient_scale: multiplies the gradient and not the loss that is logged, > 0; 2 where the rate
        and decay are SimCLR's, see `simclr`.
      loss_tile: candidates that the losses compare with at a time; None or 0: all at once, or
        tiles of a good size for a large batch.
      grad_cache_chunks: parts of the batch that go through the network one after the other; see
        `base.apply_model`.

    Raises:
      UserError: if there are fewer than two classes, or a batch has one image.
      ValueError: if both weights are 0, the model has other heads, or the chunks are out of range.
    """
    check_other_images(facts, "hybrid")
    check_classes(facts, "hybrid")
    if not labelled_weight + all_weight > 0:
        raise ValueError("labelled_weight=0 and all_weight=0: one of them must be above 0.")
    tile = loss_tile or None

    def loss(z: Projections, batch: Batch) -> tuple[Scalar, Metrics]:
        of_labelled = supcon_loss(z, batch["label"], temperature=temperature, tile=tile)
        of_all = nt_xent(z, temperature=temperature, tile=tile)
        by_label = label_metrics(z, batch)
        chance = labelled_weight * by_label["loss_chance"]
        chance += all_weight * jnp.log(2 * z.shape[0] - 1.0)
        return labelled_weight * of_labelled + all_weight * of_all, {
            **by_label,
            "loss_chance": chance,
            "loss_labelled": of_labelled,
            "loss_all": of_all,
            **contrastive_metrics(z, temperature=temperature, tile=tile),
        }

    return from_projections(
        "hybrid",
        model,
        augment,
        loss,
        gradient_scale=gradient_scale,
        needs_labels=labelled_weight > 0,
        grad_cache_chunks=grad_cache_chunks,
    )
