"""The model that every method trains: an encoder, and heads where they are used.

The names are the contract: variables live at params/encoder, params/projector,
params/classifier, batch_stats/encoder and batch_stats/projector, whatever the method.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from simclr_jax.models.heads import Projector
from simclr_jax.models.resnet import ResNet

ENCODERS: dict[str, Callable[..., nn.Module]] = {"resnet": ResNet}


class SSLModel(nn.Module):
    """Encoder and heads behind one call.

    Attributes:
      encoder: maps images [n, h, w, c] to representations [n, d].
      projector: maps representations to the outputs of its layers; None to have no head.
      classifier: maps features to logits; None to have no classes.
      select: which features the classifier sees: 0 the representation, i the output of layer i
        of the projector after its relu. Projector layers after it do not exist then. SimCLRv2
        fine-tunes from 1 with few labels, and from 0 with all of them.
    """

    encoder: nn.Module
    projector: Projector | None = None
    classifier: nn.Dense | None = None
    select: int = 0

    def __post_init__(self):
        num_layers = self.projector.num_layers if self.projector is not None else 0
        if not 0 <= self.select <= num_layers:
            raise ValueError(
                f"select={self.select} must be 0, the representation, or the number of one of "
                f"the {num_layers} projector layers, counted from 1."
            )
        super().__post_init__()

    def __call__(self, images: Float[Array, "n h w c"], *, train: bool) -> dict[str, Any]:
        """Returns the representation, what the heads make of it and everything between.

        Args:
          images: pixels in [0, 1].
          train: normalise with the statistics of this batch and move the running ones, which
            needs `mutable=["batch_stats"]`.

        Returns:
          "representation" [n, d], float32; "hiddens", a tuple of the representation and the
          output of each projector layer after its relu; "projection", the last of them, float32,
          only with a projector and without a classifier; "logits" [n, k], float32, only with a
          classifier.
        """
        representation = self.encoder(images, train=train)
        out: dict[str, Any] = {"representation": representation, "hiddens": (representation,)}
        last = None if self.classifier is None else self.select
        if self.projector is not None and last != 0:
            hiddens = self.projector(representation, train=train, stop_after=last)
            out["hiddens"] = (representation, *hiddens)
        if self.classifier is not None:
            out["logits"] = self.classifier(out["hiddens"][self.select])
        elif self.projector is not None:
            out["projection"] = out["hiddens"][-1]
        return out

    def encode(self, images: Float[Array, "n h w c"]) -> Float[Array, "n d"]:
        """Returns representations for evaluation, with the running statistics."""
        return self.encoder(images, train=False)

    def classify(self, images: Float[Array, "n h w c"]) -> Float[Array, "n k"]:
        """Returns logits for evaluation, with the running statistics."""
        return self(images, train=False)["logits"]
