"""Which leaves of a train state are split over the devices."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from simclr_jax.core.state import TrainState
from simclr_jax.parallel.mesh import make_mesh
from simclr_jax.parallel.sharding import state_shardings


def state(rows: int) -> TrainState:
    shape = lambda *dims: jax.ShapeDtypeStruct(dims, jnp.float32)
    return TrainState(
        step=jax.ShapeDtypeStruct((), jnp.int32),
        params={"encoder": {"queue": shape(3, rows, 4)}},
        batch_stats={},
        opt_state=({"trace": shape(16, 16)},),
        method_state={"queue": shape(3, rows, 4), "target": {"params": {"queue": shape(16)}}},
    )


def test_splits_the_rows_of_the_queue_and_nothing_else():
    got = state_shardings(state(16), make_mesh())
    assert jax.tree.structure(got) == jax.tree.structure(state(16))
    assert got.method_state["queue"].shard_shape((3, 16, 4)) == (3, 2, 4)
    others = jax.tree.leaves(got.replace(method_state={**got.method_state, "queue": ()}))
    assert len(others) == 4
    assert all(sharding.spec == P() for sharding in others)


def test_a_state_without_memory_is_copied_to_every_device():
    got = state_shardings(state(16).replace(method_state=()), make_mesh())
    assert all(sharding.is_fully_replicated for sharding in jax.tree.leaves(got))


def test_names_the_leaf_that_cannot_be_split():
    message = r"method_state/queue of shape \(3, 20, 4\): dimension 1 .* 8 devices .* 'data'"
    with pytest.raises(ValueError, match=message):
        state_shardings(state(20), make_mesh())
