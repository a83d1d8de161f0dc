"""SigLIP: of each image and each caption of the batch, whether they belong together.

Zhai et al. 2023, https://arxiv.org/abs/2303.15343
"""

import math
from typing import Annotated

from simclr_jax.augment.policies import Augment
from simclr_jax.core.ranges import Positive, Range
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.core.types import Batch, Metrics, Params, Scalar
from simclr_jax.losses.two_towers import EXCHANGES, sigmoid_pairs
from simclr_jax.methods.base import Method
from simclr_jax.methods.pairs import Rows, from_pairs
from simclr_jax.models.ssl import SSLModel


def siglip(
    model: SSLModel,
    augment: Augment,
    facts: RunFacts,
    *,
    scale: Positive = 10.0,
    bias: float | None = None,
    max_scale: Annotated[float, Range(above=1)] = 100.0,
    same_captions: bool = True,
    exchange: str = "ring",
    lock_images: bool = False,
    grad_cache_chunks: int = 1,
) -> Method:
    """Returns SigLIP for `model`.

    Args:
      model: network with a projector, a text tower and its projector, and no other head.
      augment: (key, batch) -> one view of each image.
      facts: facts of the run.
      scale: multiplies cosines at the start, > 0; it is learned.
      bias: added to them at the start and learned, -10 in the paper; None for the logarithm of
        the odds that two rows of a batch of b belong together, -log(b - 1), from which small
        batches learn at once.
      max_scale: largest value that the scale may reach, > 1.
      same_captions: whether all pairs with one caption belong together, or each image with its
        own alone, as in the paper.
      exchange: how devices see each other's captions: "ring", one after the other, or "gather".
      lock_images: whether the image encoder stays as it is; see `clip.clip`.
      grad_cache_chunks: parts of the batch that go through each tower one after the other; see
        `base.apply_model`.

    Raises:
      UserError: if a batch has one image.
      ValueError: if the exchange is unknown, the model has other heads, or the chunks are out of
        range.
    """
    if exchange not in EXCHANGES:
        raise ValueError(f"exchange={exchange!r} must be one of {[*EXCHANGES]}.")
    start = -math.log(max(facts.batch_size - 1, 1)) if bias is None else bias

    def loss(params: Params, images: Rows, texts: Rows, batch: Batch) -> tuple[Scalar, Metrics]:
        value = sigmoid_pairs(
            images,
            texts,
            log_scale=params["log_scale"],
            bias=params["logit_bias"],
            ids=batch["text_id"] if same_captions else None,
            exchange=exchange,
        )
        return value, {"logit_bias": params["logit_bias"]}

    return from_pairs(
        "siglip",
        model,
        augment,
        facts,
        loss,
        scalars={"log_scale": math.log(scale), "logit_bias": start},
        max_scale=max_scale,
        lock_images=lock_images,
        grad_cache_chunks=grad_cache_chunks,
    )
