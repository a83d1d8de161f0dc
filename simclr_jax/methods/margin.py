"""The contrastive loss with a margin: pairs drawn together, others apart up to a distance.

Hadsell et al. 2006, http://yann.lecun.com/exdb/publis/pdf/hadsell-chopra-lecun-06.pdf
"""

import jax.numpy as jnp
from jaxtyping import Array, Int

from simclr_jax.augment.policies import Augment
from simclr_jax.core.ranges import Positive
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.types import Batch, Metrics, Projections, Scalar
from simclr_jax.losses.metric import margin_loss
from simclr_jax.losses.similarity import unit_rows
from simclr_jax.methods.base import Method, check_other_images
from simclr_jax.methods.projected import from_projections
from simclr_jax.methods.supcon import check_classes
from simclr_jax.models.ssl import SSLModel

POSITIVES = ("views", "labels")


def margin(
    model: SSLModel,
    augment: Augment,
    facts: RunFacts,
    *,
    margin: Positive = 1.0,
    positives: str = "views",
    grad_cache_chunks: int = 1,
) -> Method:
    """Returns the margin loss on unit projections for `model`.

    Args:
      model: network with a projector and no other head.
      augment: (key, batch) -> two views of each image.
      facts: facts of the run.
      margin: distance at which negatives are left alone, > 0; distances are in [0, 2].
      positives: "views", the other view of an image; or "labels", all views of its class, which
        leaves images without a label out.
      grad_cache_chunks: parts of the batch that go through the network one after the other; see
        `base.apply_model`.

    Raises:
      UserError: if a batch has one image, or labels are wanted and there are no two classes.
      ValueError: if the positives are unknown, the model has other heads, or the chunks are out
        of range.
    """
    check_other_images(facts, "margin")
    check_positives(positives, facts, "margin")

    def loss(z: Projections, batch: Batch) -> tuple[Scalar, Metrics]:
        classes = classes_of_rows(z, batch, positives)
        return margin_loss(unit_rows(z), classes, margin=margin)

    return from_projections("margin", model, augment, loss, grad_cache_chunks=grad_cache_chunks)


def check_positives(positives: str, facts: RunFacts, name: str) -> None:
    """Checks what a method takes for positives.

    Raises:
      ValueError: if it is none of `POSITIVES`.
      UserError: if it is labels, and there are no two classes.
    """
    if positives not in POSITIVES:
        raise ValueError(f"positives={positives!r} is unknown; it must be one of {POSITIVES}.")
    if positives == "labels":
        check_classes(facts, name)


def classes_of_rows(z: Projections, batch: Batch, positives: str) -> Int[Array, " n"]:
    """Returns one number for each row: of its image, or of the label of its image."""
    of_images = jnp.arange(z.shape[0]) if positives == "views" else batch["label"]
    return jnp.repeat(of_images, z.shape[1])
