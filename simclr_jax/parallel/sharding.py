"""Where each array lives on the mesh."""

from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the placement of batches: the first dimension over all devices."""
    return NamedSharding(mesh, P(mesh.axis_names))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the placement of the train state: a copy on every device."""
    return NamedSharding(mesh, P())
