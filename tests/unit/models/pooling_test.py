"""Max pooling of CPU programs, against XLA's."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.models.pooling import max_pool

PADDINGS = ("SAME", ((1, 1), (1, 1)))


def by_flax(x, padding):
    return nn.max_pool(x, (3, 3), (2, 2), padding)


def with_gradient(pool, padding):
    @jax.jit
    def run(x, dy):
        y, pull_back = jax.vjp(lambda x: pool(x, padding), x)
        return y, pull_back(dy)[0]

    return run


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("size", [(8, 6), (9, 7), (2, 2), (1, 3)])
def test_values_and_gradients_are_those_of_xla_to_the_bit(size, padding, dtype):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(-2, 3, (4, *size, 3)), dtype)  # many are the same
    shape = jax.eval_shape(lambda x: by_flax(x, padding), x).shape
    # In bfloat16 whole numbers, whose sums need no rounding: XLA adds in float32.
    dy = rng.standard_normal(shape) if dtype == "float32" else rng.integers(-9, 9, shape)
    args = (x, jnp.asarray(dy, dtype))
    want, got = (with_gradient(pool, padding)(*args) for pool in (by_flax, max_pool))
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_other_platforms_get_the_program_of_xla():
    lowered = {}
    for pool in (by_flax, max_pool):
        args = (jnp.ones((2, 8, 8, 3)), jnp.ones((2, 4, 4, 3)))
        traced = with_gradient(pool, "SAME").trace(*args)
        lowered[pool] = [traced.lower(lowering_platforms=(p,)).as_text() for p in ("tpu", "cpu")]
    (tpu, cpu), (own_tpu, own_cpu) = lowered[by_flax], lowered[max_pool]
    assert "select_and_scatter" in tpu
    assert own_tpu.count("select_and_scatter") == tpu.count("select_and_scatter")
    assert "select_and_scatter" in cpu
    assert "select_and_scatter" not in own_cpu
