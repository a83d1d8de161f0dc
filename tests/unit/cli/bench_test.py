"""`bench --check` as a user calls it, with steps that are counted at once."""

import functools
import json

import jaxlib
import pytest

from simclr_jax.bench import counts
from tests.program import run

STEP, COMPILER = "simclr_digits on 8 CPU devices", f"jaxlib {jaxlib.version.__version__}"


def count_at_once(path):
    counts.KEPT = path
    counts.ON_CPU = (counts.Step("simclr_digits", 8),)
    counts.counts_of = lambda step: {"flops": 1000, "all-reduce": 42}


def check(path, table, *flags):
    path.write_text(json.dumps(table))
    return run("bench", "--check", *flags, before=functools.partial(count_at_once, path))


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
