"""Signals: a run stops after its step, with a checkpoint, and goes on later as if nothing was."""

import signal

import pytest

from simclr_jax.cli import app
from simclr_jax.train.checkpoint import Checkpoints
from tests.faults.plan import send
from tests.faults.small_run import assert_nothing_lost, train

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGHUP", 129)])
def test_a_signal_saves_the_step_it_comes_in(straight, tmp_path, plan, capfd, tell, name, code):
    workdir, before = tmp_path / "run", signal.getsignal(signal.SIGINT)
    plan.at_step(6, send(signal.Signals[name]))
    assert app.run(lambda: train(workdir, plan), ["train"], required=()) == code
    assert Checkpoints(workdir).steps() == [4, 6]
    says = capfd.readouterr().err
    assert f"Stopped by {name} after a checkpoint at step 6" in says
    assert ("Ctrl-C again ends at once" in says) == (name == "SIGINT")
    assert signal.getsignal(signal.SIGINT) == before
    assert_nothing_lost(workdir, train(workdir), straight[1])
    tell(name, f"checkpoint of its step, exit code {code}", "nothing")


def test_after_one_ctrl_c_the_next_has_its_default_effect(straight, tmp_path, plan, tell):
    seen = []

    def interrupt():
        send(signal.SIGINT)()
        seen.append(signal.getsignal(signal.SIGINT))

    plan.at_step(6, interrupt)
    assert app.run(lambda: train(tmp_path / "run", plan), ["train"], required=()) == 130
    assert seen == [signal.SIG_DFL]
    tell("a second Ctrl-C", "ends the process at once", "the steps since the last checkpoint")


def test_a_signal_that_was_ignored_stays_so(straight, tmp_path, plan, monkeypatch, tell):
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        plan.at_step(6, send(signal.SIGHUP))
        assert_nothing_lost(tmp_path / "run", train(tmp_path / "run", plan), straight[1])
    finally:
        signal.signal(signal.SIGHUP, previous)
    tell("SIGHUP under nohup", "trains on", "nothing")
