"""Distillation: what the teacher says, that it never moves, and what labels add."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simclr_jax.augment.policies import POLICIES
from simclr_jax.core.run_facts import RunFacts
from simclr_jax.methods.base import FrozenNetwork
from simclr_jax.methods.distill import distill
from simclr_jax.models.heads import classifier
from simclr_jax.models.ssl import SSLModel
from simclr_jax.train.step import init_state, make_train_step
from tests.helpers import apply

ROOT = jax.random.key(0)
FACTS = RunFacts(num_steps=100, num_images=64, num_classes=3, batch_size=16)
AUGMENT = POLICIES["finetune"](size=16).augment


@pytest.fixture
def batch(batch):
    return {name: rows[:, :1] if rows.ndim > 1 else rows for name, rows in batch.items()}


@pytest.fixture
def model(tiny_encoder):
    return SSLModel(tiny_encoder, classifier=classifier(num_classes=3, zero_init=False))


@pytest.fixture
def teacher(tiny_encoder):
    """A teacher of another width than the student."""
    wider = SSLModel(
        tiny_encoder.copy(width=12), classifier=classifier(num_classes=3, zero_init=False)
    )
    shapes = jax.eval_shape(lambda: wider.init(ROOT, jnp.zeros((1, 16, 16, 3)), train=False))
    return FrozenNetwork(wider, shapes)


def taught(method, tx, teacher, batch):
    """Returns a fresh state whose teacher has weights and statistics that are not trivial."""
    state = jax.jit(functools.partial(init_state, method, tx, ROOT))(batch)
    values = jax.tree.map(
        lambda x: jnp.abs(jax.random.normal(jax.random.key(x.size), x.shape)) + 0.1, teacher.shapes
    )
    return state.replace(method_state={"teacher": values})


def test_the_student_learns_what_the_teacher_says_in_inference_mode(model, teacher, batch):
    method = distill(model, AUGMENT, FACTS, teacher=teacher, temperature=2.0)
    state = taught(method, optax.sgd(0.1), teacher, batch)
    views = AUGMENT(ROOT, batch)
    assert not isinstance(views, tuple)
    loss, out = jax.jit(method.loss)(state.params, state, views, batch, ROOT)
    says = apply(teacher.model, state.method_state["teacher"], views[:, 0], method="classify")
    student, _ = model.apply(
        {"params": state.params, "batch_stats": state.batch_stats},
        views[:, 0],
        train=True,
        mutable=["batch_stats"],
    )
    p = jax.nn.softmax(says / 2)
    expected = -4 * (p * jax.nn.log_softmax(student["logits"] / 2)).sum(-1).mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert out.metrics["agreement"] == jnp.mean(says.argmax(-1) == student["logits"].argmax(-1))


def test_the_teacher_never_moves_and_the_student_comes_to_agree(model, teacher, batch):
    method, tx = distill(model, AUGMENT, FACTS, teacher=teacher), optax.adam(1e-2)
    state = taught(method, tx, teacher, batch)
    before = jax.device_get(state.method_state)
    step = jax.jit(make_train_step(method, tx, ROOT))
    losses = []
    for _ in range(30):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.method_state), before)
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.05


def test_labels_count_as_alpha_says(model, teacher, batch):
    views = AUGMENT(ROOT, batch)
    labels = jnp.where(jnp.arange(16) < 4, jnp.arange(16) % 3, -1)
    losses = {}
    for alpha in (0.0, 0.25, 1.0):
        method = distill(model, AUGMENT, FACTS, teacher=teacher, alpha=alpha)
        state = taught(method, optax.sgd(0.1), teacher, batch)
        losses[alpha] = method.loss(state.params, state, views, {**batch, "label": labels}, ROOT)[0]
    unlabelled = method.loss(state.params, state, views, batch, ROOT)[0]
    np.testing.assert_array_equal(unlabelled, losses[1.0])  # with alpha = 1 no label is looked at
    np.testing.assert_allclose(losses[0.25], 0.25 * losses[1.0] + 0.75 * losses[0.0], rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"temperature": 0.0}, "must be > 0"), ({"alpha": 1.5}, r"alpha=1.5; it must be in \[0, 1\]")],
)
def test_settings_out_of_range_are_refused(model, teacher, settings, message):
    with pytest.raises(ValueError, match=message):
        distill(model, AUGMENT, FACTS, teacher=teacher, **settings)
