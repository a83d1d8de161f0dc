"""Cross entropy and distillation against NumPy in float64, written from the papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.losses import classification
from tests.helpers import jitted

cross_entropy = jitted(classification.cross_entropy)
distillation = jitted(classification.distillation)
top1 = jitted(classification.top1)
RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(0, 3, (2, 6, 5))
LABELS = np.array([0, 3, -1, 4, -1, 1])


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def float32(*arrays):
    return [jnp.asarray(x, jnp.float32) for x in arrays]


def test_cross_entropy_is_the_mean_over_labelled_rows():
    known = LABELS >= 0
    expected = -np.log(softmax(STUDENT)[known, LABELS[known]]).mean()
    (logits,) = float32(STUDENT)
    np.testing.assert_allclose(cross_entropy(logits, jnp.asarray(LABELS)), expected, rtol=1e-6)
    assert cross_entropy(logits, jnp.full(6, -1)) == 0


def test_a_row_without_a_label_has_no_gradient():
    (logits,) = float32(STUDENT)
    grads = jax.jit(jax.grad(cross_entropy))(logits, LABELS)
    known = LABELS >= 0
    expected = np.where(known[:, None], softmax(STUDENT) - np.eye(5)[LABELS], 0) / known.sum()
    np.testing.assert_allclose(grads, expected, atol=1e-7)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 4.0])
def test_distillation_follows_the_formula_and_its_gradient(temperature):
    t = temperature
    p, q = softmax(TEACHER / t), softmax(STUDENT / t)
    student, teacher = float32(STUDENT, TEACHER)
    value, grads = jax.value_and_grad(distillation)(student, teacher, temperature=t)
    log_q = STUDENT / t - np.log(np.exp(STUDENT / t).sum(-1, keepdims=True))
    np.testing.assert_allclose(value, -(p * log_q).sum(-1).mean() * t**2, rtol=1e-5)
    np.testing.assert_allclose(grads, t * (q - p) / 6, atol=2e-6)


def test_no_gradient_reaches_the_teacher():
    student, teacher = float32(STUDENT, TEACHER)
    grads = jax.jit(jax.grad(lambda x: distillation(student, x, temperature=1.0)))(teacher)
    assert not np.abs(grads).any()


def test_a_student_that_agrees_has_the_least_loss():
    (teacher,) = float32(TEACHER)
    grads = jax.grad(distillation)(teacher, teacher, temperature=1.0)
    np.testing.assert_allclose(grads, 0, atol=1e-7)


def test_top1_counts_labelled_rows_only():
    logits = jnp.asarray(np.eye(5, dtype=np.float32)[[0, 3, 2, 1, 1, 1]])
    assert top1(logits, jnp.asarray(LABELS)) == 0.75
