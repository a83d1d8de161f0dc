"""InfoNCE, MoCo, MoCo v3 and NNCLR: the released codes' numbers, and where gradients stop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.losses.momentum import info_nce, moco_v3
from simclr_jax.losses.neighbours import nearest, nnclr


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("temperature", "tile"), [(0.07, 5), (0.2, None)])
def test_moco_contrasts_with_the_queue_alone(golden, close, temperature, tile):
    numbers = {
        name: golden("moco")[f"loss/t{temperature}/{name}"]
        for name in ("query", "key", "queue", "loss", "grad_query")
    }

    @jax.jit
    @jax.value_and_grad
    def loss(query):
        rest = {"queue": numbers["queue"], "in_batch": False, "tile": tile}
        return info_nce(query, numbers["key"], temperature=temperature, **rest)

    value, grad = loss(numbers["query"])
    close(value, numbers["loss"])
    close(grad, numbers["grad_query"])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("temperature", "tile"), [(0.2, 3), (1.0, None)])
def test_moco_v3_is_the_released_loss_in_nats_per_view(golden, close, temperature, tile):
    numbers = {
        name: golden("moco_v3")[f"loss/t{temperature}/{name}"]
        for name in (
            *("prediction", "key", "loss_nats_mean_over_views", "grad_prediction_of_nats"),
            *("loss_released", "grad_prediction_of_released"),
        )
    }
    loss = lambda p, k: moco_v3(p, k, temperature=temperature, tile=tile)
    value, (grad, of_key) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(
        numbers["prediction"], numbers["key"]
    )
    close(value, numbers["loss_nats_mean_over_views"])
    close(grad, numbers["grad_prediction_of_nats"])
    close(4 * temperature * value, numbers["loss_released"])
    close(4 * temperature * grad, numbers["grad_prediction_of_released"])
    assert not np.asarray(of_key).any()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("case", ["plain", "view_is_in_queue"])
@pytest.mark.parametrize(("temperature", "tile"), [(0.1, 3), (0.2, None)])
def test_nnclr_contrasts_neighbours_with_predictions(golden, close, case, temperature, tile):
    numbers = {
        name: golden("nnclr")[f"{case}/t{temperature}/{name}"]
        for name in ("projection", "prediction", "queue", "neighbour", "loss", "grad_prediction")
    }
    found = nearest(numbers["projection"], numbers["queue"])
    np.testing.assert_array_equal(found, numbers["neighbour"])
    neighbours = numbers["queue"][found]
    loss = lambda p, n: nnclr(p, n, temperature=temperature, tile=tile)
    value, (grad, of_neighbour) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(
        numbers["prediction"], neighbours
    )
    close(value, numbers["loss"])
    close(grad, numbers["grad_prediction"])
    assert not np.asarray(of_neighbour).any()


def test_no_gradient_reaches_the_queue():
    rows = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 6)), jnp.float32)
    loss = lambda q: info_nce(rows[0], rows[1], temperature=0.2, queue=q, in_batch=False)
    assert not np.asarray(jax.grad(loss)(rows[2])).any()


def test_chance_is_the_log_of_the_candidates():
    same = jnp.ones((4, 6))
    unit = same / np.sqrt(6)
    np.testing.assert_allclose(info_nce(same, same, temperature=0.1), np.log(4), rtol=1e-5)
    alone = info_nce(same, same, temperature=0.1, queue=unit, in_batch=False)
    np.testing.assert_allclose(alone, np.log(1 + 4), rtol=1e-5)
    both = info_nce(same, same, temperature=0.1, queue=unit)
    np.testing.assert_allclose(both, np.log(4 + 4), rtol=1e-5)


def test_a_contrast_without_negatives_is_refused():
    with pytest.raises(ValueError, match="needs a queue where in_batch=False"):
        info_nce(jnp.ones((4, 6)), jnp.ones((4, 6)), temperature=0.1, in_batch=False)
    with pytest.raises(ValueError, match="it needs 2 or more"):
        moco_v3(jnp.ones((1, 2, 6)), jnp.ones((1, 2, 6)), temperature=0.1)
