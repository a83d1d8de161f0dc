"""Profiles: the table of a run from end to end."""

import re

import pytest

from simclr_jax.bench.profile import ProfileSteps
from simclr_jax.core.errors import UserError
from simclr_jax.run import train
from tests.tiny import runs_on


@pytest.mark.integration
def test_a_run_prints_its_most_expensive_operations(tiny_config, tmp_path, capsys):
    tiny_config["data"]["fraction"] = 0.05  # 12 steps
    tiny_config["evals"] = {}
    watch = lambda run: [ProfileSteps(str(tmp_path / "trace"), run)]
    with runs_on(1):
        train(tiny_config, str(tmp_path / "run"), watch=watch)
    trace, header, *rows = capsys.readouterr().out.splitlines()
    assert trace.startswith("Trace of 5 steps: ")
    assert trace.endswith(".xplane.pb")
    assert header.split() == ["ms", "a", "step", "share", "operation", "pass", "where", "result"]
    found = [re.match(r"([\d.]+) +([\d.]+)%  ", row) for row in rows]
    milliseconds = [float(row[1]) for row in found if row]
    assert len(milliseconds) == 10
    assert milliseconds == sorted(milliseconds, reverse=True)
    assert any("backward" in row for row in rows)


@pytest.mark.integration
def test_a_run_that_is_too_short_is_refused(tiny_config, tmp_path):
    tiny_config["data"]["fraction"] = 0.02  # 6 steps
    with pytest.raises(UserError, match="traces steps 4 to 8, and the run has 6"):
        train(tiny_config, str(tmp_path), watch=lambda run: [ProfileSteps(str(tmp_path), run)])
