"""Lines of metrics: norms, and the share of time that training waits for images."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.core.state import TrainState
from simclr_jax.train import hooks
from simclr_jax.train.hooks import LogMetrics, Waits
from simclr_jax.train.metrics import MetricsWriter


@pytest.fixture
def clock(monkeypatch):
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(hooks, "time", types.SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_the_share_of_waits_is_that_of_the_time_since_the_last_line(clock):
    def slow_batches():
        for seconds in (9.0, 1.0, 2.0):
            clock.now += seconds
            yield {}

    waits, rows = Waits(slow_batches()), []
    state = TrainState(jnp.zeros((), jnp.int32), params={}, batch_stats={}, opt_state=())
    writer = MetricsWriter("unused", writes=False)
    log = LogMetrics(
        writer,
        lambda count: 0.1,
        {},
        every=1,
        first_step=0,
        num_steps=3,
        batch_size=8,
        num_examples=24,
        examples="sounds",
        count_unreadable=lambda: 0,
        seconds_waited=lambda: waits.seconds,
        started=0.0,
    )
    for step, compute in enumerate((5.0, 3.0, 2.0), 1):
        next(waits)
        clock.now += compute
        if step == 3:  # time that training stands still does not count
            clock.now += 7.0
            writer.add(eval_seconds=7.0)
        log(step, state, {"loss": jnp.ones(())})
        rows.append(writer.last_row)
    assert "wait_share" not in rows[0], "the first step's time is that of the compiler"
    assert [row["wait_share"] for row in rows[1:]] == [0.25, 0.5]
    # Steps took 3 and 2 of 18 and 29 seconds since the start: not waits, nor the first step.
    assert [row["goodput"] for row in rows[1:]] == [3 / 18, 5 / 29]


def test_lines_that_are_due_have_the_norms_of_parameters_and_update():
    rng = np.random.default_rng(0)
    draw = lambda: {"a": {"kernel": rng.normal(size=(3, 4)), "bias": rng.normal(size=5)}, "b": 1.0}
    placed = lambda params: jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    states = [draw() for _ in range(6)]
    writer, rows = MetricsWriter("unused", writes=False), []
    log = LogMetrics(
        writer,
        lambda count: 0.1,
        placed(states[0]),
        every=2,
        first_step=0,
        num_steps=5,
        batch_size=8,
        num_examples=24,
        examples="sounds",
        count_unreadable=lambda: 0,
        seconds_waited=lambda: 0.0,
        started=0.0,
    )
    for step, params in enumerate(states[1:], 1):
        state = TrainState(jnp.zeros((), jnp.int32), placed(params), batch_stats={}, opt_state=())
        if step == 3:
            writer.add(knn_top1=0.5)
        log(step, state, {"loss": jnp.ones(())})
        rows.append(writer.last_row)
        jax.tree.map(lambda x: x.delete(), state.params)  # as a step that takes its memory
    length = lambda tree: np.sqrt(sum((np.asarray(x) ** 2).sum() for x in jax.tree.leaves(tree)))
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert ["norm/params" in row for row in rows] == [True, True, False, True, True]
    for step in (1, 2, 4, 5):
        after, row = states[step], rows[step - 1]
        update = jax.tree.map(np.subtract, after, states[step - 1])
        for name, tree in (("params", after), ("updates", update)):
            np.testing.assert_allclose(row[f"norm/{name}"], length(tree), rtol=1e-6)
            np.testing.assert_allclose(row[f"norm/{name}/a"], length(tree["a"]), rtol=1e-6)
    assert rows[3]["norm/updates/b"] == 0


def test_a_wait_that_ends_in_an_error_counts(clock):
    def failing_batches():
        clock.now += 4.0
        raise OSError("gone")
        yield {}

    waits = Waits(failing_batches())
    with pytest.raises(OSError, match="gone"):
        next(waits)
    assert waits.seconds == 4.0
