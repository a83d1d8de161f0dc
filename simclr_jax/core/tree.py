"""Trees addressed by paths such as "params/encoder/stage3/block0/conv2/kernel"."""

import re
from collections.abc import Callable
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
