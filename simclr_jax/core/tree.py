"""Trees addressed by paths such as "params/encoder/stage3/block0/conv2/kernel"."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax


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
