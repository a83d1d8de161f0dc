"""The table of faults: each test says what it did, what happened and what was lost."""

import contextlib

import jax
import pytest

from simclr_jax import run as runs
from simclr_jax.build.experiment import build_experiment
from simclr_jax.models.ssl import ENCODERS
from simclr_jax.train.checkpoint import Checkpoints
from tests.faults.plan import Plan
from tests.faults.small_run import STEPS, train
from tests.tiny import TinyEncoder


@contextlib.contextmanager
def small_runs():
    """Runs are of a network that compiles in a second, on one device."""
    one_device = lambda config: build_experiment(config, jax.devices()[:1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENCODERS, "tiny", TinyEncoder)
        patch.setattr(runs, "build_experiment", one_device)
        yield


@pytest.fixture(autouse=True)
def tiny():
    """Makes the runs of a test small."""
    with small_runs():
        yield


@pytest.fixture(scope="session")
def straight(tmp_path_factory):
    """A run without faults: its workdir, with checkpoints of steps 8 and 11, and its last state."""
    workdir = tmp_path_factory.mktemp("straight")
    with small_runs():
        state = train(workdir)
    assert int(state.step) == STEPS
    assert Checkpoints(workdir).steps() == [8, 11]
    return workdir, state


@pytest.fixture
def plan(monkeypatch):
    """Returns a plan without a fault yet."""
    return Plan(monkeypatch)


@pytest.fixture
def tell(record_property):
    """Returns what adds a row to the table: (fault, what happened, what was lost)."""
    return lambda *row: record_property("fault", row)


def pytest_terminal_summary(terminalreporter):
    """Prints the rows of the tests that passed."""
    passed = terminalreporter.getreports("passed")
    rows = [value for report in passed for name, value in report.user_properties if name == "fault"]
    if rows:
        terminalreporter.section("faults: what was done -> what happened -> what was lost")
        for row in sorted(set(map(tuple, rows))):
            terminalreporter.write_line(" -> ".join(row))
