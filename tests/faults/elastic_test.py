"""Other devices, and steps that are not finite: what each step sees stays the same."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax import run as runs
from simclr_jax.build.experiment import build_experiment
from simclr_jax.data.order import Order
from simclr_jax.train.checkpoint import Checkpoints
from simclr_jax.train.health import NonFiniteError
from simclr_jax.train.metrics import read_metrics
from tests.faults.plan import KilledError, kill
from tests.faults.small_run import CONFIG, STEPS, train

pytestmark = pytest.mark.integration
LEDGER = {"ledger": True}


def ledger(workdir):
    return [json.loads(line) for line in (workdir / "ledger.jsonl").read_text().splitlines()]


def losses(rows):
    return [np.frombuffer(bytes.fromhex(row["loss"]), np.float32)[0] for row in rows]


@pytest.mark.thorough  # run_test.py compares 8 devices with one
def test_a_run_on_8_then_4_then_1_devices_sees_what_it_would_on_one(
    tmp_path, plan, monkeypatch, tell
):
    train(tmp_path / "straight", run=LEDGER)
    want = ledger(tmp_path / "straight")
    for count, killed_at in ((8, 5), (4, 9), (1, None)):
        build = lambda config, n=count: build_experiment(config, jax.devices()[:n])
        monkeypatch.setattr(runs, "build_experiment", build)
        if killed_at is None:
            train(tmp_path / "run", run=LEDGER)
        else:
            plan.at_step(killed_at, kill)
            with pytest.raises(KilledError):
                train(tmp_path / "run", plan, run=LEDGER)
    got = ledger(tmp_path / "run")
    assert [row["step"] for row in got] == [*range(1, STEPS + 1)], "each step is written once"
    for name in ("ids", "key"):
        assert [row[name] for row in got] == [row[name] for row in want]
    np.testing.assert_allclose(losses(got), losses(want), rtol=1e-4)
    tell("8, then 4, then 1 devices", "the same images and keys in each step", "nothing")


def test_a_killed_run_writes_the_ledger_of_one_that_was_not(tmp_path, plan, tell):
    train(tmp_path / "straight", run=LEDGER)
    plan.at_step(6, kill)
    with pytest.raises(KilledError):
        train(tmp_path / "run", plan, run=LEDGER)
    with (tmp_path / "run" / "ledger.jsonl").open("a") as file:
        file.write('{"step": 6, "ids": [1')  # torn
    train(tmp_path / "run", run=LEDGER)
    assert ledger(tmp_path / "run") == ledger(tmp_path / "straight")
    assert [row["ids"] for row in ledger(tmp_path / "run")] == [
        Order(160, 16, 0).ids(step).tolist() for step in range(STEPS)
    ]
    tell("killed at step 6 with a ledger", "its lines are those of a straight run", "nothing")


@pytest.fixture
def poison(monkeypatch):
    """Makes the loss of step 6 NaN."""
    build = runs.train_step

    def poisoned(experiment):
        method = experiment.method

        def loss(params, state, *rest):
            value, out = method.loss(params, state, *rest)
            value += jnp.where(state.step == 5, jnp.nan, 0.0)
            return value, out._replace(metrics={**out.metrics, "loss": value})

        method_with_nan = dataclasses.replace(method, loss=loss)
        return build(dataclasses.replace(experiment, method=method_with_nan))

    monkeypatch.setattr(runs, "train_step", poisoned)


def images_of(step):
    return Order(160, 16, 0).ids(step - 1).tolist()


def test_a_step_that_is_not_finite_stops_the_run_and_names_its_images(tmp_path, poison, tell):
    with pytest.raises(NonFiniteError, match="not finite at step 6"):
        train(tmp_path)
    assert Checkpoints(tmp_path).steps() == [4]
    (row,) = map(json.loads, (tmp_path / "non_finite.jsonl").read_text().splitlines())
    assert (row["step"], row["ids"]) == (6, images_of(6))
    tell("NaN in a batch", "not applied; stopped in words, images named", "nothing")


def test_a_step_that_is_not_finite_can_be_skipped(tmp_path, poison, caplog, tell):
    state = train(tmp_path, run={"non_finite": "skip"})
    assert int(state.step) == STEPS
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    assert [row["step"] for row in read_metrics(tmp_path)] == [*range(1, STEPS + 1)]
    assert "not finite at step 6" in caplog.text
    tell("NaN in a batch, non_finite=skip", "not applied; images named; went on", "that step")


def test_a_run_can_be_rolled_back_past_a_step_that_is_not_finite(tmp_path, poison, caplog, tell):
    runs.train(CONFIG | {"run": CONFIG["run"] | {"non_finite": "roll back"}}, str(tmp_path))
    assert [row["step"] for row in read_metrics(tmp_path)] == [*range(1, STEPS + 1)]
    assert Checkpoints(tmp_path).find() == STEPS
    assert "Rolled back to step 4; the batches until step 6 are left out." in caplog.text
    tell("NaN in a batch, non_finite=roll back", "went on from step 4 behind it", "steps 5 and 6")
