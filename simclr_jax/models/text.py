"""Text transformers: a sequence of tokens as one vector.

Radford et al. 2021, https://arxiv.org/abs/2103.00020 (CLIP: causal, pooled at the end)
Zhai et al. 2023, https://arxiv.org/abs/2303.15343 (SigLIP: every token sees every other)
Gao et al. 2021, https://arxiv.org/abs/2104.08821 (SimCSE: two views by dropout)
"""

from typing import Annotated

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from simclr_jax.core.ranges import Count, Range
from simclr_jax.models.convolution import at_least_float32
from simclr_jax.models.transformer import ACTIVATIONS, Block, ProbePool, layer_norm

TEXT_POOLS = ("end", "mean", "probe")
REMATS = ("none", "blocks")


class TextTransformer(nn.Module):
    """A transformer that maps texts to one vector each.

    Attributes:
      num_tokens: size of the vocabulary.
      context: most tokens of a text; a batch may be shorter.
      width: width of the tokens and of the representation; CLIP's ViT-B has 512.
      depth: blocks.
      num_heads: heads of the attention, a divisor of the width.
      causal: let a token see itself and those before it, as in CLIP; or all of its text.
      pool: "end", the last token of each text, which is found by its length and not by its
        number; "mean", the mean of its tokens; or "probe", attention to them with a learned query.
        Each is taken after the last LayerNorm, and padding has no part in any.
      activation: "gelu", or "quick_gelu" for weights that OpenAI trained.
      dropout: probability that a number of the embedding or of a branch is set to 0, which
        makes two views of one text. Acts in training, where there is a random key "dropout".
      remat: what the backward pass finds stored, as for `ViT`.
      dtype: type of matrix products and activations, as for `ViT`.
    """

    num_tokens: Count
    context: Count = 77
    width: Count = 512
    depth: Count = 12
    num_heads: Count = 8
    causal: bool = True
    pool: str = "end"
    activation: str = "gelu"
    dropout: Annotated[float, Range(least=0, below=1)] = 0.0
    remat: str = "none"
    dtype: DTypeLike = jnp.float32

    def __post_init__(self):
        choices = (("pool", TEXT_POOLS), ("activation", ACTIVATIONS), ("remat", REMATS))
        for name, known in choices:
            if getattr(self, name) not in known:
                raise ValueError(
                    f"text {name} must be one of {[*known]}, got {getattr(self, name)!r}."
                )
        if self.width % self.num_heads:
            raise ValueError(
                f"text num_heads must divide the width, {self.width}, got {self.num_heads}; "
                "heads are usually 64 wide."
            )
        super().__post_init__()

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "n t"], lengths: Int[Array, " n"], *, train: bool
    ) -> Float[Array, "n d"]:
        """Returns the representation of each text, at least float32.

        Args:
          tokens: numbers in [0, num_tokens); what comes after a text's length is padding.
          lengths: tokens of each text, at least 1, with those for its start and end.
          train: drop, if there is a random key "dropout".

        Raises:
          ValueError: if there are more tokens than the context.
        """
        length = tokens.shape[1]
        if length > self.context:
            raise ValueError(
                f"Texts of {length} tokens are longer than text context={self.context}; cut them "
                "or train with a longer one."
            )
        wide = at_least_float32(self.dtype)
        start = nn.initializers.normal(0.02)
        x = nn.Embed(self.num_tokens, self.width, embedding_init=start, name="embed")(tokens)
        positions = self.param(
            "positions", nn.initializers.normal(0.01), (self.context, self.width)
        )
        x = x.astype(wide) + jnp.asarray(positions, wide)[None, :length]
        inactive = not (train and self.has_rng("dropout"))
        x = nn.Dropout(self.dropout)(x, deterministic=inactive).astype(self.dtype)
        valid = (jnp.arange(length)[None] < lengths[:, None])[:, None]  # [n, 1, t]
        mask = jnp.tri(length, dtype=bool)[None] if self.causal else valid
        block = Block
        if train and self.remat == "blocks":
            block = nn.remat(Block, static_argnums=(2,))  # train
        for i in range(self.depth):
            x = block(
                num_heads=self.num_heads,
                dtype=self.dtype,
                dropout=self.dropout,
                activation=self.activation,
                name=f"block{i}",
            )(x, train, mask)
        return self._pooled(layer_norm(wide, "norm")(x), valid)

    def _pooled(self, x: Float[Array, "n t d"], valid: Bool[Array, "n 1 t"]) -> Float[Array, "n d"]:
        if self.pool == "probe":
            return ProbePool(self.num_heads, self.dtype, name="pooling")(x, valid)
        lengths = valid.sum(axis=2)  # [n, 1]
        if self.pool == "end":
            return jnp.take_along_axis(x, lengths[..., None] - 1, axis=1)[:, 0]
        return jnp.where(valid[:, 0, :, None], x, 0).sum(axis=1) / lengths
