"""Where each array lives on the mesh: the batch by rows, the train state by path rules."""

import re
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from simclr_jax.core.tree import path_name

# (regex, spec) pairs; the first regex that matches the whole path of a leaf decides.
RULES = (
    # Keys [slots, 2b, d]: each device keeps those of its own images and writes them in place.
    ("method_state/queue", P(None, "data")),
    (".*", P()),
)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the placement of batches: the first dimension over all devices."""
    return NamedSharding(mesh, P(mesh.axis_names))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the placement of what every device has a copy of."""
    return NamedSharding(mesh, P())


def state_shardings(state: Any, mesh: Mesh) -> Any:
    """Returns the placement of each leaf of a train state, by `RULES`.

    Args:
      state: a TrainState of arrays or of `jax.ShapeDtypeStruct`.
      mesh: devices; its axis is named "data".

    Returns:
      The same tree with a NamedSharding at each leaf.

    Raises:
      ValueError: if a dimension that a rule splits cannot be split evenly.
    """

    def place(path: Any, leaf: Any) -> NamedSharding:
        name = path_name(path)
        spec = next(spec for pattern, spec in RULES if re.fullmatch(pattern, name))
        for dim, axis in enumerate(spec):
            if axis is not None and leaf.shape[dim] % mesh.shape[axis]:
                raise ValueError(
                    f"Cannot split {name} of shape {leaf.shape}: dimension {dim} is not a "
                    f"multiple of the {mesh.shape[axis]} devices along mesh axis {axis!r}."
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(place, state)
