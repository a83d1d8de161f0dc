"""Skip-gram with negative sampling: words told from noise by the words around them.

Mikolov et al. 2013, https://arxiv.org/abs/1310.4546
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from simclr_jax.core.types import Scalar
from simclr_jax.losses.similarity import at_least_float32


def skip_gram(
    center: Float[Array, "n d"], context: Float[Array, "n d"], negative: Float[Array, "n k d"]
) -> Scalar:
    """Binary cross entropy of each pair of words, and of its center word with k others.

    < -log sigmoid(c.o) - sum_k log sigmoid(-c.n_k) >

    Args:
      center: row of a word.
      context: row of a word near it, from another table; of any length, and lengths count.
      negative: rows of k words drawn for each pair, of the same table as `context`; in the paper
        with the frequency of words to the power 3/4.

    Returns:
      Mean over the pairs in nats; (k + 1) log(2) when all products are 0.

    Source: Equation 4.
    """
    center, context, negative = map(at_least_float32, (center, context, negative))
    positives = jnp.sum(center * context, axis=-1)
    highest = jax.lax.Precision.HIGHEST
    negatives = jnp.einsum("nd,nkd->nk", center, negative, precision=highest)
    losses = jax.nn.softplus(-positives) + jax.nn.softplus(negatives).sum(axis=-1)
    return losses.mean()
