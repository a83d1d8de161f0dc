"""Whether a state fits on the devices, checked before any of it is made."""

import math
import re
from typing import Any

import jax
import psutil

from simclr_jax.core.errors import UserError
from simclr_jax.core.tree import path_name

_BANK = re.compile(r"method_state/bank(/.*)?")  # see methods/bank.py


def room(device: Any) -> int | None:
    """Returns the bytes that a device of this process has for a program, None if JAX knows none.

    A CPU's are those of the machine, in equal shares where it stands for several devices.
    """
    if device.platform == "cpu":
        return psutil.virtual_memory().total // len(jax.local_devices(backend="cpu"))
    return (device.memory_stats() or {}).get("bytes_limit")


def require_room(abstract_state: Any) -> None:
    """Checks that each device of this process can hold its part of a state.

    A run takes more memory than its state, so this finds only states that are far too large; `plan`
    says what a run takes.

    Args:
      abstract_state: tree of shapes, types and shardings.

    Raises:
      UserError: with the bytes that are needed and those that there are.
    """
    sizes = {
        path_name(path): math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for path, x in jax.tree_util.tree_leaves_with_path(abstract_state)
    }
    needed, largest = sum(sizes.values()), max(sizes, key=lambda name: sizes[name])
    device = jax.local_devices()[0]
    available = room(device)
    if available is None or needed <= available:
        return
    cure = (
        "Lower width or depth of config.encoder or the dimensions in config.heads, or split the "
        "state: --config.parallel.preset=fsdp with --config.parallel.fsdp=DEVICES."
    )
    if _BANK.fullmatch(largest):
        cure = (
            "It has a row for each image and is split over all devices already: take more of them, "
            "fewer images, or a lower --config.heads.projector.output_dim."
        )
    if largest.startswith("method_state/queue"):
        cure = "Lower --config.method.queue_size."
    raise UserError(
        f"The state of this config takes {needed / 1e9:,.0f} GB on a device, and "
        f"{device.device_kind} has {available / 1e9:,.0f} GB. The largest part is {largest} with "
        f"{sizes[largest] / 1e9:,.0f} GB. {cure}"
    )
