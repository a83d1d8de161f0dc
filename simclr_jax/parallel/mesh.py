"""Device mesh, and the split of the global batch over it."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh


def make_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """Returns a mesh with the one axis "data" over `devices` (default: all of the run).

    Devices of one process are neighbours, so the rows that a process loads are one block of
    the global batch.
    """
    devices = jax.devices() if devices is None else devices
    devices = sorted(devices, key=lambda device: (device.process_index, device.id))
    return Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Checks that every device gets the same number of images.

    Raises:
      ValueError: with the nearest batch sizes that work.
    """
    num_devices = mesh.devices.size
    if batch_size < 2 or batch_size % num_devices:
        below = batch_size // num_devices * num_devices
        works = [size for size in (below, below + num_devices) if size >= 2]
        raise ValueError(
            f"batch_size={batch_size} cannot be split evenly over {num_devices} devices, or is "
            f"below the 2 images that a contrast needs; use {' or '.join(map(str, works))}."
        )
