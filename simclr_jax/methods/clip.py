"""CLIP: each image finds its caption among those of the batch, and each caption its image.

Radford et al. 2021, https://arxiv.org/abs/2103.00020
"""

from typing import Annotated

from simclr_jax.augment.policies import Augment
from simclr_jax.core.ranges import CountOrZero, Positive, Range
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.methods.base import Method
from simclr_jax.methods.pairs import from_contrast
from simclr_jax.models.ssl import SSLModel


def clip(
    model: SSLModel,
    augment: Augment,
    facts: RunFacts,
    *,
    temperature: Positive = 0.07,
    max_scale: Annotated[float, Range(above=1)] = 100.0,
    duplicates: str = "ignore",
    lock_images: bool = False,
    loss_tile: CountOrZero | None = None,
    grad_cache_chunks: int = 1,
) -> Method:
    """Returns CLIP for `model`.

    Args:
      model: network with a projector, a text tower and its projector, and no other head.
      augment: (key, batch) -> one view of each image.
      facts: facts of the run.
      temperature: divides cosines at the start, > 0; it is learned.
      max_scale: largest value that its inverse may reach, > 1. Released code clips it after each
        update, and so do we.
      duplicates: what other pairs with the same caption are: left out ("ignore"), positives, too
        ("multi_positive"), or negatives ("plain"), as in the paper.
      lock_images: whether the image encoder stays as it is, its BatchNorm too, as in LiT (Zhai et
        al. 2022, https://arxiv.org/abs/2111.07991); it then comes from config.warm_start.
      loss_tile: rows that the loss compares at a time; None or 0: a good size.
      grad_cache_chunks: parts of the batch that go through each tower one after the other; see
        `base.apply_model`.

    Raises:
      UserError: if a batch has one image.
      ValueError: if the duplicates are unknown, the model has other heads, or the chunks are out
        of range.
    """
    return from_contrast(
        "clip",
        "image",
        model,
        augment,
        facts,
        temperature=temperature,
        max_scale=max_scale,
        duplicates=duplicates,
        lock_images=lock_images,
        loss_tile=loss_tile,
        grad_cache_chunks=grad_cache_chunks,
    )
