"""Hard negatives that are mixed from others, for a contrast with a queue.

Kalantidis et al. 2020, https://arxiv.org/abs/2010.01028 (MoCHi)
"""

import jax
from jaxtyping import Array, Float, Int

from simclr_jax.losses.similarity import l2_normalize, similarities, unit_rows


def hardest(
    query: Float[Array, "n d"], queue: Float[Array, "k d"], count: int
) -> Int[Array, "n count"]:
    """Returns which rows of the queue are the most similar to each query, from the hardest on.

    Args:
      query: rows of any scale.
      queue: rows of unit length.
      count: number of rows, at most k.
    """
    return jax.lax.top_k(similarities(unit_rows(query), queue), count)[1]


def mix_pairs(
    queue: Float[Array, "k d"], pairs: Int[Array, "n m 2"], share: Float[Array, "n m"]
) -> Float[Array, "n m d"]:
    """Returns unit rows between two keys of the queue.

    Args:
      queue: rows of unit length.
      pairs: numbers of the two keys; they may be the same.
      share: share of the first of the two, in [0, 1].

    Source: Equation 4.
    """
    keys = queue[pairs]  # [n, m, 2, d]
    share = share[..., None]
    return l2_normalize(share * keys[:, :, 0] + (1 - share) * keys[:, :, 1])


def mix_with_query(
    query: Float[Array, "n d"],
    queue: Float[Array, "k d"],
    keys: Int[Array, "n m"],
    share: Float[Array, "n m"],
) -> Float[Array, "n m d"]:
    """Returns unit rows between a query and a key of the queue: harder than any key.

    Args:
      query: rows of any scale.
      queue: rows of unit length.
      keys: numbers of the keys in the queue.
      share: share of the query, below a half, so that the row is not as good as a positive.

    Source: Equation 5.
    """
    share = share[..., None]
    return l2_normalize(share * unit_rows(query)[:, None] + (1 - share) * queue[keys])
