"""Two runs in one workdir: the second one is refused, and the first one does not notice."""

import os

import pytest

from simclr_jax.cli import app
from tests.faults.small_run import assert_nothing_lost, train

pytestmark = pytest.mark.integration


def test_a_second_run_in_a_workdir_is_refused_and_the_first_goes_on(
    straight, tmp_path, plan, capsys, tell
):
    def second():
        assert app.run(lambda: train(tmp_path / "run"), ["train"], required=()) == app.TRY_AGAIN

    plan.at_step(6, second)
    assert_nothing_lost(tmp_path / "run", train(tmp_path / "run", plan), straight[1])
    assert f"is in use: process {os.getpid()} on" in capsys.readouterr().err
    assert not (tmp_path / "run" / "lease.json").exists()
    tell("a second run in one workdir", "refused with exit code 75, the first named", "nothing")
