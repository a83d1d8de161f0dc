"""MoCHi's negatives: those of a public code with the same draws, and its loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.losses.mixing import hardest, mix_pairs, mix_with_query
from simclr_jax.losses.momentum import info_nce


@pytest.mark.usefixtures("float64")
def test_hard_negatives_are_mixed_and_contrasted_as_recorded(golden, close):
    given = {key.removeprefix("loss/"): value for key, value in golden("mochi").items()}
    hard = hardest(given["query"], given["queue"], given["hardest"].shape[1])
    np.testing.assert_array_equal(hard, given["hardest"])
    rows = jnp.arange(8)
    pairs = hard[rows[:, None, None], given["pair_of_hardest"]]
    ones = hard[rows[:, None], given["one_of_hardest"]]
    between = mix_pairs(given["queue"], pairs, given["alpha"])
    close(between, given["synthetic_pairs"])
    with_query = mix_with_query(given["query"], given["queue"], ones, given["beta"])
    close(with_query, given["synthetic_with_query"])

    @jax.jit
    @jax.value_and_grad
    def loss(query, mixed):
        rest = {"queue": given["queue"], "in_batch": False, "own_negatives": mixed}
        return info_nce(query, given["key"], temperature=0.2, **rest)

    value, grad = loss(given["query"], jnp.concatenate([between, with_query], axis=1))
    close(value, given["loss"])
    close(grad, given["grad_query"])


def test_no_gradient_reaches_what_was_mixed():
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 6)), jnp.float32)
    loss = lambda own: info_nce(rows[0], rows[1], temperature=0.2, own_negatives=own[:, None])
    assert not np.asarray(jax.grad(loss)(rows[2])).any()
