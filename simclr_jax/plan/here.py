"""The devices of this machine, in the place of a slice that is not there."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from simclr_jax.core.errors import UserError
from simclr_jax.parallel.memory import room
from simclr_jax.plan.chips import HERE

# What the memory of a device is called, and who sets how much of it a program may take.
_MEMORY = {
    "cpu": ("RAM", "the machine has for each device"),
    "gpu": ("VRAM", "JAX may allocate"),
}


@dataclasses.dataclass(frozen=True)
class Here:
    """Devices of one kind that JAX finds on this machine; see `plan.chips.Slice`.

    Attributes:
      usable_hbm_bytes: memory that one device has for a program, its share of the RAM if it is a
        CPU.
    """

    devices: Sequence[Any]
    usable_hbm_bytes: int

    @property
    def name(self) -> str:
        """The name that `--topology` has for them."""
        return HERE

    @property
    def num_devices(self) -> int:
        """Devices as JAX counts them."""
        return len(self.devices)

    @property
    def on_gpu(self) -> bool:
        """Whether they are GPUs."""
        return self.devices[0].platform == "gpu"

    @property
    def on_tpu(self) -> bool:
        """Whether they are TPUs, whose compiler is libtpu here as for a slice."""
        return self.devices[0].platform == "tpu"

    def facts(self) -> dict[str, Any]:
        """Returns what an answer says about them."""
        device = self.devices[0]
        memory, limit = _MEMORY.get(device.platform, ("HBM", "JAX may allocate"))
        kind = {"name": device.device_kind, "devices": 1, "memory": memory, "limit": limit}
        return {"topology": HERE, "slices": 1, "chips": len(self.devices), "chip": kind}


def find_here(count: int, price: float | None) -> Here:
    """Returns the devices of this machine.

    Args:
      count: what `--num_slices` says.
      price: what `--price` says.

    Raises:
      UserError: if one of them is given; this machine is one, and no time is estimated for it. If
        JAX cannot use the devices, or does not know how much memory they have.
    """
    if count != 1:
        raise UserError(f"--num_slices={count} is for TPU slices; --topology={HERE} has no slices.")
    if price is not None:
        raise UserError(
            f"--price={price} is for TPU slices: --topology={HERE} says nothing about time, which "
            "a run on this machine shows (pairs_per_second). Leave --price out."
        )
    try:
        devices = jax.local_devices()
    except RuntimeError as error:
        raise UserError(
            f"JAX cannot use the devices of this machine; does another program? {error}"
        ) from error
    usable = room(devices[0])
    if usable is None:
        raise UserError(
            f"JAX does not say how much memory {devices[0].device_kind} has, as with "
            "XLA_PYTHON_CLIENT_ALLOCATOR=platform, which must not be set here."
        )
    return Here(devices, usable)
