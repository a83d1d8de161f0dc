"""Copies of a state on several devices: one other bit is seen, wherever it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from simclr_jax.core.state import TrainState
from simclr_jax.train.replicas import ReplicasDifferError, require_equal_replicas

NUM, WHOLE = 4, P()


def placed(split=WHOLE):
    """Returns a state of which everything but the kernel is copied to four devices."""
    mesh = jax.make_mesh((NUM,), ("data",), devices=jax.devices()[:NUM])
    put = lambda x, spec=WHOLE: jax.device_put(jnp.asarray(x), NamedSharding(mesh, spec))
    return TrainState(
        step=put(3),
        params={"encoder": {"kernel": put(np.arange(8.0, dtype=np.float32), split)}},
        batch_stats={"encoder": put(np.ones(3, np.float32))},
        opt_state=(put(np.zeros((2, 2), np.float32)),),
    )


def flip(leaf, device):
    """Returns the array with another lowest bit of the last number of one device's copy."""

    def copy(shard):
        numbers = np.array(shard.data)
        if shard.device == device:
            numbers.reshape(-1).view(np.uint32)[-1:] ^= 1
        return jax.device_put(numbers, shard.device)

    copies = [copy(shard) for shard in leaf.addressable_shards]
    return jax.make_array_from_single_device_arrays(leaf.shape, leaf.sharding, copies)


def test_copies_that_are_alike_are_let_through():
    require_equal_replicas(3, placed())


@pytest.mark.parametrize("number", range(3))
def test_a_bit_of_any_array_is_seen_and_its_device_named(number):
    leaves, tree = jax.tree.flatten(placed())
    floats = [i for i, leaf in enumerate(leaves) if leaf.dtype == jnp.float32]
    odd = jax.devices()[2]
    leaves[floats[number]] = flip(leaves[floats[number]], odd)
    with pytest.raises(ReplicasDifferError, match=f"of step 3 .* 3 are alike, and {odd} not"):
        require_equal_replicas(3, jax.tree.unflatten(tree, leaves))


def test_what_is_split_has_no_copies_to_compare():
    require_equal_replicas(3, placed(P("data")))
