"""Parts of transformers: blocks of attention and a perceptron, and poolings by attention.

Vaswani et al. 2017, https://arxiv.org/abs/1706.03762. As in Dosovitskiy et al. 2020,
https://arxiv.org/abs/2010.11929, tokens are normalised before each branch.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from simclr_jax.models.convolution import at_least_float32

EPSILON = 1e-6  # of LayerNorm
XAVIER = nn.initializers.xavier_uniform()
# Matrices side by side are initialised as matrices of their own: the fan-out would be of all.
_SIDE_BY_SIDE = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
ACTIVATIONS = {
    "gelu": functools.partial(nn.gelu, approximate=False),
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),  # of OpenAI's CLIP
}


class Block(nn.Module):
    """Attention and a perceptron, each normalised before and added to its input.

    Attributes:
      num_heads: heads of the attention.
      dtype: type of matrix products and activations, see `ViT`.
      drop_path: probability that a sequence goes without one of the two, see `ViT`.
      dropout: probability that an element of what is added becomes 0, see `TextTransformer`.
      activation: nonlinearity of the perceptron, a key of `ACTIVATIONS`.
    """

    num_heads: int
    dtype: DTypeLike
    drop_path: float = 0.0
    dropout: float = 0.0
    activation: str = "gelu"

    @nn.compact
    def __call__(
        self, x: Float[Array, "n t d"], train: bool, mask: Bool[Array, "_ _ t"] | None = None
    ) -> Float[Array, "n t d"]:
        """Returns the tokens with both branches added.

        Args:
          x: tokens of n sequences.
          train: drop, if there is a random key "dropout".
          mask: what each token sees, see `attend`.
        """
        dense = functools.partial(dense_layer, dtype=self.dtype)
        d = x.shape[-1]
        y = layer_norm(self.dtype, "norm1")(x)
        qkv = dense(3 * d, name="qkv", kernel_init=_SIDE_BY_SIDE)(y)
        q, k, v = jnp.split(qkv, 3, axis=-1)
        y = attend(q, k, v, self.num_heads, mask)
        x = x + self._dropped(dense(d, name="out")(y), train)
        y = layer_norm(self.dtype, "norm2")(x)
        y = ACTIVATIONS[self.activation](dense(4 * d, name="fc1")(y))
        return x + self._dropped(dense(d, name="fc2")(y), train)

    def _dropped(self, branch: Array, train: bool) -> Array:
        """Sets elements, or the branch of a sequence, to 0, and scales up the others."""
        inactive = not (train and self.has_rng("dropout"))
        if self.dropout:
            branch = nn.Dropout(self.dropout)(branch, deterministic=inactive)
        return nn.Dropout(self.drop_path, broadcast_dims=(1, 2))(branch, deterministic=inactive)


class CrossAttention(nn.Module):
    """Attention of queries to tokens, with a last matrix product.

    Attributes:
      num_heads: heads of the attention.
      dtype: type of matrix products and activations, see `ViT`.
    """

    num_heads: int
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        queries: Float[Array, "n q d"],
        tokens: Float[Array, "n t d"],
        mask: Bool[Array, "n 1 t"] | None = None,
    ) -> Float[Array, "n q d"]:
        """Returns a vector for each query; `mask` as for `attend`."""
        dense = functools.partial(dense_layer, dtype=self.dtype)
        d = tokens.shape[-1]
        q = dense(d, name="q")(queries)
        k, v = jnp.split(dense(2 * d, name="kv", kernel_init=_SIDE_BY_SIDE)(tokens), 2, axis=-1)
        return dense(d, name="out")(attend(q, k, v, self.num_heads, mask))


class ProbePool(nn.Module):
    """One vector for a sequence: attention with a learned query, and a perceptron added to it.

    Lee et al. 2018, https://arxiv.org/abs/1810.00825, as in SigLIP (big_vision, MAPHead).

    Attributes:
      num_heads: heads of the attention.
      dtype: type of matrix products and activations, see `ViT`.
    """

    num_heads: int
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "n t d"], mask: Bool[Array, "n 1 t"] | None = None
    ) -> Float[Array, "n d"]:
        """Returns the vectors, at least float32.

        Args:
          tokens: tokens of n sequences.
          mask: tokens that the query sees; None: all.
        """
        n, _, d = tokens.shape
        dense = functools.partial(dense_layer, dtype=self.dtype)
        probe = jnp.asarray(self.param("probe", XAVIER, (1, d)), self.dtype)
        queries = jnp.broadcast_to(probe, (n, 1, d))
        x = CrossAttention(self.num_heads, self.dtype, name="attention")(queries, tokens, mask)
        y = layer_norm(self.dtype, "norm")(x)
        y = ACTIVATIONS["gelu"](dense(4 * d, name="fc1")(y))
        x = (x + dense(d, name="fc2")(y))[:, 0]
        return x.astype(at_least_float32(x.dtype))


class MeanQueryPool(nn.Module):
    """One vector for a sequence: attention with its mean as the query, to the mean and the tokens.

    The attention pooling of CLIP's ResNets, without their positions: tokens of a transformer have
    theirs. Radford et al. 2021, https://arxiv.org/abs/2103.00020, Section 2.4.

    Attributes:
      num_heads: heads of the attention.
      dtype: type of matrix products and activations, see `ViT`.
    """

    num_heads: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, tokens: Float[Array, "n t d"]) -> Float[Array, "n d"]:
        """Returns the vectors, at least float32."""
        mean = tokens.mean(axis=1, keepdims=True)
        tokens = jnp.concatenate([mean, tokens], axis=1)
        x = CrossAttention(self.num_heads, self.dtype, name="attention")(mean, tokens)[:, 0]
        return x.astype(at_least_float32(x.dtype))


def attend(
    q: Float[Array, "n q d"],
    k: Float[Array, "n t d"],
    v: Float[Array, "n t d"],
    num_heads: int,
    mask: Bool[Array, "_ _ t"] | None = None,
) -> Float[Array, "n q d"]:
    """Returns softmax(q k^T / sqrt(width of a head)) v for each head, with logits in float32.

    Args:
      q: queries, with heads side by side.
      k: keys, likewise.
      v: values, likewise.
      num_heads: number of heads.
      mask: [n or 1, q or 1, t], keys that a query sees, at least one; None: all.
    """
    n, num_queries, d = q.shape
    q, k, v = (x.reshape(n, -1, num_heads, d // num_heads) for x in (q, k, v))
    logits = jnp.einsum("nqhd,nkhd->nhqk", q, k, preferred_element_type=at_least_float32(q.dtype))
    logits *= q.shape[-1] ** -0.5
    if mask is not None:
        logits = jnp.where(mask[:, None], logits, -jnp.inf)
    weights = nn.softmax(logits).astype(v.dtype)
    return jnp.einsum("nhqk,nkhd->nqhd", weights, v).reshape(n, num_queries, d)


def dense_layer(
    features: int,
    dtype: DTypeLike,
    name: str,
    use_bias: bool = True,
    kernel_init: nn.initializers.Initializer = XAVIER,
) -> nn.Dense:
    """Returns a dense layer, with Xavier's start unless another is given."""
    return nn.Dense(features, use_bias=use_bias, dtype=dtype, kernel_init=kernel_init, name=name)


def layer_norm(dtype: DTypeLike, name: str) -> nn.LayerNorm:
    """Returns the LayerNorm of transformers."""
    return nn.LayerNorm(epsilon=EPSILON, dtype=dtype, name=name)
