"""SupCon: SimCLR where all images of a class are each other's positives.

Khosla et al. 2020, https://arxiv.org/abs/2004.11362
"""

import jax.numpy as jnp

from simclr_jax.augment.policies import Augment
from simclr_jax.core.errors import UserError
from simclr_jax.core.ranges import CountOrZero, Positive
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.types import Batch, Metrics, Projections, Scalar
from simclr_jax.losses.contrastive import contrastive_metrics
from simclr_jax.losses.supcon import mean_num_positives
from simclr_jax.losses.supcon import supcon as supcon_loss
from simclr_jax.methods.base import Method, check_other_images
from simclr_jax.methods.projected import from_projections
from simclr_jax.models.ssl import SSLModel


def supcon(
    model: SSLModel,
    augment: Augment,
    facts: RunFacts,
    *,
    temperature: Positive = 0.1,
    gradient_scale: Positive = 1.0,
    loss_tile: CountOrZero | None = None,
    grad_cache_chunks: int = 1,
) -> Method:
    """Returns SupCon for `model`; images without a label take no part in the loss.

    Args:
      model: network with a projector and no other head.
      augment: (key, batch) -> two views of each image.
      facts: facts of the run, whose images need labels.
      temperature: divides the cosine similarity, > 0.
      gradient_scale: multiplies the gradient and not the loss that is logged, > 0. The released
        loss is temperature / 0.07 times ours, and so are its gradients; 2 where the rate and decay
        are SimCLR's.
      loss_tile: candidates that the loss compares with at a time; None or 0: all at once, or
        tiles of a good size for a large batch.
      grad_cache_chunks: parts of the batch that go through the network one after the other; see
        `base.apply_model`.

    Raises:
      UserError: if there are fewer than two classes, or a batch has one image.
      ValueError: if the model has other heads, or the chunks are out of range.
    """
    check_other_images(facts, "supcon")
    check_classes(facts, "supcon")
    tile = loss_tile or None

    def loss(z: Projections, batch: Batch) -> tuple[Scalar, Metrics]:
        labels = batch["label"]
        value = supcon_loss(z, labels, temperature=temperature, tile=tile)
        return value, {
            **label_metrics(z, batch),
            **contrastive_metrics(z, temperature=temperature, tile=tile),
        }

    return from_projections(
        "supcon",
        model,
        augment,
        loss,
        gradient_scale=gradient_scale,
        needs_labels=True,
        grad_cache_chunks=grad_cache_chunks,
    )


def check_classes(facts: RunFacts, name: str) -> None:
    """Checks that there are classes to tell apart.

    Raises:
      UserError: if there are fewer than two.
    """
    if facts.num_classes < 2:
        raise UserError(
            f"config.method.name={name!r} tells classes apart, and the images of config.data have "
            f"{facts.num_classes or 'no'} class{'' if facts.num_classes == 1 else 'es'}. Labels "
            "are the folders of a folder, with config.data.labels_from_folders=True, or a column "
            "of a list, such as config.data.label_column='species'; "
            "config.method.name='simclr' needs none."
        )


def label_metrics(z: Projections, batch: Batch) -> Metrics:
    """Returns the supervised loss when nothing is learned, and how many positives a view has.

    At one positive fewer than there are views every class of the batch has one image, and the
    labels say nothing that the views do not.
    """
    labels, num_views = batch["label"], z.shape[1]
    num_candidates = jnp.maximum(num_views * (labels >= 0).sum() - 1, 1)  # log 1 without labels
    return {
        "loss_chance": jnp.log(num_candidates.astype(jnp.float32)),
        "positives": mean_num_positives(labels, num_views),
    }
