"""MoCHi's negatives: those of a public code with the same draws, and its loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.losses import mixing, momentum
from simclr_jax.losses.mixing import hardest
from tests.helpers import jitted

info_nce = jitted(momentum.info_nce)
mix_pairs = jitted(mixing.mix_pairs)
mix_with_query = jitted(mixing.mix_with_query)


@pytest.mark.usefixtures("float64")
def test_hard_negatives_are_mixed_and_contrasted_as_recorded(golden, close):
    given = {key.removeprefix("loss/"): value for key, value in golden("mochi").items()}
    hard = jax.jit(hardest, static_argnums=2)(
        given["query"], given["queue"], given["hardest"].shape[1]
    )
    np.testing.assert_array_equal(hard, given["hardest"])
    rows = np.arange(8)
    pairs = jnp.asarray(np.asarray(hard)[rows[:, None, None], given["pair_of_hardest"]])
    ones = jnp.asarray(np.asarray(hard)[rows[:, None], given["one_of_hardest"]])
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
    assert not np.any(jax.jit(jax.grad(loss))(rows[2]))
