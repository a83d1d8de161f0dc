"""Random features: what an encoder makes of images before any training, fairly judged.

The variables that training starts from are no baseline as they are. Branches of a residual block
begin with a BatchNorm scale of zero (Goyal et al. 2017, https://arxiv.org/abs/1706.02677, Section
5.1), so that only shortcuts carry the image, and running statistics begin at 0 and 1, which are
those of no image. Here such scales are one and the statistics are those of training images; every
random weight stays.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from simclr_jax.core.tree import path_name
from simclr_jax.core.types import Batch


def random_features(
    variables: Mapping[str, Any],
    update_statistics: Callable[[Mapping[str, Any], Batch], Mapping[str, Any]],
    batches: Iterable[Batch],
) -> dict[str, Any]:
    """Returns initial variables with open branches and the statistics of images.

    Args:
      variables: {"params": {"encoder": ...}, "batch_stats": ...} before training; heads are left
        out.
      update_statistics: (variables, batch) -> their batch_stats after one training step, any
        moving averages.
      batches: a few of training images, at least one; not read if there are no statistics.
    """
    params, start = (
        {module: tree for module, tree in variables[name].items() if module == "encoder"}
        for name in ("params", "batch_stats")
    )
    params = jax.tree_util.tree_map_with_path(_open, params)
    if not jax.tree.leaves(start):
        return {"params": params, "batch_stats": start}
    low, high = (jax.tree.map(lambda x, y=y: jnp.full_like(x, y), start) for y in (0, 1))
    for batch in batches:
        low, high = (
            update_statistics({"params": params, "batch_stats": statistics}, batch)
            for statistics in (low, high)
        )
    # What is left of the start is the difference, whatever the averages' momentum; without it
    # they are unbiased, as Adam's moments are made.
    statistics = jax.tree.map(lambda low, high: low / (1 - (high - low)), low, high)
    return {"params": params, "batch_stats": statistics}


def _open(path: Any, x: jax.Array) -> jax.Array:
    if path_name(path).rpartition("/")[2] != "scale":
        return x
    return jnp.where(jnp.any(x != 0), x, jnp.ones_like(x))
