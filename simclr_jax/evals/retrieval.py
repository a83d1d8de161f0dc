"""Retrieval: the caption of an image among all captions, and the image of a caption."""

import numpy as np
from jaxtyping import Float, Int

from simclr_jax.evals.zero_shot import unit

AT = (1, 5, 10)
QUERIES_AT_ONCE = 512


def recalls(
    queries: Float[np.ndarray, "q d"],
    candidates: Float[np.ndarray, "c d"],
    query_owner: Int[np.ndarray, " q"],
    candidate_owner: Int[np.ndarray, " c"],
) -> dict[int, float]:
    """Returns k -> share of the queries that find what belongs to them among their k nearest.

    Args:
      queries: a row for each image, or for each caption; any length.
      candidates: a row for each of what is searched; any length.
      query_owner: the image that a query is, or is a caption of.
      candidate_owner: likewise; any candidate with the owner of a query belongs to it.
    """
    queries, candidates = unit(queries), unit(candidates)
    found = [
        ranks(queries[part] @ candidates.T, query_owner[part], candidate_owner)
        for part in np.array_split(np.arange(len(queries)), -(-len(queries) // QUERIES_AT_ONCE))
    ]
    rank = np.concatenate(found)
    return {k: float(np.mean(rank < k)) for k in AT}


def ranks(
    similarity: Float[np.ndarray, "q c"],
    query_owner: Int[np.ndarray, " q"],
    candidate_owner: Int[np.ndarray, " c"],
) -> Int[np.ndarray, " q"]:
    """Returns how many others are at least as similar to a query as its nearest own candidate.

    A tie counts against the query: where all are equally similar, nothing was found. Arguments as
    of `recalls`.
    """
    belongs = query_owner[:, None] == candidate_owner[None, :]
    nearest = np.where(belongs, similarity, -np.inf).max(axis=1, keepdims=True)
    return np.sum(~belongs & (similarity >= nearest), axis=1)
