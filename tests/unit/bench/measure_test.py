"""Times: which samples count, what stands in the table, and a row from end to end."""

import ast
import sys
from pathlib import Path

import pytest

from simclr_jax.bench import measure, table
from simclr_jax.bench.measure import Sample, Times
from simclr_jax.bench.rows import ROWS, Row
from simclr_jax.core.errors import UserError

ROW = Row("loss", "NT-Xent", "lightly", 0.08, "loss", {"pairs": 8})


def test_samples_of_a_busy_machine_do_not_count():
    samples = [Sample(1.0, 0.0), Sample(9.0, 0.06), Sample(3.0, 0.05), Sample(2.0, 0.0)]
    assert Times.of(samples) == Times(median=2.0, low=1.5, high=2.5, quiet=3, samples=4)


def test_where_none_is_quiet_all_count_and_the_table_says_so():
    times = Times.of([Sample(1.0, 0.5), Sample(3.0, 0.5)])
    assert (times.median, times.quiet, times.samples) == (2.0, 0, 2)


def line(ours, theirs):
    keys = ("median", "low", "high", "quiet", "samples")
    sides = [side and dict(zip(keys, side, strict=True)) for side in (ours, theirs)]
    row = {"what": "a step", "peer": "lightly", "ours": sides[0], "theirs": sides[1], "bar": 1.2}
    return table.cells({**row, "ratio": ours[0] / theirs[0] if theirs else None})


def test_a_line_of_the_table():
    assert line((3.0214, 2.9, 3.2, 9, 9), (0.0723, 0.07, 0.08, 9, 12)) == [
        "a step", "3.02 s (2.90 to 3.20)", "lightly", "72.3 ms (70.0 to 80.0)", "41.79", "1.20",
        "9 of 9, 9 of 12",
    ]  # fmt: skip


def test_a_line_without_a_peer_has_no_ratio():
    assert line((0.0123, 0.012, 0.013, 2, 2), None)[2:5] == ["-", "not run", "-"]


def test_the_time_of_other_processes_is_told_from_ours(monkeypatch):
    machine, own, clock = iter([100.0, 101.5]), iter([10.0, 11.2]), iter([0.0, 0.75])
    monkeypatch.setattr(measure, "_machine_seconds", lambda: next(machine))
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(measure.psutil, "cpu_count", lambda: 2)
    found = measure.sample(lambda: 0.7, lambda: next(own))
    assert found.seconds == 0.7
    assert found.others == pytest.approx(0.3 / (0.75 * 2))  # of two CPUs for 0.75 s


def test_a_python_without_the_other_programs_is_refused():
    with pytest.raises(UserError, match=r"No module named .*launch/peer_env.sh makes"):
        measure.require_peers(sys.executable)
    with pytest.raises(UserError, match="--peer_python=/none/python: No such file"):
        measure.require_peers("/none/python")


@pytest.mark.integration
def test_a_row_is_timed_in_a_process_of_its_own():
    found = measure.measure(ROW, None, 1)
    assert found["theirs"] is None
    assert found["ratio"] is None
    assert 0 < found["ours"]["low"] <= found["ours"]["median"] <= found["ours"]["high"]
    assert 1 <= found["ours"]["samples"] <= measure.MAX_ROUNDS


def test_both_sides_know_every_row():
    assert {row.kind for row in ROWS} == _kinds("ours") == _kinds("peers")


def _kinds(module):
    """Returns the keys of KINDS by the text: the programs of the other side are not here."""
    tree = ast.parse(Path(measure.__file__).with_name(f"{module}.py").read_text())
    (kinds,) = [n.value for n in tree.body if isinstance(n, ast.AnnAssign)]
    assert isinstance(kinds, ast.Dict)
    keys = [key for key in kinds.keys if key is not None]
    assert len(keys) == len(kinds.keys)
    return set(map(ast.literal_eval, keys))
