"""Streams are independent of each other, and of how many there are."""

import jax
import numpy as np
import pytest

from simclr_jax.core import rng


def bits(key):
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


def test_streams_and_steps_differ():
    root = jax.random.key(0)
    keys = {bits(rng.stream(root, name, step)) for name in rng.STREAMS for step in range(5)}
    assert len(keys) == 5 * len(rng.STREAMS)


def test_a_traced_step_gives_the_key_of_the_same_number():
    root = jax.random.key(1)
    traced = jax.jit(lambda step: rng.stream(root, "augment", step))(jax.numpy.int32(7))
    assert bits(traced) == bits(rng.stream(root, "augment", 7))


def test_key_of_a_row_does_not_depend_on_the_batch_size():
    key = jax.random.key(2)
    assert bits(rng.per_example(key, 8)[3]) == bits(rng.per_example(key, 4)[3])


def test_unknown_stream_is_an_error():
    with pytest.raises(ValueError, match="'dropout'"):
        rng.stream(jax.random.key(0), "dropout", 0)
