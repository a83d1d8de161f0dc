"""The model that every method trains: an encoder, and a projector where one is used.

The names are the contract: variables live at params/encoder, params/projector,
batch_stats/encoder and batch_stats/projector, whatever the method.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from simclr_jax.models.resnet import ResNet

ENCODERS: dict[str, Callable[..., nn.Module]] = {"resnet": ResNet}


class SSLModel(nn.Module):
    """Encoder and projector behind one call.

    Attributes:
      encoder: maps images [n, h, w, c] to representations [n, d].
      projector: maps representations to the outputs of its layers; None to have no head.
    """

    encoder: nn.Module
    projector: nn.Module | None = None

    def __call__(self, images: Float[Array, "n h w c"], *, train: bool) -> dict[str, Any]:
        """Returns the representation, the projection and everything between them.

        Args:
          images: pixels in [0, 1].
          train: normalise with the statistics of this batch and move the running ones, which
            needs `mutable=["batch_stats"]`.

        Returns:
          "representation" [n, d], float32; "hiddens", a tuple of the representation and the
          output of each projector layer after its relu, the projection last; "projection",
          float32, only with a projector.
        """
        representation = self.encoder(images, train=train)
        if self.projector is None:
            return {"representation": representation, "hiddens": (representation,)}
        hiddens = (representation, *self.projector(representation, train=train))
        return {
            "representation": representation,
            "hiddens": hiddens,
            "projection": hiddens[-1],
        }

    def encode(self, images: Float[Array, "n h w c"]) -> Float[Array, "n d"]:
        """Returns representations for evaluation, with the running statistics."""
        return self.encoder(images, train=False)
