"""Copies of one state on several devices: equal to the bit, or nothing is saved."""

import collections
import json

import jax
import jax.numpy as jnp

from simclr_jax.core.errors import TryAgainError
from simclr_jax.core.state import TrainState
from simclr_jax.parallel import hosts
from simclr_jax.train.ledger import fingerprint

_fingerprint = jax.jit(fingerprint)


class ReplicasDifferError(TryAgainError):
    """A device's copy of an array differs from those of other devices."""


def require_equal_replicas(step: int, state: TrainState) -> None:
    """Compares the copies of what each device holds whole; each process must ask at this step.

    Each device sums the bits of its own copies, which takes one pass over them. What is split over
    the devices has no second copy, and is not compared.

    Raises:
      ReplicasDifferError: naming the devices whose copies are the rarest.
    """
    leaves = enumerate(jax.tree.leaves(state))
    copies = {str(number): leaf for number, leaf in leaves if _is_copied(leaf)}
    if not copies:
        return
    mine = {str(s.device): int(s.data) for s in _fingerprint(copies).addressable_shards}
    sums: dict[str, int] = {}
    for said in hosts.gather(json.dumps(mine)):
        sums |= json.loads(said)
    (usual, count), *others = collections.Counter(sums.values()).most_common()
    if others:
        odd = [device for device, value in sums.items() if value != usual]
        raise ReplicasDifferError(
            f"The state of step {step} differs between devices that hold copies of it: {count} are "
            f"alike, and {', '.join(odd)} not. A device has computed or kept something wrong since "
            "the last checkpoint. Nothing of it is saved; the same command goes on from that "
            "checkpoint. If the same device is named again, leave it out."
        )


def _is_copied(leaf: jax.Array) -> bool:
    sharding = leaf.sharding
    several = len(sharding.device_set) > 1
    return several and sharding.is_fully_replicated and jnp.issubdtype(leaf.dtype, jnp.floating)
