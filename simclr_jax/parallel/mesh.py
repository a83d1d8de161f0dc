"""Device mesh, and the split of the global batch over it."""

import collections
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

# Between slices of a multislice TPU job; between devices that hold the same part of a sharded
# array; between devices that hold different parts. The batch is split over all three.
AXES = ("slice", "data", "fsdp")


def make_mesh(devices: Sequence[Any] | None = None, *, fsdp: int = 1) -> Mesh:
    """Returns a mesh with the axes "slice", "data" and "fsdp".

    Devices of one process are neighbours, so the rows that a process loads are one block of
    the global batch.

    Args:
      devices: all of the run if None; they may be devices that are not there.
      fsdp: wanted length of axis "fsdp"; it gets the greatest common divisor of this and the
        devices of a slice, so that a recipe for a pod runs on a laptop.

    Raises:
      ValueError: if the slices differ in size.
    """
    devices = jax.devices() if devices is None else devices
    slices = [getattr(device, "slice_index", None) or 0 for device in devices]
    sizes = collections.Counter(slices)
    if len({*sizes.values()}) > 1:
        raise ValueError(f"{len(devices)} devices in {len(sizes)} slices of different sizes.")
    order = sorted(
        zip(slices, devices, strict=True), key=lambda x: (x[0], x[1].process_index, x[1].id)
    )
    per_slice = len(devices) // len(sizes)
    shared = math.gcd(per_slice, fsdp)
    shape = (len(sizes), per_slice // shared, shared)
    array = np.asarray([device for _, device in order]).reshape(shape)
    return Mesh(array, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Checks that every device gets the same number of images.

    Args:
      batch_size: images in the global batch.
      mesh: devices that share them.

    Raises:
      ValueError: with the nearest batch sizes that work.
    """
    unit = mesh.devices.size
    if batch_size < 2 or batch_size % unit:
        above = -(-max(batch_size, 2) // unit) * unit
        works = [size for size in (above - unit, above) if size >= 2]
        raise ValueError(
            f"batch_size={batch_size} cannot be split evenly over {unit} devices, or "
            f"is below the 2 examples that a contrast needs; use "
            f"{' or '.join(map(str, works))}."
        )
