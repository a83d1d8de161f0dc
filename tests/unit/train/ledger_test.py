"""The fingerprint of parameters: every bit counts, and how they are sharded does not."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from simclr_jax.train.ledger import fingerprint

PARAMS = {
    "a": jax.random.normal(jax.random.key(0), (8, 3)),
    "b": {"c": jnp.zeros(()), "d": jnp.arange(5.0)},
}


def test_every_bit_of_every_parameter_counts():
    prints = {int(fingerprint(PARAMS))}
    leaves, tree = jax.tree.flatten(PARAMS)
    count = 0
    for number, leaf in enumerate(leaves):
        for place in range(leaf.size):
            bits = np.array(leaf, np.float32).reshape(-1).view(np.uint32)
            bits[place] ^= np.uint32(1 << (7 * place % 32))
            changed = bits.view(np.float32).reshape(leaf.shape)
            other = [*leaves[:number], jnp.asarray(changed), *leaves[number + 1 :]]
            prints.add(int(fingerprint(jax.tree.unflatten(tree, other))))
            count += 1
    assert len(prints) == count + 1


def test_parameters_that_change_places_are_told_apart():
    swapped = {**PARAMS, "a": PARAMS["a"][::-1]}
    assert int(fingerprint(swapped)) != int(fingerprint(PARAMS))


def test_shards_do_not_matter():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = {**PARAMS, "a": jax.device_put(PARAMS["a"], NamedSharding(mesh, P("data")))}
    assert int(jax.jit(fingerprint)(sharded)) == int(jax.jit(fingerprint)(PARAMS))
