"""doctor: the verdict on a workdir in words, and as an exit code."""

import json

import pytest

from simclr_jax.cli import recipe
from tests.program import run


@pytest.fixture
def doctor(tmp_path):
    """Runs the verb on a workdir of the demo with one row an epoch."""

    def judge(losses):
        config = recipe.load("simclr_digits", []).config
        (tmp_path / "config.json").write_text(json.dumps({"version": 2, **config}))
        rows = [
            {"step": 31 * (i + 1), "epoch": i + 1.0, "loss": loss, "loss_chance": 5.541}
            | {"goodput": 0.9135}
            for i, loss in enumerate(losses)
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "metrics.jsonl").write_text(lines)
        return run("doctor", f"--workdir={tmp_path}")

    return judge


def test_a_run_at_chance_ends_with_1_and_what_to_try(doctor):
    result = doctor([5.54] * 50)
    assert result.returncode == 1, result.stderr
    assert "1,550 of about 1,551" in result.stdout
    assert "share of all time spent in steps  0.9135\n" in result.stdout
    assert "The loss is at chance: nothing has been learned. (5.54, and chance is" in result.stdout
    assert "  Try: look at the views" in result.stdout


def test_a_run_that_learns_ends_with_0(doctor):
    result = doctor([4.0 - i / 50 for i in range(50)])
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("\n\nNothing wrong was found.\n")


def test_a_run_without_metrics_ends_with_2(doctor):
    result = doctor([])
    assert result.returncode == 2
    assert "has no metrics yet" in result.stderr
