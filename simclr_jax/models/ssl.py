"""The model that every method trains: an encoder, or a text tower, and heads where they are used.

The names are the contract: variables live at params/encoder, params/projector, params/predictor,
params/prototypes, params/classifier, params/text, params/text_projector and the same below
batch_stats, whatever the method.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from simclr_jax.core.types import Texts
from simclr_jax.models.heads import MLP, Prototypes
from simclr_jax.models.resnet import ResNet
from simclr_jax.models.text import TextTransformer
from simclr_jax.models.vit import ViT


@runtime_checkable
class Encoder(Protocol):
    """Maps images to one vector each: what a linen module must do to be trained here.

    Its dataclass fields are what `config.encoder` can set. Beside "params" it may have a
    collection "batch_stats", and in training it may draw from the key "dropout", which is absent
    where nothing should be drawn: in a target or a teacher. The width d is read off the shape of
    what it returns. An attribute `frozen_params`, where there is one, is a regular expression for
    the paths of its parameters that no optimizer may change.
    """

    def __call__(self, images: Float[Array, "n h w c"], *, train: bool) -> Float[Array, "n d"]:
        """Returns the representations of images in [0, 1], at least float32.

        Args:
          images: pixels, without mean or variance normalisation.
          train: normalise with the statistics of this batch and move the running ones, and draw.
        """
        ...


def no_encoder() -> None:
    """Returns no encoder: the network is a text tower alone."""


ENCODERS: dict[str, Callable[..., Encoder | None]] = {
    "resnet": ResNet,
    "vit": ViT,
    "none": no_encoder,
}


class SSLModel(nn.Module):
    """Encoder and heads behind one call.

    Attributes:
      encoder: a linen module; None to have a text tower alone.
      projector: maps representations to the outputs of its layers; None to have no head.
      classifier: maps features to logits; None to have no classes.
      select: which features the classifier sees: 0 the representation, i the output of layer i
        of the projector after its relu. MLP layers after it do not exist then. SimCLRv2
        fine-tunes from 1 with few labels, and from 0 with all of them.
      predictor: maps projections to predictions of another view's; None to have none.
      prototypes: compares projections with learned directions; None to have none.
      text: maps captions to vectors; None to have images alone.
      text_projector: maps these vectors to the space of the images' projections.
    """

    encoder: Encoder | None
    projector: MLP | None = None
    classifier: nn.Dense | None = None
    select: int = 0
    predictor: MLP | None = None
    prototypes: Prototypes | None = None
    text: TextTransformer | None = None
    text_projector: MLP | None = None

    def __post_init__(self):
        num_layers = self.projector.num_layers if self.projector is not None else 0
        if not 0 <= self.select <= num_layers:
            raise ValueError(
                f"select={self.select} must be 0, the representation, or the number of one of "
                f"the {num_layers} projector layers, counted from 1."
            )
        on_projections = self.predictor is not None or self.prototypes is not None
        if on_projections and (self.projector is None or self.classifier is not None):
            raise ValueError(
                "a predictor and prototypes see projections: they need a projector, and no "
                "classifier."
            )
        if (self.text is None) != (self.text_projector is None):
            raise ValueError(
                "text and text_projector go together: a text tower, and what maps its vectors to "
                "where images are projected."
            )
        of_images = (self.projector, self.classifier, self.predictor, self.prototypes)
        if self.encoder is None and (self.text is None or any(x is not None for x in of_images)):
            raise ValueError(
                "encoder.name='none' leaves a text tower alone: it has text and text_projector, "
                "and no other head, as in the recipe simcse."
            )
        super().__post_init__()

    @property
    def frozen_params(self) -> tuple[str, ...]:
        """Regular expressions for the paths of parameters that no optimizer may change."""
        pattern = getattr(self.encoder, "frozen_params", "")
        return (f"encoder/({pattern})",) if pattern else ()

    def __call__(self, images: Float[Array, "n h w c"], *, train: bool) -> dict[str, Any]:
        """Returns the representation, what the heads make of it and everything between.

        Args:
          images: pixels in [0, 1].
          train: normalise with the statistics of this batch and move the running ones, which
            needs `mutable=["batch_stats"]`.

        Returns:
          As `apply_heads`.
        """
        if self.text is not None and self.is_initializing():
            one = jnp.ones((1,), jnp.int32)
            self.embed_text({"text": one[:, None], "length": one}, train=train)
        assert self.encoder is not None  # who has images has checked
        representation = self.encoder(images, train=train)
        if representation.ndim != 2 or len(representation) != len(images):
            raise ValueError(
                f"{type(self.encoder).__name__} must return one vector for each image, [n, d]; "
                f"for images {[*images.shape]} it returned {[*representation.shape]}."
            )
        return self.apply_heads(representation, train=train)

    def apply_heads(self, representation: Float[Array, "n d"], *, train: bool) -> dict[str, Any]:
        """Returns what the heads make of representations.

        Args:
          representation: output of the encoder.
          train: see `__call__`.

        Returns:
          "representation" [n, d], float32; "hiddens", a tuple of the representation and the
          output of each projector layer after its relu; "projection", the last of them, float32,
          only with a projector and without a classifier; "prediction" [n, d] and "scores" [n, k]
          with a predictor and with prototypes; "logits" [n, k], float32, only with a classifier.
        """
        out: dict[str, Any] = {"representation": representation, "hiddens": (representation,)}
        last = None if self.classifier is None else self.select
        if self.projector is not None and last != 0:
            hiddens = self.projector(representation, train=train, stop_after=last)
            out["hiddens"] = (representation, *hiddens)
        if self.classifier is not None:
            out["logits"] = self.classifier(out["hiddens"][self.select])
        elif self.projector is not None:
            out["projection"] = out["hiddens"][-1]
        if self.predictor is not None:
            out["prediction"] = self.predictor(out["projection"], train=train)[-1]
        if self.prototypes is not None:
            out["scores"] = self.prototypes(out["projection"])
        return out

    def encode(
        self, images: Float[Array, "n h w c"], *, train: bool = False
    ) -> Float[Array, "n d"]:
        """Returns representations, for evaluation unless `train`; see `__call__`."""
        assert self.encoder is not None
        return self.encoder(images, train=train)

    def project(self, images: Float[Array, "n h w c"]) -> Float[Array, "n d"]:
        """Returns projections for evaluation; see `__call__`."""
        return self(images, train=False)["projection"]

    def embed_text(self, texts: Texts, *, train: bool = False) -> Float[Array, "n d"]:
        """Returns projections of captions, for evaluation unless `train`.

        Args:
          texts: {"text": tokens [n, t], "length": how many of each are no padding [n]}.
          train: drop numbers at random, if the text tower does.
        """
        assert self.text is not None  # who asks has checked
        assert self.text_projector is not None
        features = self.text(texts["text"], texts["length"], train=train)
        return self.text_projector(features, train=train)[-1]

    def maps(
        self, images: Float[Array, "n h w c"], *, train: bool
    ) -> Float[Array, "n map_h map_w d"]:
        """Returns the encoder's features before their mean over pixels, where it has such."""
        encoder: Any = self.encoder  # beyond its protocol; methods that need it check for it
        return encoder.maps(images, train=train)

    def classify(self, images: Float[Array, "n h w c"]) -> Float[Array, "n k"]:
        """Returns logits for evaluation, with the running statistics."""
        return self(images, train=False)["logits"]
