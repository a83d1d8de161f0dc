"""Sinkhorn's codes and swapped prediction: the released codes' numbers, and their limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.losses import clusters
from tests.helpers import jitted

centered_targets = jitted(clusters.centered_targets)
cross_view_entropy = jitted(clusters.cross_view_entropy)
sinkhorn = jitted(clusters.sinkhorn)
CASES = ("plain", "empty_prototype", "more_prototypes_than_rows", "one_row", "equal_scores")
SETTINGS = ((0.05, 0), (0.05, 3), (0.05, 10), (0.03, 3))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("case", [*CASES, "underflow", "overflow"])
def test_codes_are_the_released_ones_and_finite_where_those_are_not(golden, close, case):
    arrays = golden("swav")
    for epsilon, iterations in SETTINGS:
        at = f"sinkhorn/{case}/eps{epsilon}_iter{iterations}"
        scores = arrays[f"sinkhorn/{case}/scores"]
        codes = sinkhorn(scores, epsilon=epsilon, iterations=iterations)
        close(codes, arrays[f"{at}/codes"], at)
        if arrays[f"{at}/released_is_finite"]:
            close(codes, arrays[f"{at}/codes_released"], at)
        if iterations:
            close(np.asarray(codes).sum(axis=1), np.ones(len(scores)), at)


@pytest.mark.usefixtures("float64")
def test_codes_do_not_depend_on_how_rows_are_laid_out():
    scores = jax.random.normal(jax.random.key(0), (3, 4, 10))
    apart = sinkhorn(scores, epsilon=0.5)
    joined = sinkhorn(scores.reshape(12, 10), epsilon=0.5)
    np.testing.assert_allclose(apart.reshape(12, 10), joined, rtol=1e-12)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("case", ["loss_multicrop", "loss_two_crops"])
def test_swapped_prediction_is_swavs_loss_with_its_gradients(golden, close, case):
    arrays = golden("swav")
    codes_of = lambda scores: jnp.stack([sinkhorn(scores[:, i], epsilon=0.05) for i in (0, 1)], 1)

    def loss(features, prototypes):
        unit = features / jnp.linalg.norm(features, axis=-1, keepdims=True)
        scores = unit @ prototypes.T
        codes = codes_of(scores)
        return cross_view_entropy(codes, scores, temperature=0.1), codes

    inputs = arrays[f"{case}/features"], arrays[f"{case}/prototypes"]
    (value, codes), grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(*inputs)
    close(value, arrays[f"{case}/loss"])
    close(grads[0], arrays[f"{case}/grad_features"])
    close(grads[1], arrays[f"{case}/grad_prototypes"])
    if f"{case}/codes" in arrays:
        close(codes, arrays[f"{case}/codes"])


def test_equal_scores_give_the_log_of_the_number_of_prototypes():
    targets = jax.nn.softmax(jax.random.normal(jax.random.key(0), (4, 2, 10)))
    value = cross_view_entropy(targets, jnp.ones((4, 5, 10)), temperature=0.1)
    np.testing.assert_allclose(value, np.log(10), rtol=1e-6)


def test_a_target_without_another_view_is_refused():
    with pytest.raises(ValueError, match="1 views with targets and 1 with scores"):
        cross_view_entropy(jnp.ones((4, 1, 3)), jnp.ones((4, 1, 3)), temperature=0.1)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("case", ["multicrop", "two_crops"])
def test_centred_targets_give_dinos_loss_with_its_gradients(golden, close, case):
    arrays = golden("dino")
    for epoch in (0, 1, 2, 5):
        of = lambda name, at=f"{case}/epoch{epoch}": arrays[f"{at}/{name}"]

        def loss(student, teacher, of=of):
            temperature = float(of("teacher_temperature"))
            targets = centered_targets(teacher, of("center_before"), temperature=temperature)
            return cross_view_entropy(targets, student, temperature=0.1)

        gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
        value, grads = gradient(of("student"), of("teacher"))
        close(value, of("loss"))
        close(grads[0], of("grad_student"))
        assert not np.any(grads[1])
