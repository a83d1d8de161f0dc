"""CLAP: each sound finds its caption among those of the batch, and each caption its sound.

Elizalde et al. 2022, https://arxiv.org/abs/2206.04769
Wu et al. 2022, https://arxiv.org/abs/2211.06687 (LAION's)
"""

from typing import Annotated

from simclr_jax.augment.policies import Augment
from simclr_jax.core.ranges import CountOrZero, Positive, Range
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.methods.base import Method
from simclr_jax.methods.pairs import from_contrast
from simclr_jax.models.ssl import SSLModel


def clap(
    model: SSLModel,
    augment: Augment,
    facts: RunFacts,
    *,
    temperature: Positive = 0.07,
    max_scale: Annotated[float, Range(above=1)] = 100.0,
    duplicates: str = "ignore",
    loss_tile: CountOrZero | None = None,
    grad_cache_chunks: int = 1,
) -> Method:
    """Returns CLAP for `model`: the loss of `clip.clip`, and an encoder of spectrograms.

    LAION's code can add a second pair of logits, from features that go through an MLP; its released
    training script does not, and there is none here.

    Args:
      model: network with a projector, a text tower and its projector, and no other head.
      augment: (key, batch) -> the spectrogram of each sound.
      facts: facts of the run.
      temperature: divides cosines at the start, > 0; it is learned.
      max_scale: largest value that its inverse may reach, > 1.
      duplicates: what other pairs with the same caption are; see `clip.clip`.
      loss_tile: rows that the loss compares at a time; None or 0: a good size.
      grad_cache_chunks: parts of the batch that go through each tower one after the other; see
        `base.apply_model`.

    Raises:
      UserError: if a batch has one sound.
      ValueError: if the duplicates are unknown, the model has other heads, or the chunks are out
        of range.
    """
    return from_contrast(
        "clap",
        "audio",
        model,
        augment,
        facts,
        temperature=temperature,
        max_scale=max_scale,
        duplicates=duplicates,
        lock_images=False,
        loss_tile=loss_tile,
        grad_cache_chunks=grad_cache_chunks,
    )
