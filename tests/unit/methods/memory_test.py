"""Targets and rings: what they keep, and what a schedule makes of them."""

import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.core.state import TrainState
from simclr_jax.methods.base import Variables
from simclr_jax.methods.memory import Ring, Target, cosine_ema, ring_rows


def state(step, **params):
    return TrainState(step=jnp.int32(step), params=params, batch_stats={}, opt_state=())


def test_a_target_of_parts_holds_and_moves_only_those():
    target = Target(0.75, parts=("encoder",))
    variables = Variables({"encoder": jnp.ones(2), "head": jnp.ones(3)}, {"encoder": jnp.zeros(1)})
    start = target.init(variables)
    assert start["params"].keys() == {"encoder"}
    moved = target.update(start, state(1, encoder=jnp.full(2, 5.0), head=jnp.ones(3)), {"a": 1})
    np.testing.assert_allclose(moved["params"]["encoder"], 0.75 * 1 + 0.25 * 5)
    assert moved["batch_stats"] == {"a": 1}


def test_a_scheduled_target_uses_the_number_of_updates_before_this_one():
    seen = []
    target = Target(lambda step: seen.append(int(step)) or jnp.float32(0.5))
    target.update({"params": {"w": jnp.ones(1)}}, state(4, w=jnp.zeros(1)), {})
    assert seen == [3]


def test_the_ema_rises_on_half_a_cosine_from_the_start_to_one():
    ema = cosine_ema(0.9, 100)
    want = [1 - 0.1 * (np.cos(np.pi * t / 100) + 1) / 2 for t in (0, 30, 100)]
    np.testing.assert_allclose([ema(jnp.int32(t)) for t in (0, 30, 100)], want, rtol=1e-6)
    with pytest.raises(ValueError, match=r"ema=1.5; it must be in \[0, 1\]"):
        cosine_ema(1.5, 100)


def test_a_ring_keeps_the_last_batches_of_several_kinds_of_rows():
    ring = Ring(size=6)
    slots = ring.num_slots(2, "queue_size")
    held = {"keys": jnp.zeros((slots, 2, 1)), "labels": jnp.full((slots, 2), -1)}
    for step in range(1, 6):
        rows = {"keys": jnp.full((2, 1), float(step)), "labels": jnp.full(2, step)}
        held = ring.push(held, rows, state(step))
    assert sorted(ring_rows(held)["labels"].tolist()) == [3, 3, 4, 4, 5, 5]
    np.testing.assert_array_equal(ring_rows(held)["keys"][:, 0], ring_rows(held)["labels"])


def test_a_ring_that_is_not_whole_batches_is_told_what_works():
    with pytest.raises(ValueError, match=r"queue_size=7 .* 2 rows .*use 6 or 8\."):
        Ring(7).num_slots(2, "queue_size")
