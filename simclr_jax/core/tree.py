"""Trees addressed by paths such as "params/encoder/stage3/block0/conv2/kernel"."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np


def path_name(path: Any) -> str:
    """Returns the path of a leaf as "a/b/c"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def not_matching(pattern: str) -> Callable[[Any], Any]:
    """Returns an optax mask: True for each leaf whose whole path does not match `pattern`."""

    def mask(tree: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: re.fullmatch(pattern, path_name(path)) is None, tree
        )

    return mask


def stop_gradient_at(pattern: str, tree: Any) -> Any:
    """Returns the tree with no gradient through the leaves whose whole path matches `pattern`."""

    def stop(path: Any, leaf: Any) -> Any:
        return jax.lax.stop_gradient(leaf) if re.fullmatch(pattern, path_name(path)) else leaf

    return jax.tree_util.tree_map_with_path(stop, tree)


def select(tree: Any, path: str) -> Any:
    """Returns the part of nested mappings at a path such as "params/encoder".

    Raises:
      KeyError: if it is not there.
    """
    for name in path.split("/"):
        if not isinstance(tree, Mapping) or name not in tree:
            raise KeyError(path)
        tree = tree[name]
    return tree


def replace(tree: Any, path: str, part: Any) -> Any:
    """Returns nested mappings with another part at a path that exists."""
    name, _, rest = path.partition("/")
    return {**tree, name: replace(tree[name], rest, part) if rest else part}


def largest_difference(
    want: Any, got: Any, start: Any = None, *, least: float = 0.0
) -> tuple[float, str]:
    """Returns the largest max |want - got| / max |want| of all arrays, and the path of that array.

    Args:
      want: tree of arrays.
      got: tree of the same structure.
      start: third tree of the same structure; the difference is then relative to
        max |want - start|, how far the array has moved.
      least: smallest number that a difference is relative to, as a share of the largest element of
        all arrays: an array that is zero but for rounding has no scale of its own.

    Returns:
      0 and "" if all are equal; infinity if there is a NaN, or a difference in an array that should
      be zero or should not have moved.
    """
    starts = jax.tree.map(np.zeros_like, want) if start is None else start
    apart = lambda a, b: float(np.abs(np.subtract(a, b, dtype=np.float64)).max(initial=0))
    scales = jax.tree.leaves(jax.tree.map(apart, want, starts))
    smallest = least * max(scales, default=0.0)
    worst = (0.0, "")
    leaves = jax.tree_util.tree_leaves_with_path(want)
    for (path, a), b, scale in zip(leaves, jax.tree.leaves(got), scales, strict=True):
        difference, scale = apart(a, b), max(scale, smallest)
        if difference == 0:
            continue
        finite = math.isfinite(difference) and scale > 0
        relative = difference / scale if finite else math.inf
        if relative > worst[0]:
            worst = (relative, path_name(path))
    return worst
