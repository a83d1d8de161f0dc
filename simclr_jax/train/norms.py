"""Lengths of gradients, parameters and updates, of a whole tree and of each of its parts."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from simclr_jax.core.types import Params, Scalar


def norms(name: str, tree: Any) -> dict[str, Scalar]:
    """Returns the norm of a tree, "norm/NAME", and of each of its parts, "norm/NAME/PART"."""
    squares = {part: optax.tree.norm(tree[part], squared=True) for part in tree}
    of_parts = {f"norm/{name}/{part}": jnp.sqrt(square) for part, square in squares.items()}
    return {f"norm/{name}": jnp.sqrt(sum(squares.values(), jnp.zeros(()))), **of_parts}


@jax.jit
def copied(params: Params) -> Params:
    """Returns a copy of parameters, which stays when a step reuses the memory of the originals."""
    return jax.tree.map(jnp.copy, params)


@jax.jit
def norms_of_update(before: Params, after: Params) -> dict[str, Scalar]:
    """Returns the norms of parameters after a step, and of what it changed.

    They are no part of the step. Its compiler, on a CPU, would compute the updates once more for
    their norm, and copy what the optimizer changes in place (docs/health.md).
    """
    updates = jax.tree.map(jnp.subtract, after, before)
    return {**norms("params", after), **norms("updates", updates)}
