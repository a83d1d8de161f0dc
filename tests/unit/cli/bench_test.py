"""`bench --check` as a user calls it, with steps that are counted at once."""

import json
import subprocess
import sys

import jaxlib
import pytest

PROGRAM = """
import pathlib, sys
from simclr_jax.bench import counts
from simclr_jax.cli import bench
counts.KEPT = pathlib.Path(sys.argv[1])
counts.ON_CPU = (counts.Step("simclr_digits", 8),)
counts.counts_of = lambda step: {"flops": 1000, "all-reduce": 42}
sys.exit(bench.main(["bench", "--check", *sys.argv[2:]]))
"""
STEP, COMPILER = "simclr_digits on 8 CPU devices", f"jaxlib {jaxlib.version.__version__}"


def check(path, table, *flags):
    path.write_text(json.dumps(table))
    command = [sys.executable, "-c", PROGRAM, str(path), *flags]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.integration
def test_a_count_that_grew_is_named_with_what_keeps_it(tmp_path):
    table = {COMPILER: {STEP: {"flops": 900, "all-reduce": 43}}}
    result = check(tmp_path / "counts.json", table)
    assert result.returncode == 1, result.stderr
    assert f"GREW  {STEP}: flops 900 -> 1,000 (+11.1%)" in result.stdout
    assert f"{STEP}: all-reduce 43 -> 42 (-2.3%)" in result.stdout
    assert "python -m simclr_jax bench --check --renew" in result.stdout


@pytest.mark.integration
def test_counts_that_are_not_kept_yet_are_a_mistake_and_renewing_keeps_them(tmp_path):
    table = {"jaxlib 0": {STEP: {"flops": 1}}}
    path = tmp_path / "counts.json"
    result = check(path, table)
    assert (result.returncode, result.stdout) == (2, "")
    assert f"No counts of {STEP} by {COMPILER} are kept" in result.stderr
    assert check(path, table, "--renew").returncode == 0
    assert json.loads(path.read_text()) == {
        **table,
        COMPILER: {STEP: {"flops": 1000, "all-reduce": 42}},
    }
