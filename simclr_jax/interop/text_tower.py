"""A trained text tower as export formats take it, and both towers with how rows are compared."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from simclr_jax.core.types import Params
from simclr_jax.data.text import Tokenizer
from simclr_jax.interop.encoder import TrainedEncoder, flat_tensors, on_cpu
from simclr_jax.models.text import TextTransformer

# Arguments that the network must be built with, elsewhere too.
SETTINGS = (
    "num_tokens",
    "context",
    "width",
    "depth",
    "num_heads",
    "causal",
    "pool",
    "activation",
)
EXAMPLES = 8


@dataclasses.dataclass(frozen=True)
class TrainedText:
    """A text tower and its weights, as export formats take them; see `encoder.Trained`.

    Attributes:
      network: unbound; exports compute in float32.
      params: parameters of the tower, from params/text of a run; host arrays.
      projection: kernel of the linear projector that it ends in.
      tokenizer: what makes tokens of texts.
    """

    network: TextTransformer
    params: Params
    projection: Float[np.ndarray, "d p"]
    tokenizer: Tokenizer

    @property
    def kind(self) -> str:
        """Which network it is, for the readers of its files."""
        return "text"

    @property
    def settings(self) -> dict[str, Any]:
        """Settings to build the network with, as JSON can hold them."""
        return {name: getattr(self.network, name) for name in SETTINGS}

    @property
    def variables(self) -> Mapping[str, Any]:
        """The collections that `apply` takes."""
        return {"params": self.params}

    def tensors(self) -> dict[str, Float[np.ndarray, "..."]]:
        """See `encoder.Trained.tensors`; names are those of the run."""
        projector = {"dense1": {"kernel": self.projection}}
        return flat_tensors({"params": {"text": self.params, "text_projector": projector}})

    def inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """See `encoder.Trained.inputs`."""
        return {
            "tokens": jax.ShapeDtypeStruct((self.network.context,), jnp.int32),
            "lengths": jax.ShapeDtypeStruct((), jnp.int32),
        }

    def takes(self, *, channels_first: bool) -> str:
        """See `encoder.Trained.takes`."""
        del channels_first
        return f"int32 tokens [n, {self.network.context}] and lengths [n]"

    def examples(self) -> tuple[np.ndarray, ...]:
        """Returns texts of tokens at random, from the shortest to one that fills the context."""
        edges = [0, self.tokenizer.start, self.tokenizer.end]  # 0 is what padding looks like
        words = np.setdiff1d(np.arange(self.network.num_tokens), edges)
        lengths = np.linspace(3, self.network.context, EXAMPLES).astype(np.int32)
        tokens = np.zeros((EXAMPLES, self.network.context), np.int32)
        rng = np.random.default_rng(0)
        for row, length in zip(tokens, lengths, strict=True):
            row[:length] = rng.choice(words, length)
            row[0], row[length - 1] = self.tokenizer.start, self.tokenizer.end
        return tokens, lengths

    @property
    def examples_are(self) -> str:
        """See `encoder.Trained.examples_are`."""
        return "texts"

    def apply(
        self, variables: Mapping[str, Any], tokens: Int[Array, "n t"], lengths: Int[Array, " n"]
    ) -> Float[Array, "n d"]:
        """Returns the rows of texts, computed in float32."""
        network = self.network.clone(dtype=jnp.float32)
        return jnp.asarray(network.apply(variables, tokens, lengths, train=False)) @ self.projection

    def encode(
        self, tokens: Int[np.ndarray, "n t"], lengths: Int[np.ndarray, " n"]
    ) -> Float[np.ndarray, "n d"]:
        """Returns what `apply` does; see `encoder.on_cpu`."""
        return on_cpu(self, tokens, lengths)


def text_facts(text: TrainedText, scale: float | None, bias: float | None) -> dict[str, Any]:
    """Returns what a program must know to use a text tower, as JSON can hold it.

    Args:
      text: the tower.
      scale: factor of the cosines of its rows and those of the other tower; None where the run
        learned none, such as a run of a text tower alone.
      bias: what is added to them; None where the run has none.
    """
    tokenizer = text.tokenizer
    logits: dict[str, Any] = {"rows": "compared by cosine"}
    if scale is not None:
        logits = {
            "rows": "logit = scale * cosine + bias",
            "scale": scale,
            "bias": bias or 0.0,
        }
    return {
        "texts": "tokens of the tokenizer between start and end, cut to the context with the "
        "end kept, then padding; a length counts start and end.",
        **logits,
        "context": tokenizer.context,
        "start_token": tokenizer.start,
        "end_token": tokenizer.end,
        "padding": 0,
        "tokenizer_sha256": tokenizer.sha256,
    }


def beside(facts: Mapping[str, Any], tokenizer: Tokenizer | None = None) -> dict[str, str]:
    """Returns the texts that go beside a file, by the end of their names.

    Args:
      facts: how to use the contents of the file.
      tokenizer: what makes tokens of the texts that the tower sees.
    """
    files = {".json": json.dumps(facts, indent=2) + "\n"}
    return files if tokenizer is None else {**files, ".tokenizer.json": tokenizer.json}


@dataclasses.dataclass(frozen=True)
class TrainedTowers:
    """Both towers of a run, and how their rows are compared: scale * cosine + bias.

    Attributes:
      image: tower of images, with a projection.
      text: tower of texts.
      scale: factor of cosines.
      bias: what is added; None where the run has none.
    """

    image: TrainedEncoder
    text: TrainedText
    scale: float
    bias: float | None

    def facts(self) -> dict[str, Any]:
        """Returns what a program must know to use either tower, as JSON can hold it."""
        return {
            **self.image.facts(),
            **text_facts(self.text, self.scale, self.bias),
        }

    def examples(self) -> tuple[np.ndarray, ...]:
        """Returns images, and tokens and lengths of texts; see `encoder.Trained.examples`."""
        return (*self.image.examples(), *self.text.examples())

    @property
    def examples_are(self) -> str:
        """See `encoder.Trained.examples_are`."""
        return "photographs and texts"

    def encode(
        self,
        images: Float[np.ndarray, "n h w c"],
        tokens: Int[np.ndarray, "m t"],
        lengths: Int[np.ndarray, " m"],
    ) -> Float[np.ndarray, "both d"]:
        """Returns the rows of images, then those of texts, at unit length."""
        rows = np.concatenate([self.image.encode(images), self.text.encode(tokens, lengths)])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)
