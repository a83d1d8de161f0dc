"""The step: named randomness, and nothing changes when a number is not finite."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simclr_jax.methods.base import Method, StepOutput, Variables
from simclr_jax.train.health import MOST_IN_A_ROW, NonFiniteError, OnNonFinite
from simclr_jax.train.loop import fit
from simclr_jax.train.step import init_state, make_train_step

ROOT = jax.random.key(0)
TX = optax.sgd(0.5)


def quadratic(*, explode_at: int | None = None) -> Method:
    """(w - mean of the labels)^2, so that every update can be checked by hand."""

    def init(key, views):
        del key, views
        return Variables({"w": jnp.zeros(())}, {"seen": jnp.zeros(())}, {"memory": jnp.zeros(())})

    def loss(params, state, views, batch, key):
        del views, key
        value = (params["w"] - batch["label"].astype(jnp.float32).mean()) ** 2
        if explode_at is not None:
            value = value + jnp.where(state.step == explode_at, jnp.inf, 0.0)
        stats = {"seen": state.batch_stats["seen"] + 1}
        return value, StepOutput(stats, {"loss": value}, carry=params["w"])

    def after_update(state, carry):
        return {"memory": 10 * carry + state.params["w"]}

    return Method(init, lambda key, batch: batch["image"][:, None] / 255.0, loss, after_update)


BATCH = {"image": jnp.zeros((4, 2, 2, 3), jnp.uint8), "label": jnp.array([1, 1, 3, 3], jnp.int32)}


def check(path, then="stop"):
    """A hook for batches of 4 of 100 images, in order."""
    ids = lambda i: np.arange(4 * i, 4 * i + 4)
    return OnNonFinite(then, path / "non_finite.jsonl", ids, examples="sounds")


def start(method):
    return init_state(method, TX, ROOT, BATCH)


def test_updates_parameters_statistics_and_memory():
    method = quadratic()
    state, metrics = jax.jit(make_train_step(method, TX, ROOT))(start(method), BATCH)
    # Gradient 2 (0 - 2) = -4, rate 0.5: w = 2; the memory saw w before and after.
    assert float(state.params["w"]) == 2.0
    assert float(state.batch_stats["seen"]) == 1.0
    assert float(state.method_state["memory"]) == 2.0
    assert int(state.step) == 1
    assert float(metrics["loss"]) == 4.0
    assert float(metrics["norm/grads"]) == 4.0


def test_the_norm_of_the_gradient_comes_for_each_part_of_the_parameters():
    method = quadratic()
    _, metrics = make_train_step(method, TX, ROOT)(start(method), BATCH)
    assert float(metrics["norm/grads/w"]) == 4.0


def test_a_loss_that_is_not_finite_changes_nothing_but_the_step():
    method = quadratic(explode_at=0)
    before = start(method)
    after, metrics = jax.jit(make_train_step(method, TX, ROOT))(before, BATCH)
    assert not bool(metrics["health/finite"])
    assert int(after.step) == 1
    assert jax.tree.map(float, before) == jax.tree.map(float, after.replace(step=before.step))


def test_run_stops_at_the_step_that_is_not_finite(tmp_path):
    method = quadratic(explode_at=3)
    seen = []
    hooks = [check(tmp_path), lambda step, state, metrics: seen.append(step)]
    step = jax.jit(make_train_step(method, TX, ROOT))
    with pytest.raises(NonFiniteError, match=r"loss is not finite at step 4 \(loss inf"):
        fit(start(method), step, iter([BATCH] * 10), num_steps=10, hooks=hooks)
    assert seen == [1, 2, 3, 4]  # one step late, so that the device is never kept waiting
    (row,) = map(json.loads, (tmp_path / "non_finite.jsonl").read_text().splitlines())
    assert (row["step"], row["loss"], row["ids"]) == (4, "inf", [12, 13, 14, 15])


def test_a_few_steps_that_are_not_finite_can_be_skipped_and_many_cannot(tmp_path):
    finite, not_finite = (
        {"health/finite": jnp.array(ok), "loss": jnp.ones(()), "norm/grads": jnp.array(norm)}
        for ok, norm in ((True, 1.0), (False, jnp.nan))
    )
    skips = check(tmp_path, "skip")
    skips.check(1, finite)
    for step in range(2, 2 + MOST_IN_A_ROW):
        skips.check(step, not_finite)
        skips.check(step, not_finite)  # as for a checkpoint of the same step
    assert len((tmp_path / "non_finite.jsonl").read_text().splitlines()) == MOST_IN_A_ROW
    skips.check(20, not_finite)
    for step in range(21, 20 + MOST_IN_A_ROW):
        skips.check(step, not_finite)
    with pytest.raises(NonFiniteError, match="gradient is not finite at step 30"):
        skips.check(30, not_finite)


def test_loop_goes_on_from_the_step_of_its_state():
    method = quadratic()
    steps = []
    state = start(method).replace(step=jnp.int32(6))
    fit(
        state,
        jax.jit(make_train_step(method, TX, ROOT)),
        iter([BATCH] * 4),
        num_steps=10,
        hooks=[lambda step, state, metrics: steps.append((step, int(state.step)))],
    )
    assert steps == [(7, 7), (8, 8), (9, 9), (10, 10)]


def test_augmentation_depends_on_seed_and_step_alone():
    def spy(root, step):
        keys = []
        method = quadratic()
        augment = lambda key, batch: keys.append(jax.random.key_data(key)) or batch["image"]
        spied = Method(method.init, augment, method.loss, method.after_update)
        state = start(method).replace(step=jnp.int32(step))
        make_train_step(spied, TX, root)(state, BATCH)
        return tuple(np.asarray(keys[0]).tolist())

    assert spy(ROOT, 3) == spy(ROOT, 3)
    assert len({spy(ROOT, 3), spy(ROOT, 4), spy(jax.random.key(1), 3)}) == 3


def test_init_is_pure():
    method = quadratic()
    shapes = jax.eval_shape(functools.partial(init_state, method, TX, ROOT), BATCH)
    assert shapes.params["w"].shape == ()
